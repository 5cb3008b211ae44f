"""One run: an initramfs of the base and the programs, a machine, its console."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import archive
import machine
from settings import Failure

# What of the console is kept for the case that the machine never gets to the program.
_TAIL = 40


def run(base, program, rest, tools, limit, memory):
    """Runs the program with its arguments; its output is ours, and its exit code is given back."""
    with tempfile.TemporaryDirectory(prefix="stampede-kernel-") as folder:
        initramfs = Path(folder) / "initramfs"
        _pack(initramfs, base, program, rest, tools)
        command = [
            "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(memory),
            "-kernel", str(base / "vmlinuz"), "-initrd", str(initramfs), "-append", "console=ttyS0 quiet panic=-1 oops=panic",
            "-display", "none", "-monitor", "none", "-serial", "stdio", "-nic", "none", "-no-reboot", "-nodefaults"]
        return _watch(command, limit)


def _watch(command, limit):
    qemu = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    late = threading.Event()

    def end():
        late.set()
        qemu.kill()

    timer = threading.Timer(limit, end)
    timer.start()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    tail, code, begun = [], None, False
    try:
        for raw in qemu.stdout:
            line = raw.decode(errors="replace").rstrip("\r\n")
            word = line.partition("@@ ")[2]
            if word == "begin":
                begun = True
            elif begun and (ended := re.fullmatch(r"end (\d+)", word)):
                # The last line of the program may have had no end of its own.
                if not line.startswith("@@"):
                    print(line.partition("@@ ")[0], flush=True)
                code = int(ended[1])
            elif begun and code is None:
                print(line, flush=True)
            tail = [*tail[-_TAIL:], line]
        qemu.wait(30)
    finally:
        timer.cancel()
        if qemu.poll() is None:
            qemu.kill()
            qemu.wait()
    if code is None:
        why = f"not done within {limit} s" if late.is_set() else "the machine went down before the program ended"
        raise Failure("\n".join([f"{why}; the last of its console:", *tail]))
    return code


def _pack(initramfs, base, program, rest, tools):
    files = {}
    with tempfile.TemporaryDirectory(prefix="stampede-strip-") as scratch:
        _add(files, _stripped(program, Path(scratch) / "program"), "bin/program")
        for tool in tools:
            path = shutil.which(tool, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
            if path is None:
                raise Failure(f"{tool}: not on this machine")
            path = Path(path)
            built = _stripped(path, Path(scratch) / path.name) if "/" in tool else path
            _add(files, built, f"bin/{path.name}")
        extra = Path(scratch) / "extra.cpio"
        with archive.Writer(extra) as out:
            made = {"bin", "lib", "."}
            for name, source in files.items():
                for parent in reversed(Path(name).parents):
                    if str(parent) not in made:
                        made.add(str(parent))
                        out.directory(str(parent))
                out.file(name, source.read_bytes(), 0o755)
            out.file("command", f"exec /bin/program {shlex.join(rest)}\n".encode(), 0o644)
        with initramfs.open("wb") as whole:
            for part in (base / "base.cpio", extra):
                with part.open("rb") as source:
                    shutil.copyfileobj(source, whole)


def _stripped(program, to):
    """Debug information is most of a program's size, and all of it would be unpacked into memory."""
    machine.run("strip", "--strip-debug", "-o", to, program, timeout=120)
    return to


def _add(files, source, name):
    """A program with the libraries it links, each where the loader looks for it."""
    files[name] = source.resolve()
    listed = machine.run("ldd", source, check=False).stdout
    for path in re.findall(r"(/\S+) \(0x", listed):
        files[path.removeprefix("/")] = Path(path).resolve()
