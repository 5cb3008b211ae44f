"""Virtual machines on the lab: libvirt, qemu and a guest that boots, translated where the processor runs none."""

import struct
import unittest

import case
from api import Api
from browser import Browser
from case import HOSTS
from guests import BOOT, POOL, GuestTest
from hosts import wait_for
from websocket import Stream

# As in an id_ed25519.pub.
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f mine"


class Life(GuestTest):
    def test_from_an_image_to_nothing(self):
        key = self.api.post("/v1/sshkeys", {"name": "mine", "publicValue": KEY})
        userdata = "#!/bin/sh\necho hello from user data\n"
        row = self.machine(name="web", userdata=userdata, credentialIds=[key["id"]], vcpu=2, requestedHostId=self.host_id(HOSTS[0]))
        self.assertEqual(self.host_of(row).name, "h1")
        address, hostname = row["primaryIpAddress"], f"ip-{row['primaryIpAddress'].replace('.', '-')}"
        self.assertRegex(address, r"^10\.42\.")

        # What the guest learned, each way.
        self.says(row, "userdata done")
        said = self.console(row)
        self.assertRegex(said[0], r"^boot 1 of a disk of \d+ MB, 2 processors, 1[5-9]\d MB$")
        self.assertIn(f"config hostname {hostname}", said)
        self.assertIn(f"config address {address}", said)
        self.assertIn(f"config ec2 {row['id']}", said)
        self.assertIn(f'config keys "mine":"{KEY}"', said)
        self.assertIn(f"metadata {row['id']} {address} virtualMachine", said)
        self.assertIn("userdata: hello from user data", said)
        leased = next(line for line in said if line.startswith("dhcp "))
        self.assertRegex(leased, rf"^dhcp {address} router 10\.42\.0\.1 dns 10\.42\.0\.1 hostname {hostname} mtu \d+$")

        # As virsh sees it.
        self.assertEqual(self.virsh(row, "domstate"), "running")
        xml = self.virsh(row, "dumpxml")
        self.assertIn(f"id=\"{row['id']}\"", xml)
        self.assertNotIn("held=", xml)
        self.assertIn("stampede-instance@", self.host_of(row).shell("systemctl list-units --plain --no-legend 'stampede-instance@*'"))

        # On the network: a container of another host reaches it by name, and it is held to its own address.
        other = self.make(requestedHostId=self.host_id(HOSTS[2]))
        self.ping(other, row)
        inside = ["docker", "exec", f"{other['name']}-{other['id']}"]
        self.assertIn(address, HOSTS[2].out(*inside, "nslookup", "web"))
        page = f"{{ printf 'GET / HTTP/1.0\r\n\r\n'; sleep 1; }} | nc -w 5 {address} 80"
        self.assertIn(hostname, HOSTS[2].out(*inside, "sh", "-c", page))
        port = HOSTS[0].shell(f"bridge -d link show dev st-{row['id']}; bridge fdb show dev st-{row['id']}")
        self.assertIn("isolated on", port)
        self.assertIn("learning off", port)
        self.assertIn("static", port)

        # A stop is asked for; what it has written is there when it comes back.
        row = self.api.wait(self.api.act(row, "stop"), "stopped", BOOT)
        self.says(row, "power button")
        self.assertEqual(self.virsh(row, "domstate"), "shut off")
        row = self.api.wait(self.api.act(row, "start"), "running", BOOT)
        self.says(row, "boot 2 ")
        self.says(row, "up", count=2)
        row = self.api.wait(self.api.act(row, "restart"), "running", BOOT)
        self.says(row, "boot 3 ")
        self.assertEqual(row["primaryIpAddress"], address)

        # Other sizes, while it is stopped.
        self.refused(422, "ActionNotAvailable", self.api.put, f"/v1/virtualmachines/{row['id']}", {"memoryMb": 256})
        row = self.api.wait(self.api.act(row, "stop"), "stopped", BOOT)
        for fields, code in (({"memoryMb": 1}, "MinLimitExceeded"), ({"vcpu": 0}, "MinLimitExceeded"), ({"memoryMb": None}, "NotNullable"),
                             ({"memoryMb": 1 << 29}, "MaxLimitExceeded")):
            self.refused(422, code, self.api.put, f"/v1/virtualmachines/{row['id']}", fields)
        row = self.api.put(f"/v1/virtualmachines/{row['id']}", {"memoryMb": 256, "vcpu": 1})
        self.assertEqual((row["state"], row["memoryMb"], row["vcpu"]), ("stopped", 256, 1))
        row = self.api.wait(self.api.act(row, "start"), "running", BOOT)
        self.assertRegex(self.says(row, "boot 4 "), r"1 processors, 2[0-5]\d MB$")

        # Removed, it is there yet; purged, it is not (tearDown looks).
        self.api.delete(f"/v1/virtualmachines/{row['id']}")
        row = self.api.wait(row, "removed", BOOT)
        row = self.api.wait(self.api.act(row, "restore"), "stopped")
        self.assertIn(f"{row['id']}-root.qcow2", HOSTS[0].out("ls", POOL))

    def test_its_end_is_seen_whoever_brings_it_about(self):
        row = self.machine(userdata="#!/bin/sh\nsleep 1; sync; poweroff -f\n")
        row = self.api.wait(row, "stopped", BOOT)
        self.assertEqual(self.virsh(row, "domstate"), "shut off")

        row = self.machine(name="other", instanceTriggeredStop="restart")
        self.says(row, "up")
        before = self.qemu(row)
        self.host_of(row).out("kill", "-9", before.split()[0])
        wait_for("another qemu", 30, lambda: self.qemu(row) != before)
        self.says(row, "boot 2 ")
        row = self.api.wait(row, "running")
        self.api.put(f"/v1/virtualmachines/{row['id']}", {"instanceTriggeredStop": "stop"})
        self.virsh(row, "destroy")
        wait_for("it to be stopped", 30, lambda: self.api.container(row)["state"] == "stopped")


class Faults(GuestTest):
    def test_runs_on_whoever_is_started_again(self):
        row = self.machine()
        self.says(row, "up")
        host, before = self.host_of(row), self.qemu(row)
        host.out("systemctl", "kill", "-s", "KILL", "stampede.service")
        host.out("systemctl", "kill", "-s", "KILL", "stampede-libvirt.service")
        host.out("systemctl", "kill", "-s", "KILL", f"stampede-instance@{row['id']}.service")
        host.out("systemctl", "restart", "libvirtd.service")
        wait_for("all to be as it was", 60, lambda: self.whole(row), every=0.5)
        self.assertEqual(self.qemu(row), before)
        # Who ends while libvirt is away has ended all the same.
        host.out("systemctl", "stop", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket", "libvirtd.service")
        host.out("kill", "-9", before.split()[0])
        host.out("systemctl", "start", "libvirtd.socket")
        wait_for("its end to be seen", 60, lambda: self.api.container(row)["state"] == "stopped", every=0.5)

    def whole(self, row):
        host = self.host_of(row)
        states = host.out("systemctl", "is-active", "stampede.service", f"stampede-instance@{row['id']}.service", check=False)
        return states.split() == ["active", "active"] and host.out("virsh", "-q", "domstate", self.domain(row)) == "running" and \
            self.api.container(row)["state"] == "running"

    def test_images_that_are_not_what_they_should_be(self):
        qcow2 = HOSTS[0].path("/root/backed.qcow2")
        HOSTS[0].shell("cd /root && qemu-img create -q -f qcow2 -F raw -b /etc/shadow backed.qcow2 64M")
        self.images.files["backed.qcow2"] = qcow2.read_bytes()
        qcow2.unlink()
        self.images.files["cut.gz"] = self.images.files["guest.img.gz"][:-1000]
        for name, checksum, words in (
                ("guest.img.gz", "0" * 64, "checksum"),
                ("backed.qcow2", "sha1", "a backing file"),
                ("cut.gz", "md5", "unpacked"),
                ("nothing", None, "404")):
            with self.subTest(name):
                row = self.machine(self.image(name, checksum), wait=False)
                row = wait_for(f"{name} to fail", 60, lambda one=row: self.failed(one))
                self.assertIn(words, row["transitioningMessage"])
        self.assertNotIn(".part", "".join(host.shell(f"ls {POOL}/images 2>/dev/null; true") for host in HOSTS))

    def failed(self, row):
        now = self.api.container(row)
        return now if now["transitioning"] == "error" else None

    def test_an_image_comes_once_and_goes_on_where_it_broke_off(self):
        name = "once.img.gz"
        self.images.files[name] = self.images.files["guest.img.gz"] + b""
        self.images.cut[name] = len(self.images.files[name]) // 2
        self.images.asked.clear()
        image = self.image(name, "sha512")
        host = self.host_id(HOSTS[1])
        rows = [self.machine(image, wait=False, requestedHostId=host, name=f"guest{at}") for at in range(2)]
        rows = [self.api.wait(row, "running", BOOT) for row in rows]
        self.assertEqual([asked for asked in self.images.asked if asked[0] == name],
                         [(name, None), (name, f"bytes={len(self.images.files[name]) // 2}-")])
        for row in rows:
            self.says(row, "up")

    def test_the_agent_is_killed_in_the_middle_of_a_create(self):
        name = "slow.img.gz"
        self.images.files[name] = self.images.files["guest.img.gz"]
        self.images.slow[name] = 0.05
        row = self.machine(self.image(name), wait=False, requestedHostId=self.host_id(HOSTS[0]))
        wait_for("the image to be on its way", 30, lambda: "fetching" in (self.api.container(row)["transitioningMessage"] or ""))
        HOSTS[0].out("systemctl", "kill", "-s", "KILL", "stampede.service")
        row = wait_for("it to run", BOOT, lambda: (
            (now := HOSTS[1].api().container(row))["state"] == "running" and now))
        self.says(row, "up")


class Consoles(GuestTest):
    def test_a_screen_and_a_serial_line_from_another_host(self):
        row = self.machine(requestedHostId=self.host_id(HOSTS[0]))
        self.assertIn("console", row["actions"])
        self.says(row, "up")
        api = HOSTS[1].api()
        access = api.act(row, "console")
        self.assertEqual((access["type"], access["kind"]), ("instanceConsole", "websocket-vnc"))
        self.assertTrue(access["url"].startswith(f"ws://{HOSTS[1].address}:"), access["url"])
        # By the address alone, without a key.
        width, height, name, picture = screen(Api(HOSTS[1].api_address), "/" + access["url"].split("/", 3)[3])
        self.assertGreater(width * height, 100_000)
        self.assertIn(self.domain(row), name)
        self.assertGreater(len(set(picture)), 1, "the picture is of one colour")
        wrong = "/" + access["url"].split("/", 3)[3][:-4] + "0000"
        self.refused(401, "Unauthorized", Stream, Api(HOSTS[1].api_address), wrong)

        with Stream(api, f"/v1/virtualmachines/{row['id']}/serial", raw="true") as stream:
            stream.say(b"\necho it is $((6 * 7))\n")
            stream.until(b"it is 42")
        row = self.api.wait(self.api.act(row, "stop"), "stopped", BOOT)
        self.assertNotIn("console", row["actions"])
        self.refused(422, "ActionNotAvailable", self.api.act, row, "console")

    def test_one_is_made_on_the_page_and_its_screen_is_there(self):
        image = self.image()
        browser = Browser()
        self.addCleanup(browser.close)
        page = browser.person(f"http://{HOSTS[1].api_address}").sign_in(*case.LAB.key).page
        page.get_by_role("article", name="h1", exact=True).get_by_role("link", name="Add a VM").click()
        page.locator("[data-field=name]").fill("by hand")
        page.locator("[data-field=imageId]").click()
        page.get_by_role("option", name=f"guest.img.gz ({image['id']})").click()
        page.locator("[data-field=memoryMb]").fill("192")
        page.get_by_role("button", name="Create", exact=True).click()
        page.get_by_role("heading", name="by hand").wait_for()
        row = self.api.get(f"/v1/virtualmachines/{page.url.rsplit('/', 1)[1]}")
        self.machines.append(row)
        row = self.api.wait(row, "running", BOOT)
        self.assertEqual((row["hostId"], row["memoryMb"]), (self.host_id(HOSTS[0]), 192))
        page.get_by_role("tab", name="Screen").click()
        page.locator(".console canvas").wait_for()
        wait_for("a picture of more than one colour", BOOT, lambda: page.evaluate(COLOURS) > 1, every=0.5)


# How many the canvas has, of its first 64,000 pixels.
COLOURS = """() => {
  const canvas = document.querySelector('.console canvas');
  const pixels = new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.buffer);
  return new Set(pixels.subarray(0, 64000)).size;
}"""


def screen(api, path):
    """What a VNC client (RFC 6143) sees: width, height, the desktop's name, the pixels' bytes."""
    with Stream(api, path) as stream:
        version = stream.take(12)
        if not version.startswith(b"RFB 003.00"):
            raise AssertionError(f"this is no VNC: {version!r}")
        stream.say(version)
        kinds = stream.take(stream.take(1)[0])
        if 1 not in kinds:
            raise AssertionError(f"it wants a password: {kinds!r}")
        stream.say(b"\x01")
        if stream.take(4) != b"\0\0\0\0":
            raise AssertionError("it lets nobody in")
        stream.say(b"\x01")
        width, height, bits, length = struct.unpack("!HHB15xI", stream.take(24))
        name = stream.take(length).decode()
        stream.say(struct.pack("!BxHi", 2, 1, 0) + struct.pack("!BBHHHH", 3, 0, 0, 0, width, height))
        picture = b""
        while len(picture) < width * height * bits // 8:
            kind, rectangles = struct.unpack("!BxH", stream.take(4))
            if kind != 0:
                raise AssertionError(f"a message of kind {kind} instead of a picture")
            for _ in range(rectangles):
                _, _, wide, high, encoding = struct.unpack("!HHHHi", stream.take(12))
                if encoding != 0:
                    raise AssertionError(f"encoding {encoding} was not asked for")
                picture += stream.take(wide * high * bits // 8)
        return width, height, name, picture


class Placing(GuestTest):
    def test_a_host_without_libvirt_is_a_host_all_the_same(self):
        hosts = {row["name"]: row for row in self.api.list("/v1/hosts")}
        self.assertNotIn("virtualMachine", hosts["h3"]["capabilities"])
        self.assertEqual(hosts["h3"]["warnings"], [])
        self.assertEqual(hosts["h1"]["versions"]["accelerator"], "tcg")
        self.assertIn("translated", hosts["h1"]["warnings"][0])
        row = self.machine(wait=False, requestedHostId=hosts["h3"]["id"])
        row = wait_for("it to find no place", 20, lambda: (
            (now := self.api.container(row))["transitioning"] == "error" and now))
        self.assertIn("runs no virtual machines", row["transitioningMessage"])
        self.make(requestedHostId=hosts["h3"]["id"])

    def test_what_is_asked_for_is_checked(self):
        image = self.image()
        for fields, status, code in (
                ({"imageId": None}, 422, "MissingRequired"),
                ({"imageUuid": "docker:busybox", "imageId": None}, 422, "InvalidImageInstanceKind"),
                ({"imageUuid": "nothing", "imageId": None}, 422, "InvalidReference"),
                ({"onHostLoss": "move"}, 422, "InvalidOption"),
                ({"memoryMb": 1}, 422, "MinLimitExceeded"),
                ({"vcpu": 0}, 422, "MinLimitExceeded")):
            with self.subTest(fields):
                self.refused(status, code, self.api.post, "/v1/virtualmachines", {"imageId": image["id"]} | fields)
        self.refused(422, "InvalidFormat", self.api.post, "/v1/images", {"url": "file:///etc/shadow", "instanceKind": "virtualMachine"})
        self.refused(422, "InvalidFormat", self.api.post, "/v1/images", {"url": "http://x/y", "checksum": "12"})


if __name__ == "__main__":
    unittest.main()
