"""Who is asked, by whom, and who is believed."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import API, Cluster

import stampede


def test_the_cluster_s_authority(cluster: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text(cluster.ca)
    for ca in (cluster.ca, str(file)):
        with cluster.client(ca=ca) as client:
            assert client.valid()
    with pytest.raises(stampede.Untrusted, match="ca="):
        cluster.client(ca=None)
    with pytest.raises(stampede.ClientApiError, match="cannot be read"):
        cluster.client(ca=str(tmp_path / "nothing"))
    file.write_text("-----BEGIN CERTIFICATE-----\nrubbish\n-----END CERTIFICATE-----\n")
    with pytest.raises(stampede.ClientApiError, match="no certificate"):
        cluster.client(ca=str(file))


def test_only_its_fingerprint(cluster: Cluster) -> None:
    import sys

    if sys.version_info < (3, 10):
        with pytest.raises(stampede.ClientApiError, match=r"Python 3\.10"):
            cluster.client(ca=None, pin=cluster.pin)
        return
    for pin in (cluster.pin, "sha256:" + cluster.pin.upper()):
        with cluster.client(ca=None, pin=pin) as client:
            assert client.valid()
    other = ("0" if cluster.pin[0] != "0" else "1") + cluster.pin[1:]
    with pytest.raises(stampede.ClientApiError, match="not of the cluster"):
        cluster.client(ca=None, pin=other)
    with pytest.raises(stampede.ClientApiError, match="no SHA-256"):
        cluster.client(ca=None, pin="abc")


def test_a_host_by_a_name_that_it_does_not_have(cluster: Cluster) -> None:
    with pytest.raises(stampede.Untrusted, match="name that its certificate has"):
        cluster.client(url="https://127.0.0.2:9080")


def test_from_the_environment(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "ACCESS_KEY", "SECRET_KEY", "CA", "PIN", "SOCKET"):
        for prefix in ("STAMPEDE_", "CATTLE_", "OTHER_"):
            monkeypatch.delenv(prefix + name, raising=False)
    with pytest.raises(stampede.ClientApiError, match="STAMPEDE_URL"):
        stampede.from_env()
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name.replace("STAMPEDE_", "CATTLE_"), value)
    with stampede.from_env() as client:
        assert client.valid()
    # Ours go before, all together: a url without a key is not filled up with another's key.
    monkeypatch.setenv("STAMPEDE_URL", f"http://{API}")
    with pytest.raises(stampede.Unauthorized):
        stampede.from_env()
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name.replace("STAMPEDE_", "OTHER_"), value)
    with stampede.from_env(prefix="other") as client:
        assert client.valid()
    with pytest.raises(stampede.Unauthorized):
        stampede.from_env(prefix="OTHER_", secret_key="wrong", access_key="wrong")


def test_root_needs_no_key(cluster: Cluster) -> None:
    with stampede.Client(socket=str(cluster.socket)) as client:
        assert client.list_account(kind="admin")[0].kind == "admin"


def test_settings_that_do_not_go_together() -> None:
    for options, words in (
        ({"url": "https://h", "access_key": "a"}, "two halves"),
        ({"url": "ftp://h"}, "no address"),
        ({"url": "https://a:b@h"}, "does not belong"),
        ({"url": "http://h", "ca": "x"}, "https://HOST"),
        ({"url": "https://h", "ca": "x", "pin": "y"}, "not both"),
        ({"url": ["https://a/v1", "https://b/v2"]}, "different paths"),
        ({"url": ["https://a", "https://b"], "socket": "/x"}, "one host"),
    ):
        with pytest.raises(stampede.ClientApiError, match=words):
            stampede.Client(**options)


def test_a_secret_is_shown_nowhere(cluster: Cluster) -> None:
    with cluster.client() as client:
        assert cluster.secret not in repr(vars(client))
