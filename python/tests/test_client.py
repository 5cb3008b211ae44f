"""The manner of the original, against a real agent."""

from __future__ import annotations

import datetime

import pytest
from conftest import API, SIMULATED, Cluster, Maker

import stampede


def test_methods_follow_from_the_live_schemas(shared: stampede.Client) -> None:
    assert shared.valid()
    assert {"container", "host", "ipAddress"} <= set(shared.schema.types)
    names = dir(shared)
    for name in ("create_container", "list_host", "by_id_ip_address", "list_ipAddress", "update_by_id_container", "iterate_host"):
        assert name in names
        assert callable(getattr(shared, name))
    # What the schemas do not allow is no method: hosts are not made, processes are not changed.
    for name in ("create_host", "update_by_id_processInstance", "create_contaner", "nonsense"):
        assert not hasattr(shared, name)
    with pytest.raises(AttributeError, match="did you mean 'create_container'"):
        shared.create_contaner()


def test_one_container_s_life(shared: stampede.Client, make: Maker) -> None:
    made = make(wait=False, name="web", command="httpd", commandArgs=["-f", 80], environment={"COLOUR": "green"}, nonsense=1)
    assert isinstance(made, stampede.Resource)
    assert (made.type, made["name"], made.get("nothing")) == ("container", "web", None)
    c = shared.wait_success(made)
    assert c.state == "running"
    assert c.environment.COLOUR == "green"
    assert c.environment == {"COLOUR": "green"}
    assert c.commandArgs == ["-f", "80"]
    assert [host.name for host in c.hosts()] == [SIMULATED]
    assert c.account().kind == "admin"

    c = shared.wait_success(c.restart())
    c = shared.wait_success(c.stop(remove=False))
    assert c.state == "stopped"
    with pytest.raises(AttributeError, match="stop"):
        c.stop()
    with pytest.raises(stampede.ClientApiError, match=r"what can: .*start"):
        shared.action(c, "stop")
    c = shared.wait_success(c.start())
    c = shared.wait_success(shared.delete(c))
    assert c.state == "removed"
    c = shared.wait_success(c.restore())
    assert c.state == "stopped"


def test_updates(shared: stampede.Client, make: Maker) -> None:
    c = make(startOnCreate=False, name="one")
    assert shared.update(c, name="two").name == "two"
    assert shared.update(c, {"description": "in a map"}, name="three").description == "in a map"
    assert shared.update_by_id_container(c.id, name="four").name == "four"
    c = shared.reload(c)
    c.name = "five"
    assert shared.update(c, c).name == "five"
    with pytest.raises(stampede.PreconditionFailed):
        shared.update(c, name="six", if_match='"1"')
    assert shared.reload(c).name == "five"


def test_by_id_is_none_where_nothing_is(shared: stampede.Client, make: Maker) -> None:
    c = make(startOnCreate=False)
    found = shared.by_id_container(c.id)
    assert found is not None
    assert found.id == c.id
    assert shared.by_id_container("1i999999") is None
    assert shared.by_id("container", "no/such?thing") is None


def test_lists_filters_and_pages(shared: stampede.Client, make: Maker) -> None:
    for number in range(5):
        make(startOnCreate=False, name=f"page-{number}")
    assert [c.name for c in shared.list_container(name_like="page-%", sort="name", order="desc")][:2] == ["page-4", "page-3"]
    page = shared.list_container(name_like="page-%", sort="name", limit=2)
    assert len(page) == 2
    assert page[0].name == "page-0"
    assert [c.name for c in page[:1]] == ["page-0"]
    following = page.next()
    assert [c.name for c in following] == ["page-2", "page-3"]
    last = following.next()
    assert last.next_link() is None
    with pytest.raises(AttributeError):
        last.next()
    every = shared.iterate_container(name_like="page-%", sort="name", limit=2)
    assert [c.name for c in every] == [f"page-{number}" for number in range(5)]
    # What is None is no filter, a resource is its id, a truth value is JSON's.
    host = shared.list_host(name=SIMULATED)[0]
    assert len(shared.list_container(name_like="page-%", description=None)) == 5
    assert {one.hostId for one in shared.list("instanceHostMap", hostId=host)} <= {host.id}
    assert len(shared.list_container(name_like="page-%", removed_null=True)) == 5
    tomorrow = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=1)
    assert len(shared.list_container(name_like="page-%", created_lt=tomorrow)) == 5
    assert len(shared.list_container(name_like="page-%", created_gt=tomorrow)) == 0


def test_included_links_are_there_already(shared: stampede.Client, make: Maker) -> None:
    c = make(name="included")
    row = shared.list_container(include="hosts", id=c)[0]
    assert [host.name for host in row.hosts] == [SIMULATED]
    assert [host.name for host in row.hosts[0].instances(id=c)] == ["included"] or row.hosts[0].instances()


def test_several_at_once_are_a_collection(shared: stampede.Client, make: Maker) -> None:
    made = shared.create_container(make.fields, count=3, startOnCreate=False)
    make.made += made
    assert isinstance(made, stampede.Collection)
    assert len(made) == 3


def test_errors_say_what_is_wrong(shared: stampede.Client, make: Maker) -> None:
    with pytest.raises(stampede.Invalid) as caught:
        shared.create_container(name="x")
    error = caught.value
    assert (error.status, error.code, error.field) == (422, "MissingRequired", "imageUuid")
    assert error.error.fieldName == "imageUuid"
    assert "imageUuid" in str(error)
    with pytest.raises(stampede.Invalid) as caught:
        make(startOnCreate=False, instanceTriggeredStop="fly")
    assert caught.value.code == "InvalidOption"
    assert caught.value.message or caught.value.detail
    shared.create_account(kind="user", uuid="one-of-a-kind")
    with pytest.raises(stampede.Conflict):
        shared.create_account(kind="user", uuid="one-of-a-kind")
    with pytest.raises(stampede.NotFound):
        shared.follow("/v1/containers/1i999999")
    with pytest.raises(stampede.ClientApiError, match="did you mean 'container'"):
        shared.list("containr")


def test_waiting_says_why_it_failed(shared: stampede.Client, make: Maker) -> None:
    failing = make(wait=False, name="fails", data={"compute.instance.activate::fail": True})
    with pytest.raises(stampede.TransitionError) as failed:
        shared.wait_success(failing)
    assert failed.value.resource.id == failing.id
    assert failed.value.resource.transitioningMessage in str(failed.value)
    assert shared.wait_transitioning(failing).transitioning == "error"

    nowhere = make(wait=False, imageUuid="sim:anything", constraints=["name=nowhere"])
    with pytest.raises((stampede.WaitTimeout, stampede.TransitionError), match="placement"):
        shared.wait_success(nowhere, timeout=1)


def test_strict_clients_refuse_filters_that_mean_nothing(cluster: Cluster, shared: stampede.Client) -> None:
    assert len(shared.list_host(nonsense="x")) >= 1
    with cluster.client(strict=True) as strict:
        assert len(strict.list_host(name_like="%", limit=5)) >= 1
        with pytest.raises(stampede.ClientApiError, match="nonsense"):
            strict.list_host(nonsense="x")


def test_keys_are_made_and_open(cluster: Cluster, shared: stampede.Client) -> None:
    key = shared.create_api_key()
    with cluster.client(access_key=key.publicValue, secret_key=key.secretValue) as other:
        assert [host.name for host in other.list_host(name=SIMULATED)] == [SIMULATED]
    shared.wait_success(shared.reload(key).deactivate())
    with pytest.raises(stampede.Unauthorized) as refused:
        cluster.client(access_key=key.publicValue, secret_key=key.secretValue)
    assert key.secretValue not in str(refused.value)


def test_a_user_s_client_has_what_a_user_may(cluster: Cluster, shared: stampede.Client) -> None:
    account = shared.wait_success(shared.create_account(kind="user", name="u"))
    key = shared.create_api_key(accountId=account)
    with cluster.client(access_key=key.publicValue, secret_key=key.secretValue) as user:
        assert hasattr(user, "create_container")
        assert not hasattr(user, "create_agent")
        assert list(user.list_container()) == []


def test_where_a_name_is_taken_the_suffix_helps(shared: stampede.Client, make: Maker) -> None:
    c = make(name="suffix")
    assert [host.name for host in c.hosts_link()] == [SIMULATED]
    assert shared.wait_success(c.stop_action()).state == "stopped"
    assert "hosts" in dir(c)
    assert c.to_dict()["links"]["self"] == f"https://{API}/v1/containers/{c.id}"
