"""What tests of virtual machines share: hosts with libvirt, images of a small guest served over HTTP, and what the guest says."""

import gzip
import hashlib
import http.server
import itertools
import re
import sys
import threading
import time
from pathlib import Path

import case
from case import HOSTS, LabTest
from hosts import TREE, wait_for
from websocket import Stream

sys.path[:0] = [str(TREE / "scripts/lab.d"), str(TREE / "scripts/kernel.d")]

import disk  # noqa: E402

_numbers = itertools.count(1000)
# A guest boots in seconds, and slower on a machine that does much else.
BOOT = 120
POOL = "/var/lib/libvirt/images/stampede"


class Images:
    """Files at this machine's end of the lab's network; each request is counted, and may be told to misbehave."""

    def __init__(self, address):
        self.files = {}
        self.asked = []
        # How many bytes of a file come before the line breaks, by name, once.
        self.cut = {}
        # Seconds between pieces, by name.
        self.slow = {}
        images = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.0"

            def do_GET(self):  # noqa: N802
                images.answer(self)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((address, 0), Handler)
        self.address = f"http://{address}:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request):
        name = request.path.lstrip("/")
        content = self.files.get(name)
        self.asked.append((name, request.headers.get("Range")))
        if content is None:
            request.send_error(404)
            return
        start = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(content) - start))
        request.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
        request.end_headers()
        end = self.cut.pop(name, len(content))
        for at in range(start, end, 1 << 18):
            request.wfile.write(content[at:min(at + (1 << 18), end)])
            if name in self.slow:
                time.sleep(self.slow[name])

    def url(self, name):
        return f"{self.address}/{name}"

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


class GuestTest(LabTest):
    """h1 and h2 run virtual machines, h3 has no libvirt. Made with `machine`, they are purged at the end."""

    @classmethod
    def setUpClass(cls):
        cls.raw = disk.ensure().read_bytes()
        cls.images = Images(f"{HOSTS[0].address.rpartition('.')[0]}.254")
        cls.images.files["guest.img.gz"] = gzip.compress(cls.raw, 1)
        case.LAB("libvirt", "h1", "h2")
        api = HOSTS[0].api()

        def able():
            rows = {row["name"]: row for row in api.list("/v1/hosts")}
            return all("virtualMachine" in rows[name]["capabilities"] for name in ("h1", "h2"))

        wait_for("h1 and h2 to run virtual machines", 90, able, every=0.5)

    @classmethod
    def tearDownClass(cls):
        cls.images.stop()

    def setUp(self):
        super().setUp()
        self.machines = []

    def tearDown(self):
        for row in self.machines:
            self.purge_machine(row)
        super().tearDown()

    # Making and taking away

    def image(self, name="guest.img.gz", checksum="sha256", **fields):
        """An image of that file; its checksum of this kind, or as it is told."""
        if checksum in ("md5", "sha1", "sha256", "sha512"):
            checksum = f"{checksum}:{hashlib.new(checksum, self.images.files[name]).hexdigest()}"
        body = {"name": name, "url": self.images.url(name), "instanceKind": "virtualMachine", "checksum": checksum}
        return self.api.post("/v1/images", body | fields)

    def machine(self, image=None, wait=True, limit=BOOT, **fields):
        """A virtual machine, running unless told otherwise."""
        body = {"imageId": (image or self.image())["id"], "name": "guest", "memoryMb": 192}
        row = self.api.post("/v1/virtualmachines", body | fields)
        self.machines.append(row)
        return self.api.wait(row, "running", limit) if wait else row

    def purge_machine(self, row):
        def step():
            answer = self.api.ask("GET", f"/v1/virtualmachines/{row['id']}")
            if answer.status == 404 or answer.body["state"] == "purged":
                return True
            for action in ("purge", "remove", "stop"):
                if action in answer.body["actions"]:
                    self.api.ask("POST", f"/v1/virtualmachines/{row['id']}/?action={action}", {})
                    break
            return False

        wait_for(f"{row['id']} to be purged", BOOT, step, every=0.3)
        left = wait_for_nothing(lambda: self.left(row["id"]))
        self.assertEqual(left, "", f"of {row['id']} something is left")

    @staticmethod
    def left(identifier):
        """What is there of it on any host."""
        look = (
            f"virsh -q list --all --name 2>/dev/null | grep -w -- '{identifier}'; ls {POOL} 2>/dev/null | grep '^{identifier}-'; "
            f"ls /var/log/libvirt/qemu 2>/dev/null | grep '^{identifier}-'; ip -o link show st-{identifier} 2>/dev/null; "
            f"ls /var/lib/stampede/instance /var/lib/stampede/report | grep '^{identifier}[.]'; "
            f"systemctl list-units --all --no-legend --plain 'stampede-instance@{identifier}.service' | grep -v not-found; true")
        return "\n".join(f"{host}: {line}" for host in HOSTS for line in host.shell(look).splitlines())

    # Looking

    def console(self, row):
        """What the guest said, all of its runs, from the journal of its unit."""
        text = self.host_of(row).out(
            "journalctl", "--no-pager", "-a", "-o", "cat", "-u", f"stampede-instance@{row['id']}.service", timeout=30)
        return [line.strip() for line in re.findall(r"@@ ([^\r\n]*)", text)]

    def says(self, row, words, limit=BOOT, count=1):
        """Waits until the guest has said a line that begins so, as often as that; gives the last."""
        def said():
            lines = [line for line in self.console(row) if line.startswith(words)]
            return lines[-1] if len(lines) >= count else None

        try:
            return wait_for(f"the guest to say {words!r}", limit, said, every=0.5)
        except TimeoutError as late:
            raise AssertionError(f"{late}; it said: {self.console(row)}") from late

    def domain(self, row):
        """What virsh calls it."""
        return f"{row['name']}-{row['id']}"

    def virsh(self, row, *words):
        return self.host_of(row).out("virsh", "-q", words[0], self.domain(row), *words[1:])

    def qemu(self, row):
        """The pid of its qemu in its host, with when it began."""
        domain = self.domain(row)
        return self.host_of(row).shell(f"pid=$(cat /run/libvirt/qemu/{domain}.pid) && echo $pid $(cut -d' ' -f22 /proc/$pid/stat)")


    def asked(self, row, command):
        """What the guest's shell says to a command, in one line; over its serial console."""
        number = next(_numbers)
        with Stream(self.api, f"/v1/virtualmachines/{row['id']}/serial", raw="true") as stream:
            # What is typed comes back too, and is not the answer.
            stream.say(f"\necho \"@$(({number} + 0))[\" $({command}) \"]@\"\n".encode())
            stream.until(f"@{number}[".encode())
            stream.output = stream.output.split(f"@{number}[".encode(), 1)[1]
            stream.until(b"]@")
            return stream.output.split(b"]@")[0].decode().strip()


class VolumeTest(GuestTest):
    """Volumes made with `volume` are purged at the end."""

    def setUp(self):
        super().setUp()
        self.volumes = []

    def tearDown(self):
        for row in self.machines:
            self.purge_machine(row)
        for volume in self.volumes:
            self.purge_volume(volume)
        super().tearDown()

    def guest(self, **fields):
        """A machine that has booted, on h1 unless told otherwise."""
        row = self.machine(**({"requestedHostId": self.host_id(HOSTS[0])} | fields))
        self.says(row, "up")
        return row

    def volume(self, **fields):
        """A data volume, which its guest has where it was made with one."""
        volume = self.api.post("/v1/volumes", fields)
        self.volumes.append(volume)
        return self.settled(volume, "active" if "instanceId" in fields else "inactive")

    def settled(self, volume, state, limit=60):
        def there():
            now = self.api.get(f"/v1/volumes/{volume['id']}")
            if now["transitioning"] == "error":
                raise AssertionError(f"{now['id']}: {now['transitioningMessage']}")
            return now if now["state"] == state else None

        return wait_for(f"{volume['id']} to be {state}", limit, there, every=0.2)

    def purge_volume(self, volume):
        path = f"/v1/volumes/{volume['id']}"

        def step():
            answer = self.api.ask("GET", path)
            if answer.status == 404 or answer.body["state"] == "purged":
                return True
            for action in ("purge", "remove"):
                if action in answer.body["actions"]:
                    self.api.ask("POST", f"{path}/?action={action}", {})
                    return False
            if answer.body["instanceId"] and answer.body["state"] != "deactivating":
                self.api.ask("PUT", path, {"instanceId": None})
            return False

        wait_for(f"{volume['id']} to be purged", 60, step, every=0.3)
        self.assertEqual(self.files(volume), [], f"of {volume['id']} something is left")

    @staticmethod
    def files(volume):
        """The hosts on which there are files of a volume, one for each file."""
        return [host.name for host in HOSTS for _ in host.shell(f"ls {POOL} 2>/dev/null | grep '^{volume['id']}-'; true").split()]


def wait_for_nothing(look, limit=20):
    """Until there is nothing to see; what there is at last."""
    end = time.monotonic() + limit
    while True:
        seen = look()
        if not seen or time.monotonic() > end:
            return seen
        time.sleep(0.5)
