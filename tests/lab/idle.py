"""An idle cluster is quiet: nothing is written but the leases' keepalives."""

import time

import case
from case import HOSTS, LabTest


class Idle(LabTest):
    def processor_time(self, host):
        """Hundredths of a second that the agent has used."""
        pid = host.out("systemctl", "show", "-P", "MainPID", "stampede.service")
        fields = host.out("cat", f"/proc/{pid}/stat").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def test_nothing_is_written_for_a_minute(self):
        self.make_everywhere(each=2)
        # What the tests before left is removed, purged and forgotten within minutes; that is work, not idling.
        waiting = lambda: HOSTS[0].out("etcdctl", "get", "--prefix", "/stampede/v1/todo/", "--keys-only", "--write-out=simple")  # noqa: E731
        end = time.monotonic() + 480
        while waiting() and time.monotonic() < end:
            time.sleep(2)
        self.assertEqual(waiting(), "")
        # The hosts have just told the cluster what they can run.
        time.sleep(10)
        before, used = HOSTS[0].revision(), [self.processor_time(host) for host in HOSTS]
        seconds = 300 if case.LONG else 60
        time.sleep(seconds)
        after = HOSTS[0].revision()
        spent = [self.processor_time(host) - one for host, one in zip(HOSTS, used)]
        print(f"              processor time in {seconds} s: " + ", ".join(f"{host} {one / 100:.2f} s" for host, one in zip(HOSTS, spent)))
        if after != before:
            changes = HOSTS[0].shell(f"timeout 2 etcdctl watch --prefix '' --rev {before + 1} | grep -a -A1 -E '^(PUT|DELETE)'", check=False)
            self.fail(f"{after - before} revisions while idle:\n{changes}")
