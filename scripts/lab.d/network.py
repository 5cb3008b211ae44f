"""The lab's network: a namespace of its own with a bridge in it, and a veth pair by which the machine reaches the hosts.

The machine's own routes, rules and links stay as they are; it gains one link and that link's subnet.
"""

import fcntl
import json
import os
import signal
from contextlib import contextmanager
from pathlib import Path

from machine import mount_points, replace_file, run, wait_for
from settings import STATES, Failure


def inside(lab, *command, **options):
    """Runs a command in the lab's network namespace. Not `ip netns exec`: that mounts /sys anew."""
    return run("nsenter", f"--net={lab.namespace_file}", *command, **options)


def choose(lab):
    """Decides on a new lab's subnet: the name's own, or the next that no link and no other lab has.

    Two names may well ask for the same of 255, and what one run left behind must not keep another from starting.
    """
    with _alone(lab):
        taken = {int(address.split(".")[2]) for address, _ in _addresses_on_links(lab) if address.startswith("198.18.")}
        for file in STATES.glob("*/network"):
            if file != lab.network_file:
                taken.add(int(file.read_text()))
        free = [network for network in _from(lab.preferred_network) if network not in taken]
        if not free:
            raise Failure("all of 198.18.0.0/16 is taken by labs and links: `scripts/lab down` those you no longer need")
        replace_file(lab.network_file, f"{free[0]}\n")


@contextmanager
def _alone(lab):
    """No other lab decides meanwhile. A lock on the folder of all labs: it leaves no file, however it ends."""
    lab.state.mkdir(parents=True, exist_ok=True)
    folder = os.open(STATES, os.O_RDONLY | os.O_CLOEXEC)
    try:
        wait_for("another scripts/lab to choose its network", 10, lambda: _locks(folder))
        yield
    finally:
        os.close(folder)


def _locks(descriptor):
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _from(first):
    """All third bytes an address can have, from `first` round to the one before it."""
    return [(first + step) % 256 for step in range(256)]


def up(lab):
    """Makes what is missing of the network; running it again changes nothing."""
    _refuse_taken_subnet(lab)
    if not _namespace_works(lab):
        # A name without a namespace is what a run leaves that was cut between the two.
        run("ip", "netns", "delete", lab.namespace, check=False)
        run("ip", "netns", "add", lab.namespace)
    inside(lab, "ip", "link", "set", "lo", "up")
    if inside(lab, "ip", "link", "show", lab.bridge, check=False).returncode != 0:
        inside(lab, "ip", "link", "add", lab.bridge, "type", "bridge", "stp_state", "0", "forward_delay", "0")
    inside(lab, "ip", "link", "set", lab.bridge, "up")
    if inside(lab, "ip", "link", "show", "uplink", check=False).returncode != 0:
        run("ip", "link", "delete", lab.machine_link, check=False)
        run("ip", "link", "add", lab.machine_link, "type", "veth", "peer", "name", "uplink", "netns", lab.namespace)
    inside(lab, "ip", "link", "set", "uplink", "master", lab.bridge, "up")
    run("ip", "address", "replace", f"{lab.machine_address}/24", "dev", lab.machine_link)
    run("ip", "link", "set", lab.machine_link, "up")


def down(lab):
    """Takes away whatever there is of the network, and ends what still runs in its namespace."""
    run("ip", "link", "delete", lab.machine_link, check=False)
    for pid in _processes_in(lab):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    run("ip", "netns", "delete", lab.namespace, check=False)
    if lab.namespace_file.exists():
        run("umount", "-l", lab.namespace_file, check=False)
        lab.namespace_file.unlink(missing_ok=True)
    wait_for(f"the end of link {lab.machine_link}", 10,
             lambda: run("ip", "link", "show", lab.machine_link, check=False).returncode != 0)
    _remove_empty_folder_of_namespaces(lab.namespace_file.parent)


def _remove_empty_folder_of_namespaces(folder):
    """`ip netns add` makes this folder and mounts it onto itself when it is not there, and never takes it away."""
    if folder.is_dir() and not any(folder.iterdir()):
        if folder in mount_points():
            run("umount", folder, check=False)
        try:
            folder.rmdir()
        except OSError:
            # Somebody made a namespace in this moment.
            pass


def link_of(lab, host):
    """The bridge's end of a host's cable, as nspawn calls it."""
    return f"vb-{lab.name}-{host}"


def unplug(lab, host):
    """Takes the cable away altogether. A dead host's network namespace can live on for minutes, as long as the kernel
    tries to deliver what the dead left in their connections, and would keep its end of the cable for as long.
    """
    inside(lab, "ip", "link", "delete", link_of(lab, host), check=False)


def cut(lab, host, switch=False):
    """Pulls the cable, or with `switch` only stops forwarding on it: the host's carrier stays."""
    if switch:
        return inside(lab, "bridge", "link", "set", "dev", link_of(lab, host), "state", "0", check=False).returncode == 0
    return inside(lab, "ip", "link", "set", link_of(lab, host), "down", check=False).returncode == 0


def heal(lab, host):
    inside(lab, "ip", "link", "set", link_of(lab, host), "up", check=False)
    inside(lab, "bridge", "link", "set", "dev", link_of(lab, host), "state", "3", check=False)


def _namespace_works(lab):
    return lab.namespace_file.exists() and inside(lab, "true", check=False).returncode == 0


def _processes_in(lab):
    try:
        wanted = os.stat(lab.namespace_file).st_ino
    except FileNotFoundError:
        return []
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.stat(entry / "ns/net").st_ino == wanted:
                    found.append(int(entry.name))
            except OSError:
                pass
    return found


def _refuse_taken_subnet(lab):
    prefix = lab.subnet.rsplit(".", 1)[0] + "."
    for address, link in _addresses_on_links(lab):
        if address.startswith(prefix):
            raise Failure(f"{lab.subnet} is already on {link}: take that away, or another name in STAMPEDE_LAB")


def _addresses_on_links(lab):
    """Each IPv4 address of this machine and its link's name, but for the lab's own link."""
    links = json.loads(run("ip", "-json", "-4", "address", "show").stdout or "[]")
    return [(address["local"], link["ifname"]) for link in links if link["ifname"] != lab.machine_link
            for address in link.get("addr_info", []) if "local" in address]
