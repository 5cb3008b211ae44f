"""Drives the API with the original's own Python library (PyPI `cattle` on `gdapi-python`), from list to purge.

What does not work under Python 3, whatever answers, and is gone round here: lists have neither a length nor an index (`list(…)` and
`.data` do); a resource cannot be an argument (`dict.iteritems`); `cache=True` (sha1 of text).
"""
import os
import sys

import cattle

client = cattle.Client(url=os.environ["API"], access_key=os.environ["ACCESS"], secret_key=os.environ["SECRET"])
assert client.valid()

# Lists: filters, sorting, pages.
assert [one.name for one in client.list_host()] == ["h1"]
assert {one.uuid for one in client.list_network()} == {"unmanaged", "managed-docker0"}
unmanaged = client.list_network(uuid="unmanaged").data[0]
assert len(client.list_account(kind="admin").data) == 1 and client.list_account(kind="nobody").data == []

# Create; what it sends on the way: None where nothing was said, numbers as text, an unknown field.
made = client.create_container(
    name="web",
    imageUuid="docker:busybox",
    command="httpd",
    commandArgs=["-f", 80],
    environment={"COLOUR": "green"},
    networkIds=[unmanaged.id],
    startOnCreate="true",
    requestedHostId=None,
    nonsense="dropped",
)
assert made.type == "container" and made.state in ("creating", "starting", "running"), made
web = client.wait_success(made)
assert web.state == "running" and web.environment.COLOUR == "green" and web.commandArgs == ["-f", "80"], web
assert client.by_id_container(web.id).id == web.id and client.by_id_container("1i999999") is None

# Links, both ways.
assert [host.name for host in web.hosts()] == ["h1"]
assert web.account().kind == "admin" and web.image().uuid == "docker:busybox"
host = client.list_host().data[0]
assert [one.id for one in host.instances()] == [web.id]
with_hosts = client.list_container(include="hosts", name="web").data[0]
assert with_hosts.hosts[0].id == host.id

# Update, by the object and by its id.
assert client.update(web, name="shop").name == "shop"
assert client.update_by_id_container(web.id, description="a shop").description == "a shop"
assert [one.id for one in client.list_container(name_like="sh%", state="running")] == [web.id]
assert client.list_container(name_prefix="web").data == []

# Pages.
many = client.create_container(imageUuid="docker:busybox", networkIds=[unmanaged.id], count=3, startOnCreate=False)
assert many.type == "collection" and len(many.data) == 3, many
page = client.list_container(limit=2, sort="id")
assert len(page.data) == 2 and len(client._get(page.pagination.next).data) == 2, page

# What fails says why.
for wrong, code, field in (
    (dict(name="x"), "MissingRequired", "imageUuid"),
    (dict(imageUuid="docker:busybox", networkIds=["nonsense"]), "InvalidReference", "networkIds"),
    (dict(imageUuid="docker:busybox", instanceTriggeredStop="fly"), "InvalidOption", "instanceTriggeredStop"),
):
    try:
        client.create_container(**wrong)
    except cattle.ApiError as error:
        assert (error.error.status, error.error.code, error.error.fieldName) == (422, code, field), error
    else:
        sys.exit(f"{wrong} was taken")

# Links to other containers: found from both sides, led elsewhere while it runs.
db = client.wait_success(client.create_container(name="db", imageUuid="docker:exposes-80"))
front = client.wait_success(client.create_container(name="front", imageUuid="docker:busybox", instanceLinks={"db": db.id, "cache": None}))
assert (db.state, front.state) == ("running", "running"), (db, front)
link = next(link for link in front.instanceLinks() if link.linkName == "db")
assert (link.type, link.instanceId, link.targetInstanceId) == ("instanceLink", front.id, db.id), link
assert [port.privatePort for port in link.ports] == [80] and 20000 <= link.ports[0].publicPort < 40000, link
assert [one.id for one in db.targetInstanceLinks()] == [link.id] and link.targetInstance().name == "db"
before = [vars(port) for port in link.ports]
link = client.update(link, targetInstanceId=None)
assert link.targetInstanceId is None and [vars(port) for port in client.by_id("instanceLink", link.id).ports] == before, link
link = client.update(link, targetInstanceId=db.id)
assert link.targetInstanceId == db.id and [vars(port) for port in link.ports] == before, link
for one in (front, db):
    one = client.wait_success(client.reload(one).stop(remove=False))
    one = client.wait_success(client.delete(one))
    assert client.wait_success(one.purge()).state == "purged"
assert list(client.list("instanceLink", instanceId=front.id, state_ne="purged")) == []

# Restart, stop, remove, restore, purge.
web = client.wait_success(client.reload(web).restart())
assert web.state == "running"
web = client.wait_success(web.stop(remove=False))
assert web.state == "stopped" and "stop" not in vars(web.actions)
web = client.wait_success(client.delete(web))
assert web.state == "removed" and web.removed is not None
web = client.wait_success(web.restore())
assert web.state == "stopped"
web = client.wait_success(client.delete(web))
web = client.wait_success(web.purge())
assert web.state == "purged", web

# An API key, whose secret is told once, opens.
key = client.create_api_key() if hasattr(client, "create_api_key") else client.create_apiKey()
other = cattle.Client(url=os.environ["API"], access_key=key.publicValue, secret_key=key.secretValue)
assert len(other.list_host().data) == 1
assert other.reload(key).secretValue is None
print("driven")
