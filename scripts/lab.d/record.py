"""What `up` decided about a lab: its release, its hosts, which of them hold etcd. Everything else is asked of the machine."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from host import Host
from machine import replace_file
from settings import Failure


@dataclass
class Record:
    lab: object
    release: str
    entry: Path
    count: int
    etcd_count: int

    @staticmethod
    def load(lab):
        """None when there is no lab."""
        try:
            data = json.loads((lab.state / "lab.json").read_text())
        except FileNotFoundError:
            return None
        return Record(lab, data["release"], Path(data["entry"]), data["count"], data["etcd_count"])

    @staticmethod
    def need(lab):
        record = Record.load(lab)
        if record is None:
            raise Failure("there is no lab: `scripts/lab up` makes one")
        return record

    def save(self):
        self.lab.state.mkdir(parents=True, exist_ok=True)
        data = {"release": self.release, "entry": str(self.entry), "count": self.count, "etcd_count": self.etcd_count}
        replace_file(self.lab.state / "lab.json", json.dumps(data) + "\n")

    def hosts(self):
        return [Host(self.lab, f"h{number}") for number in range(1, self.count + 1)]

    def members(self):
        """The hosts with etcd."""
        return self.hosts()[:self.etcd_count]

    def host(self, name):
        if not re.fullmatch(r"h[1-9][0-9]?", name) or int(name[1:]) > self.count:
            names = " ".join(host.name for host in self.hosts())
            raise Failure(f"there is no host {name}; there are: {names}")
        return Host(self.lab, name)
