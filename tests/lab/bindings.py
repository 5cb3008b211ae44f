"""The Python bindings of python/, and the original's own library, with containers that Docker runs.

What the bindings do is tried in python/tests/; here it is real containers on other hosts, over TLS between machines.
"""

import os
import subprocess

import case
from case import HOSTS, LabTest
from hosts import TREE

PROGRAM = TREE / "target/clients/bin/python"
OURS = """
import stampede
with stampede.from_env() as client:
    c = client.create_container(imageUuid="docker:busybox", name="bound", command="sleep", commandArgs=["infinity"], requestedHostId=client.list_host(name="h3")[0])
    print(c.id, flush=True)
    c = client.wait_success(c)
    assert c.state == "running" and c.primaryIpAddress.startswith("10.42.") and [host.name for host in c.hosts()] == ["h3"], c.to_dict()
    with client.subscribe() as events:
        c.restart()
        seen = next(event for event in events if event.resourceId == c.id and event.data.resource.state == "running")
    c = client.wait_success(client.reload(c).stop())
    c = client.wait_success(client.delete(c))
    print(client.wait_success(c.purge()).state)
"""
ORIGINAL = """
import cattle
client = cattle.from_env()
c = client.create_container(imageUuid="docker:busybox", name="of old", command="sleep", commandArgs=["infinity"])
print(c.id, flush=True)
c = client.wait_success(c)
assert c.state == "running" and c.primaryIpAddress.startswith("10.42."), c
c = client.wait_success(c.restart())
c = client.wait_success(c.stop(remove=False))
c = client.wait_success(client.delete(c))
print(client.wait_success(c.purge()).state)
"""


class Bindings(LabTest):
    def drive(self, script, **environment):
        done = subprocess.run(
            [PROGRAM, "-c", script], env={"PYTHONPATH": str(TREE / "python/src"), "PATH": os.environ["PATH"], **environment},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120, check=False)
        words = done.stdout.split()
        self.made += words[:1]
        self.assertEqual((done.returncode, words[1:]), (0, ["purged"]), done.stdout + done.stderr)

    def test_ours_over_tls(self):
        public, secret = case.LAB.key
        authority = HOSTS[0].out("stampede", "ca", "show")
        hosts = ",".join(f"https://{host.api_address}" for host in HOSTS)
        self.drive(OURS, STAMPEDE_URL=hosts, STAMPEDE_ACCESS_KEY=public, STAMPEDE_SECRET_KEY=secret, STAMPEDE_CA=authority)

    def test_the_original_s(self):
        public, secret = case.LAB.key
        self.drive(ORIGINAL, CATTLE_URL=f"http://{HOSTS[1].api_address}/v1", CATTLE_ACCESS_KEY=public, CATTLE_SECRET_KEY=secret)
