"""What people start with Docker alone on the managed network: it has its place there, and the API shows and ends it."""

import json
import time

from case import HOSTS, SOON, START, LabTest
from hosts import at_once, container_name, wait_for

SERVE = "echo {name} > /tmp/index.html; exec busybox httpd -f -p 80 -h /tmp"


class Adopted(LabTest):
    def setUp(self):
        super().setUp()
        # Another than the one that is asked: its agent is stopped here.
        self.host, self.other = HOSTS[1], HOSTS[2]

    def tearDown(self):
        for host in HOSTS:
            host.shell("docker rm -f $(docker ps -aq --filter label=adopted-test) 2>/dev/null", check=False)
        wait_for("all of them to be gone from the API", START, lambda: not self.natives())
        super().tearDown()

    def docker_run(self, name, *options, host=None, command=None):
        """Docker's own word on it."""
        host = host or self.host
        command = command or SERVE.format(name=name)
        host.run("docker", "run", "-d", "--net", "stampede", "--name", name, "--label", "adopted-test", "--stop-signal", "KILL", *options,
                 "busybox", "sh", "-c", command)
        return self.inspect(name, host)

    def inspect(self, name, host=None):
        return json.loads((host or self.host).out("docker", "inspect", name))[0]

    @staticmethod
    def place(found):
        return found["NetworkSettings"]["Networks"]["stampede"]

    def natives(self, **filters):
        rows = self.api.list("/v1/containers", nativeContainer="true", **filters)
        return [row for row in rows if row["state"] not in ("removed", "purging", "purged")]

    def row_of(self, found, state="running", limit=SOON):
        """Its row, by Docker's id, when it is in that state."""
        rows = []

        def there():
            rows[:] = [row for row in self.natives() if row["externalId"] == found["Id"] and row["state"] == state]
            return rows

        wait_for(f"{found['Name']} to be {state} in the API", limit, there, every=0.1)
        return rows[0]

    def gone(self, identifier, limit=SOON):
        wait_for(f"{identifier} to be gone", limit, lambda: self.api.container(identifier)["state"] in ("removed", "purging", "purged"), every=0.1)

    def inside(self, name, *command, host=None, **options):
        return (host or self.host).out("docker", "exec", name, *command, **options)

    def fetch(self, source, url, host=None):
        return self.inside(source, "wget", "-q", "-T", "3", "-O", "-", url, host=host, check=False)

    def kept(self, host):
        return json.loads(host.out("cat", "/var/lib/stampede/docker.json"))["addresses"]

    def test_it_is_on_the_network_and_in_the_api(self):
        began = time.monotonic()
        found = self.docker_run("lone")
        row = self.row_of(found)
        print(f"              docker run until it is shown: {time.monotonic() - began:.2f} s")
        place = self.place(found)
        self.assertEqual((row["primaryIpAddress"], row["name"], row["hostId"]), (place["IPAddress"], "lone", self.host_id(self.host)))
        self.assertEqual((row["imageUuid"], row["kind"], row["nativeContainer"]), ("docker:busybox", "container", True))
        parts = [int(part) for part in place["IPAddress"].split(".")]
        self.assertEqual((place["Gateway"], place["MacAddress"]), ("10.42.0.1", f"02:00:01:00:{parts[2]:02x}:{parts[3]:02x}"))
        network = json.loads(self.host.out("docker", "network", "inspect", "stampede"))[0]
        self.assertEqual(network["Containers"][found["Id"]]["IPv4Address"], f"{place['IPAddress']}/16")
        self.assertIn(place["IPAddress"], self.inside("lone", "ip", "addr", "show", "eth0"))
        self.assertEqual(self.host.shell("systemctl list-units --no-legend 'stampede-instance@" + row["id"] + "*'"), "", "nothing stands by it")
        # From here and from another host, both ways, and out.
        near, far = self.make(requestedHostId=self.host_id(self.host)), self.make(requestedHostId=self.host_id(self.other), name="far-one")
        for one in (near, far):
            self.ping(one, row)
            self.inside("lone", "ping", "-c", "1", "-W", "3", one["primaryIpAddress"])
        self.inside("lone", "ping", "-c", "1", "-W", "3", self.other.address)
        # Names, both ways.
        self.assertIn(row["primaryIpAddress"], self.inside_of(far, "nslookup", "lone.stampede.internal", "10.42.0.1"))
        self.assertIn(far["primaryIpAddress"], self.inside("lone", "nslookup", "far-one.stampede.internal", "10.42.0.1"))

    def inside_of(self, row, *command):
        return self.host_of(row).out("docker", "exec", container_name(row), *command)

    def test_names_as_docker_has_its_containers_ask(self):
        # Docker has them ask whom the host asks; that it is nobody real here makes sure who answers.
        self.host.shell("cp --remove-destination $(readlink -f /etc/resolv.conf) /run/resolv.before; rm -f /etc/resolv.conf; echo nameserver 198.18.0.250 > /etc/resolv.conf")
        self.addCleanup(self.host.shell, "rm -f /etc/resolv.conf; ln -s /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf; systemctl restart stampede", check=False)
        self.host.run("systemctl", "restart", "stampede")
        far = self.make(requestedHostId=self.host_id(self.other), name="asked-for")
        self.row_of(self.docker_run("asker"))
        for name in ("asked-for.stampede.internal", "asked-for"):
            wait_for(f"an answer about {name}", SOON, lambda name=name: far["primaryIpAddress"] in self.inside("asker", "nslookup", name, check=False), every=0.5)

    def test_what_docker_does_shows(self):
        row = self.row_of(self.docker_run("changing"))
        self.host.run("docker", "rename", "changing", "Changed_1")
        wait_for("its new name", SOON, lambda: self.api.container(row)["name"] == "Changed_1", every=0.1)
        self.host.run("docker", "stop", "-t", "0", "Changed_1")
        stopped = self.row_of(self.inspect("Changed_1"), "stopped")
        self.assertEqual((stopped["id"], stopped["primaryIpAddress"]), (row["id"], None))
        self.host.run("docker", "start", "Changed_1")
        again = self.row_of(self.inspect("Changed_1"))
        self.assertEqual((again["id"], again["primaryIpAddress"]), (row["id"], self.place(self.inspect("Changed_1"))["IPAddress"]))
        # Off the network it is nobody's here, and stays what it is.
        self.host.run("docker", "network", "disconnect", "stampede", "Changed_1")
        self.gone(row["id"])
        self.made.append(row["id"])
        self.purge(row["id"])
        self.assertTrue(self.inspect("Changed_1")["State"]["Running"])
        self.host.run("docker", "network", "connect", "stampede", "Changed_1")
        wait_for("it is there again", START, lambda: self.natives(name="Changed_1"))
        again = self.row_of(self.inspect("Changed_1"))
        self.host.run("docker", "rm", "-f", "Changed_1")
        self.gone(again["id"])

    def test_the_api_ends_and_starts_it(self):
        row = self.row_of(self.docker_run("asked"))
        self.assertNotIn("purge", row["actions"])
        self.api.act(row, "stop")
        self.api.wait(row, "stopped", START)
        self.assertFalse(self.inspect("asked")["State"]["Running"])
        self.api.act(self.api.container(row), "start")
        row = self.api.wait(row, "running", START)
        found = self.inspect("asked")
        self.assertEqual((found["State"]["Running"], self.place(found)["IPAddress"]), (True, row["primaryIpAddress"]))
        self.api.act(row, "restart")
        wait_for("another start of it", START, lambda: self.inspect("asked")["State"]["StartedAt"] != found["State"]["StartedAt"])
        self.api.wait(row, "running", START)
        self.made.append(row["id"])
        self.purge(row["id"])
        self.assertEqual(self.host.out("docker", "ps", "-aq", "--filter", "name=asked"), "")

    def test_others_link_to_it(self):
        native = self.row_of(self.docker_run("target", "--expose", "80"))
        source = self.make(requestedHostId=self.host_id(self.other), instanceLinks={"web": native["id"]})
        environment = self.inside_of(source, "env")
        self.assertIn("WEB_PORT_80_TCP=tcp://10.42.0.1:", environment)
        port = next(line for line in environment.splitlines() if line.startswith("WEB_PORT_80_TCP_PORT=")).partition("=")[2]
        fetch = lambda: self.inside_of(source, "wget", "-q", "-T", "3", "-O", "-", f"http://10.42.0.1:{port}/")  # noqa: E731
        self.assertEqual(fetch(), "target")
        self.assertIn(native["primaryIpAddress"], self.inside_of(source, "nslookup", "web.stampede.internal", "10.42.0.1"))
        # Elsewhere at another address, and the link follows.
        self.host.run("docker", "restart", "-t", "0", "target")
        wait_for("the link to follow", SOON, lambda: self.host_try(fetch) == "target", every=0.2)

    @staticmethod
    def host_try(work):
        try:
            return work()
        except Exception:  # noqa: BLE001
            return None

    def test_one_name_on_two_hosts_and_odd_ones(self):
        rows = [self.row_of(self.docker_run("twin", host=host)) for host in (self.host, self.other)]
        self.assertNotEqual(rows[0]["id"], rows[1]["id"])
        self.assertEqual(len(self.natives(name="twin")), 2)
        self.row_of(self.docker_run("A.strange_-Name.of.someone"))
        many = [f"many-{number}" for number in range(12)]
        at_once(self.docker_run, many, width=6)
        addresses = {self.row_of(self.inspect(name), limit=START)["primaryIpAddress"] for name in many}
        self.assertEqual(len(addresses), len(many))

    def test_what_cannot_be_is_said(self):
        def refused(*options):
            result = self.host.run("docker", "run", "-d", "--net", "stampede", "--label", "adopted-test", *options, "busybox", "true", check=False)
            self.assertNotEqual(result.returncode, 0)
            return result.stderr

        self.assertIn("publish nothing on the managed network", refused("-p", "8080:80"))
        self.assertIn("no instance on this host has the address", refused("--ip", "10.42.255.9"))
        self.assertIn("leave --mac-address out", refused("--mac-address", "02:42:00:00:00:07"))
        chosen = self.kept(self.host)[-1]
        self.assertEqual(self.place(self.docker_run("chosen", "--ip", chosen))["IPAddress"], chosen)
        self.assertIn("is in use", refused("--ip", chosen))

    def test_an_agent_that_was_away_sees_what_came_and_went(self):
        staying, leaving = self.docker_run("staying"), self.docker_run("leaving")
        rows = [self.row_of(found) for found in (staying, leaving)]
        far = self.make(requestedHostId=self.host_id(self.other))
        self.host.run("systemctl", "stop", "stampede")
        try:
            self.host.run("docker", "rm", "-f", "leaving")
            new = self.docker_run("new")
            self.ping(far, rows[0])
            self.ping(far, {"primaryIpAddress": self.place(new)["IPAddress"]})
        finally:
            self.host.run("systemctl", "start", "stampede")
        self.assertEqual(self.row_of(new, limit=START)["primaryIpAddress"], self.place(new)["IPAddress"])
        self.gone(rows[1]["id"], START)
        self.assertEqual(self.row_of(staying)["id"], rows[0]["id"])
        self.assertEqual(self.inspect("staying")["State"]["StartedAt"], staying["State"]["StartedAt"], "it went on")
        self.ping(far, rows[0])

    def test_docker_goes_and_comes(self):
        found = self.docker_run("again", "--restart", "always")
        ended = self.docker_run("ended")
        rows = [self.row_of(one) for one in (found, ended)]
        far = self.make(requestedHostId=self.host_id(self.other))
        for kill in (False, True):
            self.host.run("systemctl", *(("kill", "-s", "KILL") if kill else ("restart",)), "docker.service")
            wait_for("Docker", START, lambda: self.host.run("docker", "version", check=False).returncode == 0)

            def back():
                address = self.place(self.inspect("again"))["IPAddress"]
                now = self.api.container(rows[0])
                return address and (now["state"], now["primaryIpAddress"]) == ("running", address) and self.can_ping(far, now)

            wait_for("what Docker starts again", START, back, every=0.5)
            self.row_of(ended, "stopped", START)
        # No address is lost by that.
        used = len([one for one in self.host.out("ip", "-o", "link", "show").splitlines() if " st-0a2a" in one])
        self.assertEqual(used, 1)
        self.assertLessEqual(len(self.kept(self.host)) - used, 12 + 1)
