"""The hosts' root file system: built once for a release and a recipe, read-only from then on.

A cache entry is a folder RELEASE-HASH with `root/` and the image `busybox.tar`; the hash is over everything that decides
what is in it. It is built under another name and renamed when whole, so an entry that exists can be used. The
builder is in the lab's cgroup and inherits the cache's lock: one that outlives a killed `up` still keeps others out, and
`down` can end it.
"""

import hashlib
import inspect
import json
import os
import subprocess
from pathlib import Path

import cgroups
import image
import machine
from settings import CACHE, STATES, Failure

# One place for what is in a host. Where a release has no package of a name, it is listed with its release below.
PACKAGES = """
    systemd systemd-sysv systemd-resolved dbus udev kmod
    iproute2 iptables nftables iputils-ping procps socat tcpdump netcat-openbsd curl jq
    docker.io etcd-server etcd-client
    busybox-static python3-minimal ca-certificates
    cloud-init
    libvirt-daemon-system libvirt-clients qemu-system-x86 qemu-utils
""".split()
# Masked: a host has no libvirt until `scripts/lab libvirt` gives it one.
LIBVIRT_UNITS = """
    libvirtd.service libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket virtlogd.service virtlogd.socket virtlogd-admin.socket
""".split()
PACKAGES_OF = {"trixie": ["docker-cli"], "bookworm": []}

# Run in the new root, with the units that are masked. Hosts get their addresses from networkd; what has no work in a container is masked. cloud-init is there for its
# readers of metadata, which tests run; it sets no host up.
CUSTOMIZE = """
set -eu
systemctl --root="$1" --quiet enable systemd-networkd.service systemd-resolved.service docker.service docker.socket etcd.service
systemctl --root="$1" --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer \\
    console-getty.service getty@tty1.service systemd-pstore.service systemd-firstboot.service \\
    libvirt-guests.service libvirtd-tls.socket libvirtd-tcp.socket @LIBVIRT@
mkdir -p "$1/var/log/journal" "$1/etc/cloud"
: > "$1/etc/cloud/cloud-init.disabled"
: > "$1/etc/machine-id"
rm -f "$1/var/lib/dbus/machine-id" "$1/etc/hostname"
""".replace("@LIBVIRT@", " ".join(LIBVIRT_UNITS))
_LEAVE_OUT = ["/usr/share/man/*", "/usr/share/locale/*", "/usr/share/doc/*"]


def entry(release):
    recipe = repr((packages(release), CUSTOMIZE, _LEAVE_OUT, inspect.getsource(image)))
    return CACHE / f"{release}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def packages(release):
    return sorted(PACKAGES + PACKAGES_OF[release])


def ensure(lab, release):
    """Gives the cache entry, built if it is not there."""
    wanted = entry(release)
    if wanted.exists():
        return wanted
    CACHE.mkdir(parents=True, exist_ok=True)
    with machine.locked(CACHE / ".lock", limit=900) as lock:
        _remove_unfinished()
        if not wanted.exists():
            machine.say(f"building the hosts' root file system, {release} (once; takes about a minute)")
            _build(lab, release, wanted, lock)
            machine.say(f"root file system is in {wanted}")
    return wanted


def _build(lab, release, wanted, lock):
    unfinished = CACHE / f".new-{wanted.name}.{os.getpid()}"
    (unfinished / "tmp").mkdir(parents=True)
    group = f"{lab.cgroup}/build"
    cgroups.make(group)
    hook = unfinished / "customize"
    hook.write_text(CUSTOMIZE)
    # mmdebstrap mounts /proc, /sys and more into the new root; in a mount namespace of its own they end with it.
    command = [
        "unshare", "--mount", "--propagation", "slave", "mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", f"--include={','.join(packages(release))}",
        '--aptopt=Acquire::Languages "none"', *[f"--dpkgopt=path-exclude={pattern}" for pattern in _LEAVE_OUT],
        f'--customize-hook=sh {hook} "$1"', "--skip=output/dev", release, str(unfinished / "root"), *_mirror()]
    log = unfinished / "log"
    with log.open("w") as output:
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, check=False,
            env=dict(os.environ, TMPDIR=str(unfinished / "tmp")), start_new_session=True,
            pass_fds=[lock.descriptor], preexec_fn=cgroups.enter(group, os.getpid()))
    if result.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        machine.remove_tree(unfinished)
        raise Failure(f"mmdebstrap could not build {release}:\n{tail}")
    image.build(unfinished / "root/usr/bin/busybox", unfinished / "busybox.tar")
    machine.remove_tree(unfinished / "tmp")
    hook.unlink()
    cgroups.remove(group)
    unfinished.rename(wanted)


def _mirror():
    """Debian's mirror as this machine has it in its sources, so that a local one is used; else mmdebstrap's own choice."""
    files = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for file in files:
        try:
            lines = file.read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(("deb ", "URIs:")):
                for word in line.split():
                    if word.startswith(("http://", "https://")) and word.rstrip("/").endswith("/debian"):
                        return [word]
    return []


def _remove_unfinished():
    for folder in CACHE.glob(".new-*"):
        machine.remove_tree(folder)


def remove_unfinished():
    """What a killed build left; another lab's build, which holds the lock, is let be."""
    if CACHE.exists():
        lock = machine.Lock(CACHE / ".lock")
        if lock.try_take():
            _remove_unfinished()
            lock.free(remove=True)
            _remove_if_empty(CACHE)


def remove_cache():
    used = [file.parent.name for file in STATES.glob("*/lab.json")
            if Path(json.loads(file.read_text())["entry"]).is_relative_to(CACHE)]
    if used:
        raise Failure(f"the cache stays, labs stand on it: {' '.join(sorted(used))}")
    if CACHE.exists():
        lock = machine.Lock(CACHE / ".lock")
        if not lock.take(60):
            raise Failure(f"the cache is in use: waited for {lock.owner_text()}")
        for folder in CACHE.iterdir():
            if folder.is_dir():
                machine.remove_tree(folder)
        lock.free(remove=True)
        _remove_if_empty(CACHE)


def _remove_if_empty(folder):
    try:
        folder.rmdir()
    except OSError:
        pass
