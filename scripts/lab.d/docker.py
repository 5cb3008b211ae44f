"""Docker in a host, asked over its socket as seen through the host's /proc/PID/root."""

import http.client
import json
import socket
from pathlib import Path
from urllib.parse import quote

import image
from settings import Failure


class _Connection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("docker", timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(host, method, path, body=None, timeout=10):
    """Status and body, or None when Docker does not answer."""
    leader = host.leader()
    if leader is None:
        return None
    connection = _Connection(f"/proc/{leader}/root/run/docker.sock", timeout)
    try:
        connection.request(method, path, body, {"Content-Type": "application/x-tar"} if body else {})
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def answers(host):
    answer = _ask(host, "GET", "/_ping")
    return answer is not None and answer[0] == 200


def load_image(host, archive):
    """Loads the busybox image unless the host has it."""
    there = _ask(host, "GET", f"/images/{quote(image.NAME)}/json")
    if there and there[0] == 200:
        return
    answer = _ask(host, "POST", "/images/load?quiet=1", Path(archive).read_bytes(), timeout=60)
    if answer is None:
        raise Failure(f"{host.name}: Docker gave no answer to the image {image.NAME}")
    status, body = answer
    for line in body.decode(errors="replace").splitlines():
        try:
            error = json.loads(line).get("error")
        except ValueError:
            continue
        if error:
            raise Failure(f"{host.name}: Docker did not load the image {image.NAME}: {error}")
    if status != 200:
        raise Failure(f"{host.name}: Docker did not load the image {image.NAME}: {status} {body.decode(errors='replace').strip()}")
