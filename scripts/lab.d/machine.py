"""The machine the lab runs on: commands, missing packages, locks, waits, progress."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

from settings import Failure

_started = time.monotonic()
_print_lock = threading.Lock()


def say(text):
    with _print_lock:
        print(f"{time.monotonic() - _started:6.1f} s  {text}", flush=True)


def run(*command, check=True, timeout=60, **options):
    """Runs a short command and gives its result; its words go into the failure, not onto the screen."""
    command = [str(word) for word in command]
    try:
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout,
            stdin=options.pop("stdin", subprocess.DEVNULL), **options)
    except subprocess.TimeoutExpired:
        raise Failure(f"{' '.join(command)}: no end after {timeout} s") from None
    except FileNotFoundError:
        raise Failure(f"{command[0]}: not on this machine") from None
    if check and result.returncode != 0:
        words = (result.stderr or result.stdout).strip()
        raise Failure(f"{' '.join(command)}: exit code {result.returncode}: {words}")
    return result


def wait_for(what, limit, probe, every=0.05, hint=None):
    """Asks `probe` until it gives something true; past `limit` seconds that is a failure, with `hint()` added."""
    end = time.monotonic() + limit
    while True:
        answer = probe()
        if answer:
            return answer
        if time.monotonic() > end:
            more = f": {hint()}" if hint else ""
            raise Failure(f"{what}: not within {limit} s{more}")
        time.sleep(every)


def need_root():
    if os.geteuid() != 0:
        raise Failure("only root can do this")


def remove_tree(folder):
    """Removes a folder and nothing that is mounted in it."""
    inside = [point for point in mount_points() if point.is_relative_to(folder)]
    for point in reversed(inside):
        run("umount", "-l", point, check=False)
    left = [str(point) for point in mount_points() if point.is_relative_to(folder)]
    if left:
        raise Failure(f"{folder} is not removed: {' '.join(left)} cannot be unmounted")
    if folder.exists():
        shutil.rmtree(folder)


def mount_points():
    # Octal escapes stand for white space in names.
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return [Path(line.split()[1].encode().decode("unicode_escape")) for line in lines]


def need_plain_file_system(folder, variable):
    """In a container the usual places may lie on an overlay, which cannot carry the hosts' own."""
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if run("stat", "-f", "-c", "%T", existing).stdout.strip() == "overlayfs":
        raise Failure(f"{folder} is on an overlay, which cannot hold the hosts' disks: name another folder in {variable}")


# What must be there, and the Debian package that brings it.
_NEEDED = {
    "mmdebstrap": "mmdebstrap",
    "systemd-nspawn": "systemd-container",
    "journalctl": "systemd",
    "ip": "iproute2",
    "bridge": "iproute2",
    "nsenter": "util-linux",
    "unshare": "util-linux",
    "mount": "mount",
    "/usr/share/keyrings/debian-archive-keyring.gpg": "debian-archive-keyring",
}


def install_missing():
    """Brings the packages the lab itself needs; a machine that has them all is not asked anything."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    os.environ["PATH"] = path
    packages = sorted({
        package for thing, package in _NEEDED.items()
        if not (Path(thing).exists() if thing.startswith("/") else shutil.which(thing))})
    if not packages:
        return
    if not shutil.which("apt-get"):
        raise Failure(f"missing here, and there is no apt-get to bring it: {' '.join(packages)}")
    say(f"installing {' '.join(packages)}")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    install = ["apt-get", "-qq", "-y", "-o", "DPkg::Lock::Timeout=120", "--no-install-recommends", "install", *packages]
    # The package lists of a fresh machine are empty or old: fetch them only when the first try fails.
    if run(*install, check=False, timeout=600, env=environment).returncode != 0:
        run("apt-get", "-qq", "-o", "DPkg::Lock::Timeout=120", "update", timeout=300, env=environment)
        run(*install, timeout=600, env=environment)


class Lock:
    """An flock on a file whose name may be removed: whoever gets it checks that it is still the file of that name.

    The file holds its owner's pid, for the words to those who wait. The descriptor is not inherited unless
    handed on, so an owner that was killed frees the lock at once.
    """

    def __init__(self, path):
        self.path = Path(path)
        self.descriptor = None

    def try_take(self):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return False
            try:
                current = os.stat(self.path).st_ino == os.fstat(descriptor).st_ino
            except FileNotFoundError:
                current = False
            if current:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                self.descriptor = descriptor
                return True
            os.close(descriptor)

    def take(self, limit):
        """True when taken; says so when it has to wait for more than a second."""
        start, said = time.monotonic(), False
        while not self.try_take():
            waited = time.monotonic() - start
            if waited > limit:
                return False
            if waited > 1 and not said:
                say(f"waiting for {self.owner_text()}")
                said = True
            time.sleep(0.05)
        return True

    def owner(self):
        try:
            return int(self.path.read_text() or 0)
        except (FileNotFoundError, ValueError):
            return 0

    def owner_text(self):
        return f"another scripts/lab (pid {self.owner()}) to end"

    def free(self, remove=False):
        if self.descriptor is not None:
            if remove:
                self.path.unlink(missing_ok=True)
            os.close(self.descriptor)
            self.descriptor = None


def replace_file(path, text):
    """All of the new text or all of the old, whenever the run is cut."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.write_text(text)
    os.replace(unfinished, path)


@contextmanager
def locked(path, limit=600):
    lock = Lock(path)
    if not lock.take(limit):
        raise Failure(f"{path} is still held after {limit} s: waited for {lock.owner_text()}")
    try:
        yield lock
    finally:
        lock.free()


def in_threads(function, items):
    """Runs `function(item)` for all at once; when some failed, all have ended and the first failure is raised."""
    failures = []

    def one(item):
        try:
            function(item)
        except Exception as failure:  # noqa: BLE001 (handed on below)
            failures.append(failure)

    threads = [threading.Thread(target=one, args=(item,)) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures[1:]:
        print(f"lab: {failure}", file=sys.stderr)
    if failures:
        raise failures[0]
