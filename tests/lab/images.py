"""Images: one that is there is used without a registry; one that is not is an error in Docker's words."""

from case import HOSTS, START, LabTest
from hosts import wait_for


class Absent(LabTest):
    def test_an_absent_image_is_an_error_with_dockers_words(self):
        row = self.make(wait=False, imageUuid="docker:there-is-no-such-image:1")
        failed = wait_for("the error", 120, lambda: (now := self.api.container(row))["transitioning"] == "error" and now)
        self.assertEqual(failed["state"], "stopped")
        self.assertRegex(failed["transitioningMessage"], r"(?i)there-is-no-such-image|no such image|registry|lookup|dial|pull")
        # And it can be tried again, and taken away.
        self.api.act(row, "start")
        wait_for("the error again", 120, lambda: self.api.container(row)["state"] == "stopped")

    def test_a_command_that_is_not_there_is_an_error_with_dockers_words(self):
        row = self.make(wait=False, command="/no/such/program")
        failed = wait_for("the error", START, lambda: (now := self.api.container(row))["transitioning"] == "error" and now)
        self.assertEqual(failed["state"], "stopped")
        self.assertIn("/no/such/program", failed["transitioningMessage"])

    def test_an_image_that_is_there_is_one_row_of_images(self):
        first, second = self.make(), self.make()
        self.assertEqual(first["imageId"], second["imageId"])
        image = self.api.get(f"/v1/images/{first['imageId']}")
        self.assertEqual((image["uuid"], image["state"]), ("docker:busybox", "active"))


class HostWithoutDocker(LabTest):
    def test_it_has_no_container_capability_and_the_others_work(self):
        host = HOSTS[2]
        identifier = self.host_id(host)
        host.run("systemctl", "stop", "docker.socket", "docker.service")
        try:
            host.run("systemctl", "restart", "stampede.service")
            row = wait_for("the capability to go", START, lambda: (
                row := next(one for one in self.api.list("/v1/hosts") if one["name"] == host.name))["state"] == "active"
                and "container" not in row["capabilities"] and row)
            self.assertEqual(row["id"], identifier)
            for _ in range(4):
                self.assertNotEqual(self.host_of(self.make()).name, host.name)
            stuck = self.make(wait=False, requestedHostId=identifier)
            stuck = wait_for("no placement", START, lambda: (now := self.api.container(stuck))["transitioning"] == "error" and now)
            self.assertIn("Failed to find a placement", stuck["transitioningMessage"])
            self.assertIn(host.name, stuck["transitioningMessage"])
        finally:
            host.run("systemctl", "start", "docker.socket", "docker.service")
        # Docker is back, and so is what it is needed for, by itself.
        wait_for("the capability to come back", 120, lambda: "container" in next(
            one for one in self.api.list("/v1/hosts") if one["name"] == host.name)["capabilities"])
        self.api.wait(stuck, "running", 90)
