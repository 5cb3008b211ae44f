"""The original's own library, PyPI `cattle` on `gdapi-python`, against a real agent.

It is old: under Python 3 its lists have neither a length nor an index, and a resource cannot be an argument. It is gone round here.
"""

from __future__ import annotations

import subprocess
import sys

from conftest import API, SIMULATED, Cluster

SCRIPT = """
import cattle, os

client = cattle.from_env()
assert client.valid()
assert [one.name for one in client.list_host(name=os.environ["HOST"])] == [os.environ["HOST"]]
network = client.list_network(uuid="unmanaged").data[0]

c = client.create_container(imageUuid="sim:anything", name="of old", networkIds=[network.id], environment={"A": "b"})
c = client.wait_success(c)
assert c.state == "running" and c.environment.A == "b", c
assert [host.name for host in c.hosts()] == [os.environ["HOST"]]
assert client.by_id_container(c.id).id == c.id and client.by_id_container("1i999999") is None
assert client.update(c, name="renamed").name == "renamed"
assert client.update_by_id_container(c.id, description="d").description == "d"
assert [one.id for one in client.list_container(name_like="rena%")] == [c.id]
try:
    client.create_container(name="x")
except cattle.ApiError as error:
    assert (error.error.status, error.error.code, error.error.fieldName) == (422, "MissingRequired", "imageUuid"), error
else:
    raise SystemExit("taken")
many = client.create_container(imageUuid="sim:anything", networkIds=[network.id], count=3, startOnCreate=False)
page = client.list_container(limit=2, sort="id", state="stopped")
assert len(many.data) == 3 and len(page.data) == 2 and len(page.next().data) >= 1, page
c = client.wait_success(client.wait_success(c.restart()).stop(remove=False))
c = client.wait_success(client.wait_success(client.delete(c)).restore())
for one in [c] + [client.wait_success(one) for one in many.data]:
    assert client.wait_success(client.wait_success(client.delete(one)).purge()).state == "purged"
print("driven")
"""


def test_it_drives_an_agent(cluster: Cluster) -> None:
    environment = {
        "CATTLE_URL": f"http://{API}/v1",
        "CATTLE_ACCESS_KEY": cluster.access,
        "CATTLE_SECRET_KEY": cluster.secret,
        "HOST": SIMULATED,
    }
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "driven"), done.stderr
