"""Floating addresses: who reaches them, under which address their instances leave, where they go, and what they outlast."""

import base64
import http.client
import ipaddress
import json
import re
import socket
import threading
import time

import case
from case import HOSTS, SOON, START
from hosts import container_name, wait_for
from ports import SERVER, WHO, Echo, PortsTest

# Who hears a client out and says its own name, and whom it sees.
NAMED = WHO.replace("echo $SOCAT_PEERADDR", "echo {name} $SOCAT_PEERADDR")
NOBODY = "169.254.42.1"
PLACES = {"ipAddress": "ipaddresses", "subnetIpPool": "subnetippools", "container": "containers"}
# The lease, the fence's F, and what a kernel may take on top (docs/network.md).
LOST = 10 + 4 + 2


class FloatingTest(PortsTest):
    """With a pool of its own out of the lab's network."""

    def setUp(self):
        super().setUp()
        # Hosts are the first of the /24, this machine is .254.
        self.net = ipaddress.ip_network(f"{HOSTS[0].address}/24", strict=False)
        self.pool = self.new_pool(self.net[192], 28)

    def tearDown(self):
        # Those that live with their instances go with them.
        for row in self.addresses():
            if row["state"] not in ("removed", "purged") and not self.is_freed_with_its_instance(row):
                self.give_up(row)
        super().tearDown()
        wait_for("all addresses to be free", START, lambda: not [row for row in self.addresses() if row["state"] != "purged"])
        self.api.delete(f"/v1/subnetippools/{self.pool['id']}")
        self.do(self.pool, "purge")
        for host in HOSTS:
            self.assertEqual(self.held(host), [], f"left on {host}")

    def is_freed_with_its_instance(self, row):
        associations = self.api.list("/v1/ipassociations", ipAddressId=row["id"])
        instances = [self.api.container(found["childIpAddressId"].replace("1ia", "1i", 1)) for found in associations]
        return any(instance.get("publicIpAddressPoolId") for instance in instances)

    def new_pool(self, network, size, **fields):
        return self.api.post("/v1/subnetippools", {"networkAddress": str(network), "cidrSize": size, "name": "lab"} | fields)

    def addresses(self):
        return self.api.list("/v1/ipaddresses", ipPoolId=self.pool["id"])

    def acquire(self, api=None):
        return self.do(self.pool, "acquire", api)

    def do(self, row, action, api=None, **body):
        return (api or self.api).post(f"/v1/{PLACES[row['type']]}/{row['id']}/?action={action}", body)

    def until(self, row, state, limit=START):
        return wait_for(f"{row['address']} to be {state}", limit, lambda: next(iter([now for now in [self.now(row)] if now["state"] == state]), None))

    def now(self, row):
        return self.api.get(f"/v1/ipaddresses/{row['id']}")

    def associate(self, row, instance, api=None):
        """Through to the host; as it is then."""
        self.do(self.now(row), "associate", api, ipAddressId=instance["id"].replace("1i", "1ia", 1))
        return self.until(row, "associated")

    def give_up(self, row):
        row = self.now(row)
        if row["state"] in ("associated", "associating"):
            self.do(row, "disassociate")
        self.until(row, "active")
        self.do(self.now(row), "remove")
        self.do(self.now(row), "purge")

    def named(self, name, host=None, **fields):
        """Answers with its name and whom it sees."""
        place = {"requestedHostId": self.host_id(host)} if host else {}
        return self.make(name=name, **(SERVER | {"commandArgs": ["/machine", "sh", "-c", NAMED.format(name=name)]} | place | fields))

    def held(self, host):
        """The floating addresses that a host's kernel has."""
        found = re.findall(r"inet (\S+)/32", host.shell("ip -4 address show stampede0"))
        return [address for address in found if ipaddress.ip_address(address) in self.net]

    def who(self, address, limit=2):
        """Who answers this machine at an address, and whom it sees."""
        return self.answers(address, 80, limit)

    def leaves_under(self, row):
        """The address that this machine sees when an instance connects to it."""
        machine = str(self.net[254])
        with socket.create_server((machine, 0)) as server:
            server.settimeout(10)
            host, port = self.host_of(row), server.getsockname()[1]
            host.run("docker", "exec", container_name(row), "chroot", "/machine", "sh", "-c", f"echo | socat -t1 - TCP:{machine}:{port},connect-timeout=5")
            connection, peer = server.accept()
            connection.close()
            return peer[0]


class Use(FloatingTest):
    def test_an_address_leads_both_ways(self):
        """From this machine by TCP, UDP and ping; out of the instance; from hosts and containers, itself too."""
        one = self.named("one", HOSTS[0])
        row = self.acquire()
        self.assertEqual((row["type"], row["state"]), ("ipAddress", "active"))
        self.assertIn(ipaddress.ip_address(row["address"]), ipaddress.ip_network(f"{self.net[192]}/28"))
        before = self.leaves_under(one)
        self.assertEqual(before, HOSTS[0].address)
        row = self.associate(row, one)
        address, machine = row["address"], str(self.net[254])
        wait_for("it answers", SOON, lambda: self.who(address) == f"one {machine}")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.sendto(b"\n", (address, 53))
            self.assertEqual(client.recv(100).decode().strip(), f"one {machine}")
        HOSTS[1].run("ping", "-c", "1", "-W", "3", address)
        self.assertEqual(self.leaves_under(one), address)
        self.assertEqual(self.api.container(one["id"])["primaryAssociatedIpAddress"], address)
        associations = self.api.list("/v1/ipassociations", ipAddressId=row["id"])
        self.assertEqual([found["childIpAddressId"] for found in associations], [one["id"].replace("1i", "1ia", 1)])
        beside, far = self.named("beside", HOSTS[0]), self.named("far", HOSTS[1])
        self.assertEqual(self.seen_from(HOSTS[0], address, 80), f"one {address}", "from its own host, which has the address")
        self.assertEqual(self.seen_from(HOSTS[1], address, 80), f"one {HOSTS[1].address}", "from another host")
        self.assertEqual(self.seen_from(beside, address, 80), f"one {beside['primaryIpAddress']}", "from a container beside it")
        self.assertEqual(self.seen_from(far, address, 80), f"one {HOSTS[1].address}", "from a container elsewhere")
        self.assertEqual(self.seen_from(one, address, 80), f"one {NOBODY}", "from itself")

    def test_its_changes_are_told_and_ports_name_it(self):
        one = self.named("told", HOSTS[0], ports=["8089:80"])
        port = lambda: next(iter(self.api.list("/v1/ports", instanceId=one["id"])))  # noqa: E731
        self.assertIsNone(port()["publicIpAddressId"])
        key = base64.b64encode(":".join(case.LAB.key).encode()).decode()
        told = http.client.HTTPConnection(HOSTS[2].api_address, timeout=START)
        self.addCleanup(told.close)
        told.request("POST", "/v1/subscribe?eventNames=resource.change%3Btype%3DipAddress", "", {"Authorization": f"Basic {key}"})
        events = told.getresponse()
        self.assertEqual(events.status, 201)
        row = self.associate(self.acquire(), one)
        self.assertEqual(port()["publicIpAddressId"], row["id"])
        self.give_up(row)
        self.assertIsNone(port()["publicIpAddressId"])
        states = []
        while "purged" not in states:
            event = json.loads(events.readline())
            if event["name"] == "resource.change" and event["resourceId"] == row["id"]:
                self.assertEqual((event["resourceType"], event["data"]["resource"]["address"]), ("ipAddress", row["address"]))
                states.append(event["data"]["resource"]["state"])
        seen = iter(states)
        self.assertTrue(all(state in seen for state in ("active", "associating", "associated", "active", "purged")), states)

    def test_it_goes_elsewhere_while_all_runs(self):
        """To another instance of the host, to another host and back: at once, and connections to whom it left end."""
        one, two, three = self.named("one", HOSTS[0]), self.named("two", HOSTS[0]), self.named("three", HOSTS[1])
        row = self.associate(self.acquire(), one)
        address = row["address"]
        wait_for("one answers", SOON, lambda: (self.who(address) or "").startswith("one"))
        took = {}
        for turn, (target, name) in enumerate([(two, "two"), (three, "three"), (two, "two"), (one, "one")]):
            echo = Echo(address, 7)
            begun = time.monotonic()
            self.do(self.now(row), "associate", ipAddressId=target["id"].replace("1i", "1ia", 1))
            wait_for(f"{name} answers", SOON, lambda: (self.who(address, 1) or "").startswith(f"{name} "), every=0.01)
            took[turn, name] = round(time.monotonic() - begun, 3)
            wait_for("the connection before ends", SOON, lambda: echo.error or echo.over.is_set())
            self.until(row, "associated", SOON)
            held = {host.name: self.held(host) for host in HOSTS if self.held(host)}
            self.assertEqual(held, {self.host_of(target).name: [address]})
        print(f"    until another answered: {took}")
        self.do(self.now(row), "disassociate")
        self.until(row, "active", SOON)
        self.assertEqual([self.held(host) for host in HOSTS], [[]] * len(HOSTS))
        self.assertIsNone(self.who(address, 1))
        self.assertEqual(self.leaves_under(one), HOSTS[0].address)

    def test_it_rests_with_its_instance_and_comes_back(self):
        one = self.named("one", HOSTS[0])
        row = self.associate(self.acquire(), one)
        wait_for("it answers", SOON, lambda: self.who(row["address"]))
        self.do(self.api.container(one["id"]), "stop")
        self.api.wait(one, "stopped", START)
        wait_for("the host drops it", SOON, lambda: not self.held(HOSTS[0]))
        self.assertEqual(self.now(row)["state"], "associated")
        self.do(self.api.container(one["id"]), "start")
        self.api.wait(one, "running", START)
        wait_for("it answers again", SOON, lambda: self.who(row["address"]))

    def test_one_of_a_pool_comes_and_goes_with_its_instance(self):
        one = self.named("one", publicIpAddressPoolId=self.pool["id"])
        [row] = self.addresses()
        address = row["address"]
        self.assertEqual(self.api.container(one["id"])["primaryAssociatedIpAddress"], address)
        self.until(row, "associated", SOON)
        wait_for("it answers", SOON, lambda: self.who(address))
        self.do(self.api.container(one["id"]), "restart")
        self.api.wait(one, "running", START)
        wait_for("it answers after a restart", SOON, lambda: self.who(address))
        self.assertEqual([found["address"] for found in self.addresses()], [address])
        self.purge(one["id"])
        wait_for("it is free", START, lambda: [found["state"] for found in self.addresses()] == ["purged"])
        self.assertEqual(sum((self.held(host) for host in HOSTS), []), [])


class Wishes(FloatingTest):
    def test_what_cannot_be(self):
        net = self.net
        for network, size in ((net[192], 28), (net[128], 25), (ipaddress.ip_address("10.42.7.0"), 24), (ipaddress.ip_address("10.0.0.0"), 8)):
            self.refused(422, "NotUnique", self.new_pool, network, size, field="networkAddress")
        for fields in ({"networkAddress": "here"}, {"networkAddress": "192.168.7.0", "startAddress": "192.168.8.2"}, {"networkAddress": "192.168.7.9"}):
            with self.assertRaises(Exception) as caught:
                self.api.post("/v1/subnetippools", fields)
            self.assertEqual(caught.exception.status, 422, fields)
        row, one = self.acquire(), self.make()
        self.refused(422, "InvalidReference", self.do, row, "associate", ipAddressId=row["id"], field="ipAddressId")
        self.refused(422, "InvalidReference", self.do, row, "associate", ipAddressId="1ia999999", field="ipAddressId")
        unmanaged = self.make(networkIds=["1n1"])
        self.refused(422, "InvalidReference", self.do, row, "associate", ipAddressId=unmanaged["id"].replace("1i", "1ia", 1))
        self.refused(409, "Conflict", self.api.delete, f"/v1/subnetippools/{self.pool['id']}")
        own = self.api.get(f"/v1/ipaddresses/{one['id'].replace('1i', '1ia', 1)}")
        self.assertEqual(own["actions"], {})
        # The pool has nine: of sixteen all but network, gateway and the last five.
        others = [self.acquire() for _ in range(8)]
        self.assertEqual(len({found["address"] for found in [row, *others]}), 9)
        self.refused(422, "NotUnique", self.acquire)
        self.refused(422, "NotUnique", self.make, publicIpAddressPoolId=self.pool["id"], keep=False, field="publicIpAddressPoolId")


class Lost(FloatingTest):
    def dropped(self, host, address, begun, limit):
        """After how long a host's kernel had it no more."""
        wait_for(f"{host} drops {address}", limit, lambda: address not in self.held(host), every=0.1)
        return time.monotonic() - begun

    def test_a_host_without_power(self):
        """Another instance gets the address of one that stays on its dead host."""
        lost = HOSTS[-1]
        one, two = self.named("one", lost), self.named("two", HOSTS[0])
        row = self.associate(self.acquire(), one)
        wait_for("one answers", SOON, lambda: (self.who(row["address"]) or "").startswith("one "))
        begun = time.monotonic()
        lost.lab("kill", lost.name)
        try:
            self.do(self.now(row), "associate", ipAddressId=two["id"].replace("1i", "1ia", 1))
            wait_for("two answers", LOST + SOON, lambda: (self.who(row["address"], 1) or "").startswith("two "))
            print(f"    two answered {time.monotonic() - begun:.1f} s after one's host lost power")
        finally:
            lost.lab("start", lost.name)
        self.api.wait(one, "running", 2 * START)
        self.assertEqual(self.held(lost), [])

    def test_a_host_cut_off(self):
        """Its kernel drops the address before another host has it, and nothing leaves under it then."""
        lost = HOSTS[-1]
        one, two = self.named("one", lost), self.named("two", HOSTS[0])
        row = self.associate(self.acquire(), one)
        address = row["address"]
        wait_for("one answers", SOON, lambda: (self.who(address) or "").startswith("one "))
        begun, had = time.monotonic(), {}
        lost.lab("cut", lost.name)
        try:
            self.do(self.now(row), "associate", ipAddressId=two["id"].replace("1i", "1ia", 1))
            had["dropped"] = self.dropped(lost, address, begun, LOST)
            self.assertEqual(self.held(HOSTS[0]), [], "on two hosts at once")
            wait_for("two answers", LOST + SOON, lambda: (self.who(address, 1) or "").startswith("two "))
            had["elsewhere"] = time.monotonic() - begun
        finally:
            lost.lab("heal", lost.name)
        print(f"    seconds after the cable: dropped {had['dropped']:.1f}, elsewhere {had['elsewhere']:.1f}")
        time.sleep(5)
        self.assertEqual(self.held(lost), [])
        self.assertTrue(self.who(address).startswith("two "))

    def test_a_host_that_comes_back_has_it_again(self):
        """Cut off for a while and asked for by nobody else: dropped, and there again."""
        host = HOSTS[-1]
        one = self.named("one", host)
        row = self.associate(self.acquire(), one)
        address = row["address"]
        wait_for("it answers", SOON, lambda: self.who(address))
        begun = time.monotonic()
        host.lab("cut", host.name)
        try:
            self.dropped(host, address, begun, LOST)
        finally:
            host.lab("heal", host.name)
        wait_for("it answers again", START, lambda: self.who(address))

    def test_it_moves_with_an_instance_that_moves(self):
        lost = HOSTS[-1]
        one = self.named("one", lost, onHostLoss="move", publicIpAddressPoolId=self.pool["id"])
        [row] = self.addresses()
        wait_for("it answers", SOON, lambda: self.who(row["address"]))
        begun = time.monotonic()
        lost.lab("kill", lost.name)
        try:
            wait_for("it answers elsewhere", LOST + START, lambda: self.who(row["address"], 1))
            print(f"    it answered elsewhere {time.monotonic() - begun:.1f} s after its host lost power")
            self.assertNotEqual(self.host_of(self.api.container(one["id"])).name, lost.name)
        finally:
            lost.lab("start", lost.name)

    def test_the_agent_dies_and_rules_go(self):
        """Killed and restarted: an open connection goes on. With somebody's `nft flush ruleset` one ends on which something comes in
        the milliseconds until the rules are back: the address is the host's own then."""
        host = HOSTS[1]
        one = self.named("one", host)
        row = self.associate(self.acquire(), one)
        wait_for("it answers", SOON, lambda: self.who(row["address"]))
        echo = Echo(row["address"], 7)
        for blow in ("systemctl kill -s KILL stampede.service", "systemctl restart stampede.service"):
            host.shell(blow)
            time.sleep(3)
            wait_for(f"it answers after {blow}", START, lambda: self.who(row["address"], 1))
            self.assertIsNone(echo.error, f"{blow}: {echo.error}")
        self.assertEqual(self.held(host), [row["address"]])
        echo.over.set()
        host.shell("nft flush ruleset")
        wait_for("it answers after a flush", SOON, lambda: self.who(row["address"], 1))
        print(f"    the longest silence on an open connection: {echo.longest:.2f} s")
