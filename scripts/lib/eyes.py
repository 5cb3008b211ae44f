"""Looks at the processes of all hosts of a lab through this machine's kernel: what runs where, whatever agents and Docker say.

Instances that are to be told apart run `sleep MARK`, each with a number of its own.
"""

import os
import threading
import time


def running(lab_name, hosts, marks):
    """Which of the marked processes there are: by mark, the pids with their hosts."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().split(b"\0")
            if words[0] != b"sleep" or words[1].decode() not in marks:
                continue
            with open(f"/proc/{pid}/cgroup") as file:
                cgroup = file.read()
        except (OSError, IndexError):
            continue
        host = next((host.name for host in hosts if f".{lab_name}/{host.name}/" in cgroup), None)
        if host:
            found.setdefault(words[1].decode(), {})[pid] = host
    return found


class Eyes(threading.Thread):
    """Looks all the time at what runs where. One that is seen twice is looked at again before it is believed."""

    def __init__(self, lab_name, hosts, *marks):
        super().__init__(daemon=True)
        self.lab_name, self.hosts = lab_name, hosts
        self.marks, self.doubled, self.looks = set(marks), [], 0
        self.where = {}
        # When each appeared on which host (monotonic seconds), in order.
        self.seen = {}
        # When each was last found to be nowhere any more.
        self.ended = {}
        self.over = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join(10)

    def look(self, marks):
        return running(self.lab_name, self.hosts, marks)

    def run(self):
        while not self.over.wait(0.03):
            marks = set(self.marks)
            now = self.look(marks)
            self.looks += 1
            for mark, pids in now.items():
                if len(set(pids.values())) > 1:
                    # What was there at the beginning of a look may be gone at its end.
                    again = self.look({mark}).get(mark, {})
                    both = {pid: host for pid, host in pids.items() if again.get(pid) == host}
                    if len(set(both.values())) > 1:
                        self.doubled.append((mark, both))
                for host in set(pids.values()) - self.where.get(mark, set()):
                    self.seen.setdefault(mark, []).append((time.monotonic(), host))
            for mark in self.where.keys() - now.keys():
                self.ended[mark] = time.monotonic()
            self.where = {mark: set(pids.values()) for mark, pids in now.items()}

    def at(self, mark):
        return self.where.get(mark, set())
