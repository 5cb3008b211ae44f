"""What a lab is called and where its things lie.

Everything a lab owns outside its own folder carries the lab's name, so that two labs (STAMPEDE_LAB=other) live side
by side and `down` can find what is left of one without any record of what was done.
"""

import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("STAMPEDE_LAB_CACHE", "/var/cache/stampede-lab"))
STATES = Path(os.environ.get("STAMPEDE_LAB_STATE", "/var/lib/stampede-lab"))
RELEASES = ("trixie", "bookworm")
MOST_HOSTS = 20


class Failure(Exception):
    """Something the person at the keyboard should read, without a traceback."""


@dataclass(frozen=True)
class Lab:
    name: str

    @staticmethod
    def from_environment():
        name = os.environ.get("STAMPEDE_LAB", "lab")
        # nspawn's links are called vb-NAME-hNN and a link's name ends at 15 characters.
        if not re.fullmatch(r"[a-z][a-z0-9]{0,7}", name):
            raise Failure(f"STAMPEDE_LAB={name}: a letter and at most seven more letters or digits, all small")
        return Lab(name)

    @property
    def network(self):
        """The third byte of the lab's addresses: what `up` decided (see network.choose), before that what it would like."""
        try:
            return int(self.network_file.read_text())
        except FileNotFoundError:
            return self.preferred_network

    @property
    def preferred_network(self):
        """0 for `lab`, else from the name: the same lab mostly has the same addresses, whatever else is up."""
        return 0 if self.name == "lab" else zlib.crc32(self.name.encode()) % 255 + 1

    @property
    def network_file(self):
        return self.state / "network"

    @property
    def subnet(self):
        return f"198.18.{self.network}.0/24"

    @property
    def machine_address(self):
        return f"198.18.{self.network}.254"

    @property
    def state(self):
        return STATES / self.name

    @property
    def namespace(self):
        return self.name

    @property
    def namespace_file(self):
        return Path("/run/netns") / self.namespace

    @property
    def bridge(self):
        return f"br-{self.name}"

    @property
    def machine_link(self):
        """The machine's end of the veth pair; the other end is `uplink` in the lab's bridge."""
        return f"{self.name}0"

    @property
    def cgroup(self):
        return f"stampede-lab.{self.name}"

    @property
    def lock_file(self):
        return Path(f"/run/stampede-lab.{self.name}.lock")
