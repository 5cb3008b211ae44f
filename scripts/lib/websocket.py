"""A WebSocket, as far as an instance's streams need one (docs/api.md), with Python's standard library alone.

    with Stream(host.api(), "/v1/containers/1i5/exec", command=["sh", "-c", "cat; exit 3"], stdin="true") as stream:
        stream.say(b"hello")
        stream.say(b"")                 # the end of its input
        stream.rest()                   # all output; then stream.end is the last word, stream.closed (1000, "Ended: …")
"""

import base64
import json
import os
import socket
import struct
from urllib.parse import quote_plus, urlencode

from api import ApiError

INPUT, OUTPUT, ERRORS, END, SIZE = range(5)
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10


class Cut(Exception):
    """The connection ended without a closing."""


class Stream:
    def __init__(self, api, path, timeout=30, **query):
        # Bytes as they are, without channels before them.
        self._raw = "raw=true" in path or query.get("raw") == "true"
        self.end = self.closed = None
        self.output, self.errors = b"", b""
        host, port = api.address.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout)
        self._file = self._socket.makefile("rb")
        if query:
            path += ("&" if "?" in path else "?") + urlencode(query, doseq=True, quote_via=quote_plus)
        key = base64.b64encode(os.urandom(16)).decode()
        head = [f"GET {path} HTTP/1.1", f"Host: {api.address}", "Connection: Upgrade", "Upgrade: websocket",
                "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", *(f"{name}: {value}" for name, value in api.headers.items())]
        self._socket.sendall("\r\n".join([*head, "", ""]).encode())
        status = int(self._file.readline().split()[1])
        headers = dict(line.decode().strip().lower().split(": ", 1) for line in iter(self._file.readline, b"\r\n"))
        if status != 101:
            body = self._file.read(int(headers.get("content-length", 0)))
            self._socket.close()
            raise ApiError("GET", path, status, json.loads(body))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        self._socket.close()

    def say(self, data, channel=INPUT):
        self._send(_BINARY, data if self._raw else bytes([channel]) + data)

    def resize(self, columns, rows):
        self.say(json.dumps({"columns": columns, "rows": rows}).encode(), SIZE)

    def _send(self, kind, data):
        size = len(data)
        length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size) if size < 65536 else b"\xff" + struct.pack("!Q", size)
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))
        self._socket.sendall(bytes([0x80 | kind]) + length + mask + masked)

    def _exactly(self, size):
        data = self._file.read(size)
        if len(data) < size:
            raise Cut()
        return data

    def next(self):
        """`(channel, bytes)` of output, a dictionary of figures, or None after the closing."""
        while self.closed is None:
            first, size = self._exactly(2)
            size = struct.unpack("!H", self._exactly(2))[0] if size == 126 else struct.unpack("!Q", self._exactly(8))[0] if size == 127 else size
            data, kind = self._exactly(size), first & 15
            if kind == _TEXT:
                return json.loads(data)
            if kind == _BINARY and self._raw:
                return OUTPUT, data
            if kind == _BINARY and data[0] == END:
                self.end = json.loads(data[1:])
            elif kind == _BINARY:
                return data[0], data[1:]
            elif kind == _PING:
                self._send(_PONG, data)
            elif kind == _CLOSE:
                self.closed = (struct.unpack("!H", data[:2])[0], data[2:].decode()) if data else (1005, "")
                self._send(_CLOSE, data[:2])
        return None

    def take(self, size):
        """So many bytes of output, which are then taken from it."""
        while len(self.output) < size:
            if not self._one():
                raise AssertionError(f"{size} bytes did not come: {self.output!r}, {self.closed}")
        taken, self.output = self.output[:size], self.output[size:]
        return taken

    def until(self, text):
        """Reads output until `text` is in it."""
        while text not in self.output:
            if not self._one():
                raise AssertionError(f"{text!r} did not come: {self.output!r}, {self.closed}")

    def rest(self):
        """Reads to the closing; gives standard output."""
        while self._one():
            pass
        return self.output

    def _one(self):
        said = self.next()
        if isinstance(said, tuple):
            channel, data = said
            if channel == OUTPUT:
                self.output += data
            else:
                self.errors += data
        return said is not None
