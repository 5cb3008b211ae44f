"""The way in: `exec` and `logs` are here and import little, as tests run them often; the rest is in commands.py."""

import os
import sys

import machine
import terminal
from record import Record
from settings import Failure, Lab


def execute(lab, name, words):
    return terminal.execute(Record.need(lab).host(name), words or ["bash", "-l"])


def logs(lab, name, words):
    host = Record.need(lab).host(name)
    command = ["journalctl", "--no-pager"]
    if words and not words[0].startswith("-"):
        command += ["-u", words.pop(0)]
    if host.leader() is not None:
        return terminal.execute(host, [*command, *words])
    # A host that is off: its disk has the journal.
    return os.execvp("journalctl", [*command, "-D", str(host.folder / "upper/var/log/journal"), *words])


def _take_rest(words):
    """These take the rest of the line as it is, options and all."""
    if not words or words[0].startswith("-"):
        raise Failure("which host?")
    rest = words[1:]
    return words[0], rest[1:] if rest[:1] == ["--"] else rest


def main(words):
    command = words[0] if words else "help"
    try:
        lab = Lab.from_environment()
        if command in ("exec", "logs"):
            machine.need_root()
            return (execute if command == "exec" else logs)(lab, *_take_rest(words[1:]))
        if command == "_keep":
            import keeper

            record = Record.need(lab)
            return keeper.main(record.host(words[1]), record.entry / "root")
        import commands

        return commands.run(lab, words or ["help"])
    except Failure as failure:
        print(f"lab: {failure}", file=sys.stderr)
        # As docker and nsenter do: not to be taken for the command's own exit code.
        return 125 if command == "exec" else 1
    except KeyboardInterrupt:
        print("lab: interrupted; `scripts/lab down` takes away what is there", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
