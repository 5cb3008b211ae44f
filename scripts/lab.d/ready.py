"""Waiting until hosts are what was asked for, each wait with a limit and with words for when it is not met."""

import http.client
import json

import docker
import machine
from settings import Failure

# A host is up in seconds; the limits are for machines that compile something at the same time.
BOOT_LIMIT = 120
SERVICE_LIMIT = 120


def booted(host):
    """Waits for the host's systemd to have run all its jobs."""
    def probe():
        state = host.system_state()
        if state == "off":
            raise Failure(f"{host.name} ended while it was starting; its console says:\n{host.last_words()}")
        return state if state in ("running", "degraded") else None

    return machine.wait_for(f"{host.name} to boot", BOOT_LIMIT, probe, every=0.1, hint=lambda: f"it is {host.system_state()}")


def docker_up(host):
    machine.wait_for(f"Docker on {host.name}", SERVICE_LIMIT, lambda: docker.answers(host))


def etcd_up(host):
    machine.wait_for(f"etcd on {host.name}", SERVICE_LIMIT, lambda: etcd_healthy(host), every=0.1)


def etcd_healthy(host):
    """What the member says of itself: it is healthy when it can agree on something with a majority."""
    connection = http.client.HTTPConnection(host.address, 2379, timeout=3)
    try:
        connection.request("GET", "/health")
        return json.load(connection.getresponse()).get("health") == "true"
    except (OSError, ValueError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def majority_of_etcd(record):
    """Whether enough members run, and are not cut, for any of them to become healthy."""
    reachable = [member for member in record.members() if member.kept() and not member.cut_marker.exists()]
    return len(reachable) * 2 > len(record.members())


def host_ready(record, host):
    """Waits for the host, its Docker with the busybox image, and its etcd where that is possible; says what is there."""
    booted(host)
    docker_up(host)
    docker.load_image(host, record.entry / "busybox.tar")
    if host in record.members() and not host.cut_marker.exists() and majority_of_etcd(record):
        etcd_up(host)
        return "Docker, etcd"
    return "Docker"
