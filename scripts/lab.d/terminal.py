"""`exec`: a command in a host as if it were typed there."""

import fcntl
import os
import select
import signal
import subprocess
import termios
import tty

from host import ENVIRONMENT, NSENTER
from settings import Failure

# The slave of a pty, opened through its master: it then belongs to the host's own devpts, whatever is mounted here.
_TIOCGPTPEER = 0x5441
_TIOCSPTLCK = 0x40045431


def execute(host, command):
    """Never returns without a terminal: this process becomes the command. With one, gives the exit code."""
    leader = host.leader()
    if leader is None:
        raise Failure(f"{host.name} is not running")
    enter = [NSENTER, "-t", str(leader), "-a"]
    if not (os.isatty(0) and os.isatty(1)):
        os.execve(NSENTER, [*enter, *command], ENVIRONMENT)
    return _with_terminal(host, leader, enter, command)


def _with_terminal(host, leader, enter, command):
    """A terminal of the host's own, so that job control and `tty` work there, relayed to the one here."""
    master = os.open(f"/proc/{leader}/root/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, _TIOCSPTLCK, b"\0\0\0\0")
    slave = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)

    def take_size(*_):
        fcntl.ioctl(master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))

    take_size()
    signal.signal(signal.SIGWINCH, take_size)
    child = subprocess.Popen(
        [*enter, "setsid", "--ctty", "--wait", *command], stdin=slave, stdout=slave, stderr=slave, env=ENVIRONMENT)
    os.close(slave)
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        _relay(master)
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
    code = child.wait()
    return code if code >= 0 else 128 - code


def _relay(master):
    sources = [0, master]
    while True:
        for source in select.select(sources, [], [])[0]:
            try:
                data = os.read(source, 65536)
            except OSError:
                # EIO from the master: the last process on the other side closed it.
                data = b""
            if source == master:
                if not data:
                    return
                _write_all(1, data)
            elif data:
                _write_all(master, data)
            else:
                sources.remove(0)


def _write_all(target, data):
    while data:
        data = data[os.write(target, data):]
