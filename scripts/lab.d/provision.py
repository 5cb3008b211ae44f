"""The files that make a root file system a certain host. Written before its first start, and again, where they changed,
by each `up`.
"""

import os
import uuid

from rootfs import LIBVIRT_UNITS

# Above this a cluster of etcd gains nothing; below three hosts a second member would only be a second thing to fail.
ETCD_MEMBERS = 3


def write(root, path, text, mode=0o644):
    """Writes a file in a host in one step, only when it is different; True when it was."""
    data = text if isinstance(text, bytes) else text.encode()
    target = root / path.lstrip("/")
    try:
        if target.read_bytes() == data and target.stat().st_mode & 0o777 == mode:
            return False
    except OSError:
        pass
    target.parent.mkdir(parents=True, exist_ok=True)
    # A rename, not a write: a running program's file cannot be written to.
    unfinished = target.with_name(f".{target.name}.new")
    unfinished.write_bytes(data)
    unfinished.chmod(mode)
    unfinished.rename(target)
    return True


def etcd_endpoints(members):
    return [f"http://{member.address}:2379" for member in members]


def host_files(host, hosts, members):
    """Everything but the agent."""
    root = host.root()
    lab = host.lab
    if not (root / "etc/machine-id").exists() or not (root / "etc/machine-id").read_text().strip():
        write(root, "/etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)
    write(root, "/etc/hostname", f"{host.name}\n")
    write(root, "/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n" + "".join(
        f"{other.address} {other.name}\n" for other in hosts) + f"{lab.machine_address} machine\n")

    # The name comes before Debian's own 80-container-host0.network, which would ask for an address by DHCP.
    write(root, "/etc/systemd/network/10-host0.network", (
        f"[Match]\nName=host0\n\n[Network]\nAddress={host.address}/24\nIPv6AcceptRA=no\nLLMNR=no\n"))
    # A host whose cable is cut must still boot: Docker waits for this.
    write(root, "/etc/systemd/system/systemd-networkd-wait-online.service.d/lab.conf", (
        "[Service]\nExecStart=\nExecStart=/usr/lib/systemd/systemd-networkd-wait-online --interface=host0 --timeout=5\n"))

    # On purpose: a new network namespace copies the machine's setting, and Docker's FORWARD policy hangs on it.
    write(root, "/etc/sysctl.d/50-lab.conf", "net.ipv4.ip_forward = 1\n")
    # Docker's own limit is three starts a minute; tests that break things need more.
    write(root, "/etc/systemd/system/docker.service.d/lab.conf", "[Unit]\nStartLimitIntervalSec=0\n")
    write(root, "/etc/systemd/journald.conf.d/lab.conf", "[Journal]\nStorage=persistent\nSystemMaxUse=200M\nRateLimitIntervalSec=0\n")

    if host.read_only_marker.exists():
        # What a system extension's image is mounted by. Nodes of its own: libvirt cannot do with devices that are mounts.
        loops = "".join(f"b /dev/loop{number} 0660 root disk - 7:{number}\n" for number in range(8))
        write(root, "/etc/tmpfiles.d/lab.conf", f"c /dev/loop-control 0660 root disk - 10:237\n{loops}")

    if host in members:
        _etcd_member(root, host, members)
    else:
        _mask(root, "etcd.service")


def _etcd_member(root, host, members):
    settings = {
        "NAME": host.name,
        "DATA_DIR": "/var/lib/etcd/default",
        "LISTEN_CLIENT_URLS": "http://0.0.0.0:2379",
        "LISTEN_PEER_URLS": "http://0.0.0.0:2380",
        "ADVERTISE_CLIENT_URLS": f"http://{host.address}:2379",
        "INITIAL_ADVERTISE_PEER_URLS": f"http://{host.address}:2380",
        "INITIAL_CLUSTER": ",".join(f"{member.name}=http://{member.address}:2380" for member in members),
        "INITIAL_CLUSTER_STATE": "new",
        "INITIAL_CLUSTER_TOKEN": f"stampede-lab-{host.lab.name}",
    }
    write(root, "/etc/default/etcd", "".join(f"ETCD_{key}={value}\n" for key, value in settings.items()))
    # Not Type=notify: a member is ready only with a majority, and a host that is alone must still boot.
    write(root, "/etc/systemd/system/etcd.service.d/lab.conf", (
        "[Unit]\nStartLimitIntervalSec=0\n\n[Service]\nType=exec\nRestart=always\nRestartSec=1\n"))


def _mask(root, unit):
    link = root / "etc/systemd/system" / unit
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        os.symlink("/dev/null", link)


def libvirt(host):
    """Unmasks what every host has masked, and starts its sockets; the rest of libvirt comes with the first question."""
    host.inside("systemctl", "--quiet", "unmask", *LIBVIRT_UNITS)
    host.inside("systemctl", "start", "libvirtd.socket", "virtlogd.socket")
