"""The agent in a host: the binary to /usr/bin/stampede, the source tree's systemd/ folder to where its parts belong.

Files are put in place whether the host runs or not; what must be told to a running systemd is told afterwards.
"""

import os
from pathlib import Path

import provision
from settings import TREE, Failure

UNIT_KINDS = (".service", ".socket", ".slice", ".target", ".timer", ".path")
CONFIG_KINDS = ("sysctl.d", "tmpfiles.d", "sysusers.d", "modules-load.d")
# systemd's own settings, below /usr/lib/systemd.
SYSTEMD_KINDS = ("logind.conf.d",)
SERVICE = "stampede.service"


class Agent:
    """What there is to install."""

    def __init__(self, binary, libvirt, units, settings):
        self.binary = binary
        # The program that links libvirt; None where it was not built.
        self.libvirt = libvirt
        self.units = units
        self.settings = settings

    def enabled_units(self):
        """All sockets and the service itself: a template is started by name, a slice by what is in it."""
        names = [unit.name for unit in self.units if "@" not in unit.name]
        return [name for name in names if name.endswith(".socket")] + [SERVICE]

    def services(self):
        return [unit.name for unit in self.units if unit.name.endswith(".service") and "@" not in unit.name]


def find():
    """The agent of this source tree; a Failure says what is missing."""
    missing = []
    binary = _binary()
    if binary is None:
        missing.append("no binary (target/release/stampede, target/debug/stampede or STAMPEDE_BINARY)")
    folder = TREE / "systemd"
    units = sorted(file for file in folder.glob("*") if file.suffix in UNIT_KINDS) if folder.is_dir() else []
    if SERVICE not in [unit.name for unit in units]:
        missing.append(f"no systemd/{SERVICE}")
    if missing:
        raise Failure("; ".join(missing))
    settings = [file for kind in CONFIG_KINDS + SYSTEMD_KINDS for file in sorted((folder / kind).glob("*.conf"))]
    libvirt = binary.with_name("stampede-libvirt")
    return Agent(binary, libvirt if libvirt.is_file() else None, units, settings)


def _binary():
    told = os.environ.get("STAMPEDE_BINARY")
    if told:
        if not Path(told).is_file():
            raise Failure(f"STAMPEDE_BINARY={told}: no such file")
        return Path(told)
    target = Path(os.environ.get("CARGO_TARGET_DIR", TREE / "target"))
    built = [file for file in (target / "release/stampede", target / "debug/stampede") if file.is_file()]
    return max(built, key=lambda file: file.stat().st_mtime, default=None)


def write_files(host, agent, endpoints):
    root = host.root()
    provision.write(root, "/usr/bin/stampede", agent.binary.read_bytes(), 0o755)
    if agent.libvirt:
        provision.write(root, "/usr/bin/stampede-libvirt", agent.libvirt.read_bytes(), 0o755)
    for unit in agent.units:
        provision.write(root, f"/usr/lib/systemd/system/{unit.name}", unit.read_bytes())
    for file in agent.settings:
        folder = "systemd/" if file.parent.name in SYSTEMD_KINDS else ""
        provision.write(root, f"/usr/lib/{folder}{file.parent.name}/{file.name}", file.read_bytes())
    template = Path(__file__).with_name("config.toml").read_text()
    text = template.replace("@ENDPOINTS@", ", ".join(f'"{endpoint}"' for endpoint in endpoints))
    provision.write(root, "/etc/stampede/config.toml", text)
    # As an operator's cloud-config would bring it.
    provision.write(root, "/var/lib/stampede/secret", _secret(host.lab), 0o600)


def _secret(lab):
    """The cluster secret: made once for each lab."""
    file = lab.state / "secret"
    try:
        return file.read_text()
    except FileNotFoundError:
        file.touch(0o600)
        file.write_text(f"{os.urandom(32).hex()}\n")
        return file.read_text()


def activate(host, agent):
    """Tells a running host of its new files and enables the units; nothing that runs is started again."""
    kinds = {file.parent.name for file in agent.settings}
    if "sysusers.d" in kinds:
        host.inside("systemd-sysusers")
    if "tmpfiles.d" in kinds:
        # Exit code 73: a line could not be applied as asked; as on any host it is in the journal.
        host.inside("systemd-tmpfiles", "--create", check=False)
    if "sysctl.d" in kinds:
        host.inside("systemctl", "restart", "systemd-sysctl.service")
    host.inside("systemctl", "daemon-reload")
    host.inside("systemctl", "--quiet", "enable", *agent.enabled_units())
    sockets = [name for name in agent.enabled_units() if name.endswith(".socket")]
    if sockets:
        host.inside("systemctl", "start", *sockets)


def start(host):
    _or_journal(host, "start")


def restart(host, agent):
    others = [name for name in agent.services() if name != SERVICE]
    if others:
        host.inside("systemctl", "try-restart", *others, timeout=100)
    _or_journal(host, "restart")


def _or_journal(host, verb):
    try:
        host.inside("systemctl", verb, SERVICE, timeout=100)
    except Failure as failure:
        journal = host.inside("journalctl", "--no-pager", "-n", "15", "-o", "cat", "-u", SERVICE, check=False).stdout
        raise Failure(f"{host.name}: the agent does not start: {failure}\n{journal.rstrip()}") from None
