"""Published ports: who reaches them, who has one, and what they outlast."""

import re
import socket
import threading
import time

from case import HOSTS, SOON, START, LabTest
from hosts import at_once, container_name, wait_for

# What answers with who asked runs with the host's own programs: busybox here has none for UDP. It hears the question out: where the
# shell ended before, socat would fail at handing it over, and now and then take the answer with it.
WHO = (
    "socat TCP-LISTEN:80,fork,reuseaddr SYSTEM:'read asked; echo $SOCAT_PEERADDR'& "
    "socat UDP-RECVFROM:53,fork SYSTEM:'read asked; echo $SOCAT_PEERADDR'& "
    "exec socat TCP-LISTEN:7,fork,reuseaddr PIPE")
SERVER = {"command": "chroot", "commandArgs": ["/machine", "sh", "-c", WHO], "dockerVolumes": ["/:/machine:ro"]}
# Whom a container sees where the source cannot be kept.
NOBODY = "169.254.42.1"


class PortsTest(LabTest):
    def serve(self, *ports, **fields):
        return self.make(ports=list(ports), **(SERVER | fields))

    def ports(self, row):
        return self.api.list("/v1/ports", instanceId=row["id"], sort="id")

    def port(self, row, private=80):
        return next(port for port in self.ports(row) if port["privatePort"] == private)

    def seen_from(self, client, address, port, protocol="TCP"):
        """Whom the server sees when a host, or a container by its row, asks; None where nobody answers."""
        command = f"echo | socat -t5 -T5 - {protocol}:{address}:{port}{',connect-timeout=3' if protocol == 'TCP' else ''}"
        if isinstance(client, dict):
            words = ["docker", "exec", container_name(client), "chroot", "/machine", "sh", "-c", command]
            return self.host_of(client).out(*words, check=False) or None
        return client.shell(command, check=False) or None

    def answers(self, address, port, limit=2):
        """Whom the server sees when this machine asks by TCP."""
        try:
            with socket.create_connection((address, port), limit) as connection:
                connection.settimeout(limit)
                connection.sendall(b"\n")
                return connection.recv(100).decode().strip() or None
        except OSError:
            return None

    def reached(self, host, port):
        return wait_for(f"port {port} of {host}", START, lambda: self.answers(host.address, port))

    def elements(self, host):
        return re.findall(r"(tcp|udp) \. (\S+) : (\S+) \. (\S+?)[,\s]", host.shell("nft list map inet stampede ports"))


class Echo:
    """An open connection to an echo server, spoken over all the time."""

    def __init__(self, address, port):
        self.connection = socket.create_connection((address, port), 5)
        self.connection.settimeout(5)
        self.error, self.words, self.longest = None, 0, 0.0
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.speak, daemon=True)
        self.thread.start()

    def speak(self):
        while not self.over.wait(0.02):
            begun = time.monotonic()
            try:
                self.connection.sendall(b"?")
                if self.connection.recv(1) != b"?":
                    raise ConnectionError("closed")
            except OSError as error:
                self.error = error
                return
            self.words += 1
            self.longest = max(self.longest, time.monotonic() - begun)

    def end(self):
        self.over.set()
        self.thread.join(10)
        self.connection.close()


class Reach(PortsTest):
    def test_from_everywhere_and_the_source_is_kept(self):
        one, two = HOSTS[0], HOSTS[1]
        row = self.serve("8080:80", "5353:53/udp", requestedHostId=self.host_id(one))
        beside = self.serve(requestedHostId=self.host_id(one))
        away = self.serve(requestedHostId=self.host_id(two))
        self.reached(one, 8080)
        self.assertEqual(
            [(port["publicPort"], port["privatePort"], port["protocol"], port["state"], port["instanceId"]) for port in self.ports(row)],
            [(8080, 80, "tcp", "active", row["id"]), (5353, 53, "udp", "active", row["id"])])
        this = self.answers(one.address, 8080)
        self.assertRegex(this, rf"^{one.address.rpartition('.')[0]}\.", "this machine's own address")
        for protocol, port in (("TCP", 8080), ("UDP", 5353)):
            for client, address, expected in (
                    (two, one.address, two.address), (one, one.address, one.address), (one, "127.0.0.1", NOBODY),
                    (beside, one.address, beside["primaryIpAddress"]), (beside, "10.42.0.1", beside["primaryIpAddress"]),
                    (away, one.address, two.address), (row, one.address, NOBODY), (row, "10.42.0.1", NOBODY)):
                who = client["name"] if isinstance(client, dict) else str(client)
                with self.subTest(f"{protocol} from {who} to {address}"):
                    self.assertEqual(self.seen_from(client, address, port, protocol), expected)
        self.assertIn("via", two.shell(f"curl -s --http0.9 -m 3 http://{one.address}:8080/ -o /dev/null -w 'via %{{remote_ip}}' || echo via"))

    def test_containers_do_not_reach_what_listens_on_the_hosts_127_0_0_1(self):
        """A way round for 127.0.0.1 is no way in."""
        row = self.serve("8080:80", requestedHostId=self.host_id(HOSTS[0]), privileged=True)
        host = self.host_of(row)
        self.reached(host, 8080)
        host.run("systemd-run", "--collect", "--unit", "only-here", "socat", "TCP-LISTEN:9999,bind=127.0.0.1,fork", "SYSTEM:echo leaked")
        try:
            wait_for("it listens", SOON, lambda: self.seen_from(host, "127.0.0.1", 9999) == "leaked")
            inside = lambda script: host.out("docker", "exec", container_name(row), "chroot", "/machine", "sh", "-c", script, check=False)  # noqa: E731
            inside("sysctl -qw net.ipv4.conf.eth0.route_localnet=1; ip route del local 127.0.0.0/8 dev lo table local; "
                   "ip route del local 127.0.0.1 dev lo table local; ip route add 127.0.0.1/32 via 10.42.0.1 dev eth0")
            self.assertIn("10.42.0.1", inside("ip route get 127.0.0.1"), "it is sent to the host")
            for target in ("127.0.0.1", NOBODY, "169.254.42.3"):
                self.assertNotEqual(self.seen_from(row, target, 9999), "leaked", target)
            host.run("nft", "flush", "ruleset")
            self.assertNotEqual(self.seen_from(row, "127.0.0.1", 9999), "leaked", "without any rule")
        finally:
            host.run("systemctl", "stop", "only-here", check=False)


class Deciding(PortsTest):
    def test_each_host_has_a_port_once_and_the_rest_waits_with_the_reason(self):
        rows = at_once(lambda api: self.serve("8081:80", api=api), self.apis)
        self.assertEqual(len({row["hostId"] for row in rows}), len(HOSTS), "each on a host of its own")
        for host in HOSTS:
            self.reached(host, 8081)
        late = self.serve("8081:80", wait=False)
        late = wait_for("the reason", SOON, lambda: (row := self.api.container(late))["transitioning"] == "error" and row)
        for host, row in ((self.host_of(row), row) for row in rows):
            self.assertIn(f"{host.name}: port 8081/tcp is {row['id']}'s", late["transitioningMessage"])
        named = self.serve("8081:80", wait=False, requestedHostId=self.host_id(HOSTS[0]))
        wait_for("the reason", SOON, lambda: "port 8081/tcp is" in (self.api.container(named)["transitioningMessage"] or ""))
        self.purge(named["id"])
        other = self.serve("8081:80/udp", "81:80", requestedHostId=self.host_id(HOSTS[0]))
        self.assertEqual(other["state"], "running", "another protocol's is another port")
        self.purge(rows[1]["id"])
        late = self.api.wait(late, "running")
        self.assertEqual(late["hostId"], rows[1]["hostId"], "where it came free")
        self.reached(self.host_of(late), 8081)

    def test_count_spreads_over_hosts(self):
        rows = self.serve("8082:80", count=3)
        self.assertEqual(len({row["hostId"] for row in rows}), 3)

    def test_rubbish_is_refused_with_a_word(self):
        for ports, code in (
                (["0:80"], "PortInvalidPublicPort"), (["65536:80"], "PortInvalidPublicPort"), (["80:0"], "PortInvalidPrivatePort"),
                (["80:65536"], "PortInvalidPrivatePort"), (["web"], "PortWrongFormat"), (["1:2:3"], "PortWrongFormat"), ([""], "PortWrongFormat"),
                (["80:80/sctp"], "PortInvalidProtocol"), (["80:80", "80:81"], "NotUnique"), (["80", "80"], "NotUnique"),
                ([None], "NotNullable"), ({"a": 1}, "InvalidFormat"),
                *(([f"{port}:80"], "PortInvalidPublicPort") for port in (22, 9080, 2379, 2380)),
                *(([f"{port}:80/udp"], "PortInvalidPublicPort") for port in (4500, 14789))):
            with self.subTest(ports):
                self.refused(422, code, self.make, wait=False, ports=ports, field="ports")
        networks = {row["uuid"]: row["id"] for row in self.api.list("/v1/networks")}
        self.refused(422, "InvalidOption", self.make, wait=False, ports=["80"], networkIds=[networks["unmanaged"]], field="ports")


class Changing(PortsTest):
    def put(self, port, value, api=None):
        return (api or self.api).put(f"/v1/ports/{port['id']}", {"publicPort": value})

    def test_a_port_moves_at_once_while_it_runs(self):
        row = self.serve("8083:80", "8084:7")
        host = self.host_of(row)
        self.reached(host, 8083)
        port, times = self.port(row), []
        started = self.docker(row)["State"]["StartedAt"]
        for number in (8090, 8091, 8092, 8093, 8094):
            begun = time.monotonic()
            self.assertEqual(self.put(port, number, self.apis[number % 3])["publicPort"], number)
            asked = time.monotonic()
            wait_for(f"port {number}", SOON, lambda number=number: self.answers(host.address, number, 0.5), every=0.002)
            times.append((asked - begun, time.monotonic() - begun))
        print("              moved and reached after " + ", ".join(f"{total * 1000:.0f} (answer {answer * 1000:.0f})" for answer, total in times) + " ms")
        self.assertLess(min(total for _, total in times), 1)
        self.assertIsNone(self.answers(host.address, 8083))
        self.assertIsNone(self.answers(host.address, 8093))
        self.assertEqual((self.docker(row)["State"]["StartedAt"], self.api.container(row)["state"]), (started, "running"), "nothing was restarted")
        # What was led by the old port is led by it no more.
        echo = Echo(host.address, 8084)
        wait_for("it echoes", SOON, lambda: echo.words > 3)
        self.put(self.port(row, 7), 8085)
        wait_for("the old way to end", SOON, lambda: echo.error)
        echo.end()

    def test_only_to_a_port_that_is_to_be_had(self):
        one = self.serve("8086:80", "8087:7", requestedHostId=self.host_id(HOSTS[0]))
        self.serve("8088:80", requestedHostId=self.host_id(HOSTS[0]))
        self.serve("8089:80", requestedHostId=self.host_id(HOSTS[1]))
        port = self.port(one)
        for value, code in ((8088, "NotUnique"), (8087, "NotUnique"), (0, "PortInvalidPublicPort"), (65536, "PortInvalidPublicPort"),
                            (-1, "PortInvalidPublicPort"), (9080, "PortInvalidPublicPort"), ("web", "InvalidFormat"), ([1], "InvalidFormat")):
            with self.subTest(value):
                error = self.refused(422, code, self.put, port, value, field="publicPort")
                self.assertTrue(error.args, "it says why")
        self.assertEqual(self.port(one)["publicPort"], 8086)
        self.assertEqual(self.put(port, 8089)["publicPort"], 8089, "another host's is no matter")
        self.reached(HOSTS[0], 8089)
        chosen = self.put(port, None)["publicPort"]
        self.assertIn(chosen, range(61000, 65536))
        self.reached(HOSTS[0], chosen)
        whole = self.api.get(f"/v1/ports/{port['id']}")
        self.assertEqual(self.api.put(f"/v1/ports/{port['id']}", whole | {"publicPort": "8086", "description": "the front"})["description"], "the front")
        self.assertEqual(self.api.get(f"/v1/ports/{port['id']}")["publicPort"], 8086)
        self.refused(405, "Method Not Allowed", self.api.delete, f"/v1/ports/{port['id']}")

    def test_of_many_who_want_one_port_one_gets_it(self):
        rows = at_once(lambda number: self.serve(f"{8100 + number}:80", requestedHostId=self.host_id(HOSTS[0])), range(6))
        ports = [self.port(row) for row in rows]

        def want(pair):
            try:
                self.put(pair[1], 8099, self.apis[pair[0] % 3])
                return 1
            except Exception:  # noqa: BLE001
                return 0

        self.assertEqual(sum(at_once(want, enumerate(ports))), 1)
        self.assertEqual(sum(self.port(row)["publicPort"] == 8099 for row in rows), 1)
        wait_for("one element", SOON, lambda: [one[1] for one in self.elements(HOSTS[0])].count("8099") == 1)


class Lasting(PortsTest):
    def setUp(self):
        super().setUp()
        self.row = self.serve("8110:80", "8111:7", "8112:53/udp", requestedHostId=self.host_id(HOSTS[1]))
        self.host = HOSTS[1]
        self.reached(self.host, 8110)

    def test_an_open_connection_goes_on_over_an_agents_death(self):
        echo = Echo(self.host.address, 8111)
        wait_for("it echoes", SOON, lambda: echo.words > 3)
        before = self.elements(self.host)
        self.host.shell("timeout 30 nft monitor > /run/changes.txt 2>&1 &")
        time.sleep(0.3)
        for _ in range(3):
            self.host.run("systemctl", "kill", "-s", "KILL", "stampede.service")
            wait_for("another agent", START, lambda: self.host.api(timeout=2).ask("GET", "/v1").status == 200)
        spoken = echo.words
        wait_for("it goes on", SOON, lambda: echo.words > spoken + 50)
        echo.end()
        self.assertIsNone(echo.error)
        self.host.shell("pkill -f 'nft monitor'", check=False)
        self.assertEqual(self.elements(self.host), before)
        flaps = [line for line in self.host.out("cat", "/run/changes.txt").splitlines() if "element inet stampede" in line or "table inet stampede" in line]
        self.assertEqual(flaps, [], "nothing was taken away or put anew")

    def test_a_flushed_ruleset_is_mended(self):
        times = []
        for _ in range(5):
            begun = time.monotonic()
            self.host.run("nft", "flush", "ruleset")
            flushed = time.monotonic()
            wait_for("the port", SOON, lambda: self.answers(self.host.address, 8110, 0.5), every=0.01)
            times.append(time.monotonic() - flushed)
            self.assertLess(flushed - begun, 30)
        print("              reached again " + ", ".join(f"{one * 1000:.0f}" for one in times) + " ms after the flush")
        self.assertLess(sorted(times)[2], 2)
        self.assertEqual(self.seen_from(HOSTS[0], self.host.address, 8112, "UDP"), HOSTS[0].address)
        # A flush leaves Docker without its own rules too.
        self.host.run("systemctl", "restart", "docker.service")
        wait_for("it runs", 90, lambda: self.answers(self.host.address, 8110))

    def test_one_element_taken_by_hand_is_put_back(self):
        self.host.run("nft", "delete", "element", "inet", "stampede", "ports", "{ tcp . 8110 }")
        wait_for("the port", SOON, lambda: self.answers(self.host.address, 8110))

    def test_docker_restarted(self):
        self.host.run("systemctl", "restart", "docker.service")
        wait_for("it runs", 90, lambda: self.answers(self.host.address, 8110))
        self.assertEqual(self.api.wait(self.row, "running", 90)["id"], self.row["id"])
        self.assertEqual(self.seen_from(HOSTS[0], self.host.address, 8112, "UDP"), HOSTS[0].address)

    def test_stopped_it_is_closed_and_kept_purged_it_is_free(self):
        self.api.act(self.row, "stop")
        self.api.wait(self.row, "stopped")
        self.assertEqual({port["state"] for port in self.ports(self.row)}, {"inactive"})
        wait_for("it is closed", SOON, lambda: self.elements(self.host) == [])
        self.assertIsNone(self.answers(self.host.address, 8110))
        late = self.serve("8110:80", wait=False, requestedHostId=self.host_id(self.host))
        wait_for("the reason", SOON, lambda: f"is {self.row['id']}'s" in (self.api.container(late)["transitioningMessage"] or ""))
        self.api.act(self.row, "start")
        self.api.wait(self.row, "running")
        self.reached(self.host, 8110)
        self.purge(self.row["id"])
        self.api.wait(late, "running")
        self.reached(self.host, 8110)
        self.purge(late["id"])
        alloc = lambda: self.host.out("etcdctl", "get", "--print-value-only", f"/stampede/v1/alloc/{self.host.name}")  # noqa: E731
        wait_for("it is free", SOON, lambda: "8110/tcp" not in alloc() and self.elements(self.host) == [])

    def test_a_conversation_that_began_before_its_port_was_open_finds_it(self):
        """By UDP there is no end at which it would begin anew."""
        # Each time from the same port, so that it stays one conversation.
        talk = f"rm -f /run/talk.txt; while :; do echo | socat -t0.2 - UDP-SENDTO:{self.host.address}:8113,sourceport=45678 >> /run/talk.txt; done"
        HOSTS[0].run("systemd-run", "--collect", "--unit", "talk", "sh", "-c", talk)
        try:
            time.sleep(1)
            self.api.put(f"/v1/ports/{self.port(self.row, 53)['id']}", {"publicPort": 8113})
            wait_for("an answer", SOON, lambda: HOSTS[0].address in HOSTS[0].out("cat", "/run/talk.txt", check=False))
        finally:
            HOSTS[0].run("systemctl", "stop", "talk", check=False)


class Exposed(PortsTest):
    def test_all_that_the_image_exposes(self):
        for host in HOSTS:
            host.shell("docker image inspect exposes:1 >/dev/null 2>&1 || { id=$(docker create busybox true); "
                       "docker commit -c 'EXPOSE 80/tcp' -c 'EXPOSE 53/udp' -c 'EXPOSE 7/tcp' $id exposes:1; docker rm $id; }")
        row = self.serve("8120:7", imageUuid="docker:exposes:1", publishAllPorts=True)
        wait_for("three ports", SOON, lambda: len(self.ports(row)) == 3)
        ports = {(port["privatePort"], port["protocol"]): port["publicPort"] for port in self.ports(row)}
        self.assertEqual(set(ports), {(7, "tcp"), (80, "tcp"), (53, "udp")})
        self.assertEqual(ports.pop((7, "tcp")), 8120, "as it was asked for")
        self.assertTrue(all(port in range(61000, 65536) for port in ports.values()), ports)
        host = self.host_of(row)
        self.reached(host, ports[80, "tcp"])
        self.assertEqual(self.seen_from(HOSTS[0], host.address, ports[53, "udp"], "UDP"), HOSTS[0].address)
        self.assertEqual(self.api.container(row)["state"], "running")
        self.api.act(row, "restart")
        self.api.wait(row, "running")
        self.assertEqual(self.port(row)["publicPort"], ports[80, "tcp"], "and keeps them")
        self.reached(host, ports[80, "tcp"])
        # On another host they are chosen anew.
        self.api.act(row, "stop", {"deallocateFromHost": True})
        wait_for("no host", SOON, lambda: (now := self.api.container(row))["state"] == "stopped" and now["hostId"] is None)
        self.assertEqual([port["publicPort"] for port in self.ports(row)].count(None), 2)
        self.api.act(row, "start")
        again = self.api.wait(row, "running")
        self.reached(self.host_of(again), self.port(row)["publicPort"])
