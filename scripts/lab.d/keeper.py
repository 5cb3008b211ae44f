"""A host's keeper: the process that is its power supply.

It runs in the host's cgroup, the lab's network namespace and a mount namespace of its own. There it mounts the host's
overlay and a /run of its own, so that nspawn's mounts and files there go with it, and starts nspawn as often as the
host reboots. When the host powers off, or nspawn fails, the keeper ends.
"""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import cgroups
import machine
import network
from settings import Failure

# nspawn's exit code for "reboot me", with --keep-unit.
REBOOT = 133


def keep(host, release_root):
    root = _mount(host, release_root)
    boot = f"{host.cgroup}/boot"
    while True:
        cgroups.make(boot)
        nspawn = subprocess.Popen(
            _command(host, root, release_root), stdin=subprocess.DEVNULL, cwd="/",
            env=dict(os.environ, SYSTEMD_NSPAWN_UNIFIED_HIERARCHY="1", SYSTEMD_NSPAWN_LOCK="0"),
            preexec_fn=cgroups.enter(boot, os.getpid()))
        _cut_again(host, nspawn)
        code = nspawn.wait()
        cgroups.kill(boot)
        cgroups.remove(boot)
        network.unplug(host.lab, host.name)
        print(f"lab: nspawn ended with {code}", flush=True)
        if code != REBOOT:
            return 0 if code == 0 else 1


def _mount(host, release_root):
    root = host.folder / "root"
    for name in ("root", "upper", "work", "docker"):
        (host.folder / name).mkdir(parents=True, exist_ok=True)
    machine.run("mount", "-t", "overlay", "overlay", "-o",
                f"lowerdir={release_root},upperdir={host.folder / 'upper'},workdir={host.folder / 'work'}", root)
    _own_machine_id(host)
    _own_run(host)
    return root


def _own_machine_id(host):
    """nspawn makes the links' MAC addresses from the machine's id and the host's name. A machine that was never booted has
    an empty one, and with one a lab the addresses are the same everywhere.
    """
    if Path("/etc/machine-id").exists():
        file = host.folder / "seed"
        file.write_text(hashlib.sha256(f"stampede-lab {host.lab.name}".encode()).hexdigest()[:32] + "\n")
        machine.run("mount", "--bind", file, "/etc/machine-id")


def _own_run(host):
    """A /run of the keeper's own: nspawn's folders there need no cleaning up, and it finds the same on every machine."""
    run = host.folder / "run"
    run.mkdir(exist_ok=True)
    machine.run("mount", "-t", "tmpfs", "-o", "mode=0755,size=1m", "stampede-lab", run)
    namespace = run / host.lab.namespace_file.relative_to("/run")
    namespace.parent.mkdir()
    namespace.touch()
    machine.run("mount", "--bind", host.lab.namespace_file, namespace)
    machine.run("mount", "--rbind", run, "/run")


def _command(host, root, release_root):
    command = [
        "systemd-nspawn", "--quiet", "--boot", f"--directory={root}", f"--machine={host.lab.name}-{host.name}",
        f"--hostname={host.name}", "--register=no", "--keep-unit", "--console=read-only", "--link-journal=no", "--resolv-conf=off",
        "--timezone=off", "--private-users=no", f"--network-bridge={host.lab.bridge}", "--capability=all",
        "--system-call-filter=@mount bpf keyctl add_key", f"--bind={host.folder / 'docker'}:/var/lib/docker"]
    if Path("/dev/net/tun").exists():
        command.append("--bind=/dev/net/tun")
    if host.read_only_marker.exists():
        command.append(f"--bind-ro={release_root / 'usr'}:/usr")
    return command


def _cut_again(host, nspawn):
    """A host that was cut stays cut. nspawn makes the link before the host's systemd starts to use it."""
    if not host.cut_marker.exists():
        return
    switch = host.cut_marker.read_text().strip() == "switch"
    end = time.monotonic() + 10
    while nspawn.poll() is None and time.monotonic() < end:
        if network.cut(host.lab, host.name, switch):
            # nspawn sets the link up once more after it put it into the bridge.
            time.sleep(0.1)
            network.cut(host.lab, host.name, switch)
            return
        time.sleep(0.01)


def main(host, release_root):
    try:
        return keep(host, release_root)
    except Failure as failure:
        print(f"lab: {failure}", file=sys.stderr, flush=True)
        return 1
