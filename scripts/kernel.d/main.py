"""Runs programs under a kernel of their own: the distribution's cloud kernel, in a machine that qemu emulates.

What this machine's own kernel may lack (ESP, above all) is tried there. It needs no virtualization extensions and no
image: the root file system is an initramfs of busybox, the kernel's modules, the programs and the libraries they link.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lab.d")]

import guest  # noqa: E402
import kernel  # noqa: E402
from settings import Failure  # noqa: E402


def arguments():
    parser = argparse.ArgumentParser(
        prog="scripts/kernel", description="Runs a program under a kernel of its own; its output and exit code are this one's.")
    parser.add_argument("--with", dest="tools", action="append", default=[], metavar="PROGRAM",
                        help="a program of this machine, or one by its path, that is to be there too (besides ip, bridge and busybox's)")
    parser.add_argument("--limit", type=int, default=900, metavar="SECONDS", help="how long it may take (900)")
    parser.add_argument("--memory", type=int, default=1024, metavar="MiB", help="memory of the machine (1024)")
    parser.add_argument("program", help="a program, by its path")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="argument", help="its arguments")
    return parser.parse_args()


def main():
    words = arguments()
    base = kernel.ensure()
    tools = ["ip", "bridge", *words.tools]
    return guest.run(base, Path(words.program), words.rest, tools, limit=words.limit, memory=words.memory)


try:
    sys.exit(main())
except Failure as failure:
    print(f"kernel: {failure}", file=sys.stderr)
    sys.exit(125)
