"""A small client of the API, with Python's standard library alone: what the quickstart, the lab tests and the benchmark use.

    api = Api("198.18.0.1:9080", key="…", secret="…")      # any node, over the network
    api = Api(socket="/run/stampede/api.sock")             # root on a host
    made = api.post("/v1/containers", {"imageUuid": "docker:busybox", "command": "sleep", "commandArgs": ["infinity"]})
    api.wait(made, "running")
"""

import base64
import http.client
import json
import socket
import time
from urllib.parse import quote, urlencode


class ApiError(Exception):
    """An answer that is no success; `status`, `code`, `field` and the whole `body` as the server gave it."""

    def __init__(self, method, path, status, body):
        self.status = status
        self.body = body if isinstance(body, dict) else {}
        self.code = self.body.get("code")
        self.field = self.body.get("fieldName")
        words = self.body.get("message") or self.body.get("detail") or body
        super().__init__(f"{method} {path}: {status} {self.code or ''} {words}")


class Unreachable(Exception):
    """No answer at all."""


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Api:
    """One node. A connection is made for each request unless `keep` is set; not for several threads at once then."""

    def __init__(self, address=None, key=None, secret=None, socket=None, timeout=30, keep=False):
        self.address, self.socket, self.timeout, self.keep = address, socket, timeout, keep
        self.headers = {"Accept": "application/json"}
        if key is not None:
            token = base64.b64encode(f"{key}:{secret}".encode()).decode()
            self.headers["Authorization"] = f"Basic {token}"
        self._connection = None

    def __str__(self):
        return self.socket or f"http://{self.address}"

    def ask(self, method, path, body=None, headers=None):
        """The answer whatever its status; `Unreachable` where there is none."""
        if path.startswith("http"):
            path = "/" + path.split("/", 3)[3]
        data = None
        headers = {**self.headers, **(headers or {})}
        if body is not None:
            data = body if isinstance(body, (bytes, str)) else json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        connection = self._connection or self._connect()
        try:
            try:
                connection.request(method, path, data, headers)
            except BrokenPipeError:
                # It has heard enough; why, says the answer that it may have sent before it hung up.
                pass
            response = connection.getresponse()
            raw = response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._connection = None
            raise Unreachable(f"{self}: {method} {path}: {error!r}") from error
        if self.keep:
            self._connection = connection
        else:
            connection.close()
        try:
            decoded = json.loads(raw)
        except ValueError:
            decoded = raw.decode(errors="replace")
        return Answer(response.status, response.headers, decoded)

    def _connect(self):
        if self.socket:
            return _UnixConnection(self.socket, self.timeout)
        return http.client.HTTPConnection(self.address, timeout=self.timeout)

    def call(self, method, path, body=None):
        answer = self.ask(method, path, body)
        if answer.status >= 300:
            raise ApiError(method, path, answer.status, answer.body)
        return answer.body

    def get(self, path, **query):
        return self.call("GET", path + (f"?{urlencode(query, doseq=True)}" if query else ""))

    def post(self, path, body=None):
        return self.call("POST", path, body if body is not None else {})

    def put(self, path, body):
        return self.call("PUT", path, body)

    def delete(self, path):
        return self.call("DELETE", path)

    def list(self, path, **query):
        """All rows, page after page."""
        query.setdefault("limit", 1000)
        page = self.get(path, **query)
        rows = page["data"]
        while page.get("pagination") and page["pagination"].get("next"):
            page = self.get(page["pagination"]["next"])
            rows += page["data"]
        return rows

    # Containers, and virtual machines where the resource says that it is one

    @staticmethod
    def _path(resource):
        if isinstance(resource, str):
            return f"/v1/containers/{quote(resource)}"
        plural = "virtualmachines" if resource["type"] == "virtualMachine" else "containers"
        return f"/v1/{plural}/{quote(resource['id'])}"

    def container(self, resource):
        """As it is now; takes a resource or an id."""
        return self.get(self._path(resource))

    def act(self, resource, action, body=None):
        return self.post(f"{self._path(resource)}/?action={action}", body)

    def wait(self, resource, state, limit=60, every=0.05):
        """Until it is in `state`, at rest; an error that stands in its way ends the wait at once."""
        end = time.monotonic() + limit
        while True:
            now = self.container(resource)
            if now["state"] == state and now["transitioning"] != "yes":
                return now
            if time.monotonic() > end or (now["transitioning"] == "error" and now["state"] == "stopped"):
                raise TimeoutError(
                    f"{now['id']} ({now['name']}) is not {state} within {limit} s: it is {now['state']}, "
                    f"transitioning {now['transitioning']}: {now['transitioningMessage']}")
            time.sleep(every)
