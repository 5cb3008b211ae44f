"""The lab's network: a namespace of its own with a bridge in it, and a veth pair by which the machine reaches the hosts.

The machine's own routes, rules and links stay as they are; it gains one link and that link's subnet.
"""

import json
import os
import signal
from pathlib import Path

from machine import mount_points, run, wait_for
from settings import Failure


def inside(lab, *command, **options):
    """Runs a command in the lab's network namespace. Not `ip netns exec`: that mounts /sys anew."""
    return run("nsenter", f"--net={lab.namespace_file}", *command, **options)


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
    for link in json.loads(run("ip", "-json", "-4", "address", "show").stdout or "[]"):
        for address in link.get("addr_info", []):
            if address.get("local", "").startswith(prefix) and link["ifname"] != lab.machine_link:
                raise Failure(f"{lab.subnet} is already on {link['ifname']}: take another name in STAMPEDE_LAB")
