"""Volumes of virtual machines on the lab: disks that come and go while the guest runs, grow, and are nobody else's meanwhile."""

import re
import unittest

from case import HOSTS, cluster_is_whole
from guests import BOOT, POOL, VolumeTest
from hosts import wait_for


class Volumes(VolumeTest):
    def test_a_disk_comes_grows_and_goes_while_the_guest_runs(self):
        row = self.guest()
        volume = self.volume(virtualSizeMb=16, instanceId=row["id"], name="data")
        self.assertEqual((volume["deviceNumber"], volume["hostId"], volume["format"]), (1, row["hostId"], "qcow2"))
        self.assertEqual(self.asked(row, "cat /sys/block/vdc/size /sys/block/vdc/serial"), f"32768 {volume['id']}")
        self.asked(row, "printf kept | dd of=/dev/vdc conv=fsync 2>/dev/null")
        self.assertIn(volume["id"], [one["id"] for one in self.api.list(f"/v1/virtualmachines/{row['id']}/volumes")])

        # Larger, and the guest is told.
        self.api.put(f"/v1/volumes/{volume['id']}", {"virtualSizeMb": 24})
        self.settled(volume, "active")
        self.assertEqual(self.asked(row, "cat /sys/block/vdc/size"), "49152")
        self.refused(422, "MinLimitExceeded", self.api.put, f"/v1/volumes/{volume['id']}", {"virtualSizeMb": 16})

        # Nobody else opens it, whoever asks.
        self.assertIn("lock", self.opened_by_another(row, volume))
        self.refused(422, "ActionNotAvailable", self.api.delete, f"/v1/volumes/{volume['id']}")

        # It is there after a stop, a start, and a start of all who see to it.
        host = self.host_of(row)
        row = self.api.wait(self.api.act(row, "stop"), "stopped", BOOT)
        host.out("systemctl", "kill", "-s", "KILL", "stampede.service", "stampede-libvirt.service")
        self.api = HOSTS[1].api()
        row = self.api.wait(self.api.act(row, "start"), "running", BOOT)
        self.says(row, "up", count=2)
        self.assertEqual(self.asked(row, "head -c 4 /dev/vdc"), "kept")

        # Gone from the guest, it is another's; one on another host cannot have it.
        self.api.put(f"/v1/volumes/{volume['id']}", {"instanceId": None})
        volume = self.settled(volume, "inactive")
        self.assertIsNone(volume["instanceId"])
        self.assertEqual(self.asked(row, "ls /dev/vdc 2>/dev/null || echo none"), "none")
        other = self.guest(name="other")
        other = self.api.wait(self.api.act(other, "stop"), "stopped", BOOT)
        self.api.put(f"/v1/volumes/{volume['id']}", {"instanceId": other["id"]})
        self.settled(volume, "active")
        other = self.api.wait(self.api.act(other, "start"), "running", BOOT)
        self.says(other, "up", count=2)
        self.assertEqual(self.asked(other, "head -c 4 /dev/vdc"), "kept")
        self.refused(422, "InvalidOption", self.api.put, f"/v1/volumes/{volume['id']}", {"instanceId": row["id"]})

        # Its guest stops, it is taken from it, and goes.
        self.api.wait(self.api.act(other, "stop"), "stopped", BOOT)
        self.api.put(f"/v1/volumes/{volume['id']}", {"instanceId": None})
        self.settled(volume, "inactive")
        self.assertEqual(self.files(volume), ["h1"])
        self.purge_volume(volume)

    def test_the_disk_of_a_machine_itself_grows_running_or_not(self):
        row = self.guest(diskMb=128)
        own = self.api.list(f"/v1/virtualmachines/{row['id']}/volumes")[0]
        self.assertEqual((own["virtualSizeMb"], own["deviceNumber"], own["actions"]), (128, 0, {}))
        self.api.put(f"/v1/volumes/{own['id']}", {"virtualSizeMb": 160})
        wait_for("the guest to see it", 30, lambda: self.asked(row, "cat /sys/block/vda/size") == str(160 << 11))
        row = self.api.wait(self.api.act(row, "stop"), "stopped", BOOT)
        self.api.put(f"/v1/volumes/{own['id']}", {"virtualSizeMb": 192})
        row = self.api.wait(self.api.act(row, "start"), "running", BOOT)
        self.says(row, "boot 1 of a disk of 192 MB")

    def test_where_a_volume_cannot_be(self):
        row, container = self.guest(), self.make()
        elsewhere = self.guest(requestedHostId=self.host_id(HOSTS[1]), name="elsewhere")
        for fields, code in (({"instanceId": row["id"]}, "MissingRequired"),
                             ({"virtualSizeMb": 0}, "MinLimitExceeded"),
                             ({"virtualSizeMb": 1, "instanceId": container["id"]}, "InvalidOption"),
                             ({"virtualSizeMb": 1, "imageId": row["imageId"]}, "InvalidOption")):
            with self.subTest(fields):
                self.refused(422, code, self.api.post, "/v1/volumes", fields)
        volume = self.volume(virtualSizeMb=1, instanceId=row["id"])
        self.refused(422, "InvalidOption", self.api.act, row, "stop", {"deallocateFromHost": True})
        # Its instance goes, and it stays.
        self.purge_machine(row)
        volume = self.settled(volume, "inactive")
        self.assertEqual(self.files(volume), ["h1"])
        self.refused(422, "InvalidOption", self.api.put, f"/v1/volumes/{volume['id']}", {"instanceId": elsewhere["id"]})

    def opened_by_another(self, row, volume):
        """What libvirt says to somebody who starts another machine with the same disk."""
        xml = (
            "<domain type='qemu'><name>thief</name><memory unit='MiB'>32</memory><os><type arch='x86_64' machine='q35'>hvm</type></os>"
            f"<devices><disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{POOL}/{volume['id']}-data.qcow2'/>"
            "<target dev='vda' bus='virtio'/></disk></devices></domain>")
        host = self.host_of(row)
        host.path("/root/thief.xml").write_text(xml)
        said = host.shell("virsh create /root/thief.xml 2>&1; virsh destroy thief 2>/dev/null; rm /root/thief.xml", check=False)
        self.assertRegex(said, re.compile("failed", re.I))
        return said


class Snapshots(VolumeTest):
    # A place of a disk beyond what a guest's own image says of it.
    HERE = "bs=1M seek=1 conv=notrunc,fsync 2>/dev/null"

    def write(self, row, disk, word):
        self.asked(row, f"printf %-8s {word} | dd of=/dev/{disk} {self.HERE}")

    def word(self, row, disk):
        return self.asked(row, f"dd if=/dev/{disk} bs=1M skip=1 count=1 2>/dev/null | head -c 8")

    def snapshot(self, volume, name):
        made = self.api.post("/v1/snapshots", {"volumeId": volume["id"], "name": name})
        self.assertEqual(made["volumeId"], volume["id"])
        return self.taken(made)

    def taken(self, snapshot):
        def there():
            now = self.api.get(f"/v1/snapshots/{snapshot['id']}")
            if now["transitioning"] == "error":
                raise AssertionError(now["transitioningMessage"])
            return now if now["state"] == "active" else None

        return wait_for(f"the snapshot {snapshot['id']}", 60, there, every=0.2)

    def revert(self, snapshot):
        return self.api.post(f"/v1/snapshots/{snapshot['id']}/?action=revert", {})

    def layers(self, volume):
        stem = volume["id"].replace("1v", "1i") + "-root." if volume["deviceNumber"] == 0 else volume["id"] + "-data."
        return sorted(name for name in HOSTS[0].out("ls", POOL).split() if name.startswith(stem))

    def started(self, row, boots):
        row = self.api.wait(self.api.act(row, "start"), "running", BOOT)
        self.says(row, "up", count=boots)
        return row

    def test_a_volume_is_what_it_was(self):
        row = self.guest()
        volume = self.volume(virtualSizeMb=16, instanceId=row["id"], name="data")
        self.write(row, "vdc", "one")
        first = self.snapshot(volume, "first")
        volume = self.settled(volume, "active")
        # Taken while it runs: what is written from now on is not in it.
        self.write(row, "vdc", "two")
        second = self.snapshot(volume, "second")
        self.settled(volume, "active")
        self.write(row, "vdc", "three")
        self.assertEqual(self.word(row, "vdc"), "three")
        self.assertEqual(len(self.layers(volume)), 3)
        self.refused(422, "ActionNotAvailable", self.revert, first)

        row = self.api.wait(self.api.act(row, "stop"), "stopped", BOOT)
        self.revert(first)
        self.settled(volume, "active")
        row = self.started(row, 2)
        self.assertEqual(self.word(row, "vdc"), "one")
        self.write(row, "vdc", "four")
        row = self.api.wait(self.api.act(row, "stop"), "stopped", BOOT)
        self.revert(second)
        self.settled(volume, "active")
        row = self.started(row, 3)
        self.assertEqual(self.word(row, "vdc"), "two")
        # Larger than when it was taken, it stays so.
        self.api.put(f"/v1/volumes/{volume['id']}", {"virtualSizeMb": 24})
        self.settled(volume, "active")
        self.assertEqual(self.asked(row, "cat /sys/block/vdc/size"), "49152")

        # Removed, they leave nothing that is asked for by nobody.
        listed = [one["id"] for one in self.api.list("/v1/snapshots", volumeId=volume["id"])]
        self.assertEqual(listed, [first["id"], second["id"]])
        for one in (first, second):
            self.assertEqual(self.api.delete(f"/v1/snapshots/{one['id']}")["state"], "removed")
            self.refused(404, "Not Found", self.api.get, f"/v1/snapshots/{one['id']}")
            self.settled(volume, "active")
        wait_for("layers to be merged", 60, lambda: len(self.layers(volume)) == 2, every=0.5)
        self.assertEqual(self.word(row, "vdc"), "two")
        row = self.api.wait(self.api.act(row, "stop"), "stopped", BOOT)
        row = self.started(row, 4)
        self.assertEqual(self.word(row, "vdc"), "two")

        # One that is nobody's disk.
        self.api.put(f"/v1/volumes/{volume['id']}", {"instanceId": None})
        self.settled(volume, "inactive")
        third = self.snapshot(volume, "third")
        self.settled(volume, "inactive")
        self.revert(third)
        self.settled(volume, "inactive")
        self.purge_volume(volume)
        self.refused(422, "InvalidReference", self.api.post, "/v1/snapshots", {"volumeId": volume["id"]})

    def test_the_disk_of_a_machine_itself_is_what_it_was(self):
        row = self.guest()
        own = self.api.list(f"/v1/virtualmachines/{row['id']}/volumes")[0]
        self.says(row, "boot 1 ")
        kept = self.snapshot(own, "fresh")
        row = self.api.wait(self.api.act(row, "stop"), "stopped", BOOT)
        row = self.started(row, 2)
        self.says(row, "boot 2 ")
        row = self.api.wait(self.api.act(row, "stop"), "stopped", BOOT)
        self.revert(kept)
        row = self.started(row, 3)
        # The second time that it boots for the second time.
        self.says(row, "boot 2 ", count=2)
        again = self.snapshot(own, "again")
        for one in (kept, again):
            self.api.delete(f"/v1/snapshots/{one['id']}")
        wait_for("layers to be merged", 60, lambda: len(self.layers(own)) == 2, every=0.5)
        row = self.api.wait(self.api.act(row, "restart"), "running", BOOT)
        self.says(row, "boot 3 ")

    def test_a_host_that_is_cut_off_in_the_middle_goes_on(self):
        row = self.guest()
        host = self.host_of(row)
        volume = self.volume(virtualSizeMb=16, instanceId=row["id"])
        self.write(row, "vdc", "kept")
        api = HOSTS[1].api()
        made = api.post("/v1/snapshots", {"volumeId": volume["id"]})
        host.out("systemctl", "kill", "-s", "KILL", "stampede.service", "stampede-libvirt.service")
        self.api = api
        self.taken(made)
        cluster_is_whole()
        self.write(row, "vdc", "lost")
        row = api.wait(api.act(row, "stop"), "stopped", BOOT)
        api.post(f"/v1/snapshots/{made['id']}/?action=revert", {})
        host.out("systemctl", "kill", "-s", "KILL", "stampede.service", "stampede-libvirt.service")
        row = api.wait(api.act(row, "start"), "running", BOOT)
        self.says(row, "up", count=2)
        cluster_is_whole()
        self.assertEqual(self.word(row, "vdc"), "kept")


class Full(VolumeTest):
    def fill(self):
        HOSTS[0].shell(f"dd if=/dev/zero of={POOL}/filler bs=64k 2>/dev/null; true")

    def failed(self, path):
        def look():
            now = self.api.get(path)
            return now if now["transitioning"] == "error" else None

        return wait_for(f"{path} to fail", 60, look, every=0.3)

    def test_a_full_disk_is_told_of_and_gone_on_with_when_there_is_room(self):
        host = HOSTS[0]
        host.shell(f"mkdir -p {POOL} && mount -t tmpfs -o size=480m,mode=0711 tmpfs {POOL}")
        self.addCleanup(host.shell, f"umount {POOL}")
        row = self.guest()
        self.fill()
        volume = self.api.post("/v1/volumes", {"virtualSizeMb": 16, "instanceId": row["id"]})
        self.volumes.append(volume)
        failed = self.failed(f"/v1/volumes/{volume['id']}")
        self.assertEqual(failed["state"], "activating")
        self.assertIn("No space left", failed["transitioningMessage"])
        host.out("rm", f"{POOL}/filler")
        path = f"/v1/volumes/{volume['id']}"
        wait_for("the volume to be there all the same", 60, lambda: self.api.get(path)["state"] == "active", every=0.3)
        self.asked(row, "printf kept | dd of=/dev/vdc conv=fsync 2>/dev/null")
        self.fill()
        snapshot = self.api.post("/v1/snapshots", {"volumeId": volume["id"]})
        self.assertIn("No space left", self.failed(f"/v1/snapshots/{snapshot['id']}")["transitioningMessage"])
        host.out("rm", f"{POOL}/filler")
        path = f"/v1/snapshots/{snapshot['id']}"
        wait_for("the snapshot to be there all the same", 60, lambda: self.api.get(path)["state"] == "active", every=0.3)
        self.assertEqual(self.asked(row, "head -c 4 /dev/vdc"), "kept")
        self.purge_machine(row)
        self.purge_volume(volume)
        # Nothing is left but what others may need: the image.
        left = host.shell(f"find {POOL} -type f").split()
        self.assertEqual([path for path in left if "/images/" not in path], [])


if __name__ == "__main__":
    unittest.main()
