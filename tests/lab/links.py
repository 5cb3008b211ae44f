"""Links: what an instance is told of them, whom it reaches by them, and what they outlast."""

import ctypes
import os
import re
import socket
import statistics
import threading
import time

from case import HOSTS, SOON, START, LabTest
from hosts import at_once, container_name, wait_for

# Says who it is and who asked. It runs with the host's own programs, and hears the question out (tests/lab/ports.py says why).
WHO = (
    "socat TCP-LISTEN:80,fork,reuseaddr SYSTEM:'read asked; echo {name} $SOCAT_PEERADDR'& "
    "socat UDP-RECVFROM:53,fork SYSTEM:'read asked; echo {name} $SOCAT_PEERADDR'& "
    "exec socat TCP-LISTEN:7,fork,reuseaddr PIPE")
# Whom a container sees that asks itself.
NOBODY = "169.254.42.1"
GATEWAY = "10.42.0.1"
NEW_NETWORK = 0x40000000


class Inside:
    """Sockets in a container's network, of a thread of this machine."""

    def __init__(self, test, row):
        pid = test.docker(row)["State"]["Pid"]
        self.namespace = os.open(test.host_of(row).path(f"/proc/{pid}/ns/net"), os.O_RDONLY)

    def __call__(self, work):
        """Does it there, and gives what it gives."""
        answers = []

        def enter():
            if ctypes.CDLL(None, use_errno=True).setns(self.namespace, NEW_NETWORK) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            try:
                answers.append(work())
            except OSError as error:
                answers.append(error)

        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        thread.join(30)
        if not answers:
            raise TimeoutError("no answer from inside the container")
        return answers[0]

    def asks(self, port, limit=2):
        """Who answers at a port of a link and whom it sees; `refused`, or `late` where nobody says a word."""
        return self(lambda: ask(port, limit))

    def asks_udp(self, port, limit=2):
        def ask():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(limit)
                client.connect((GATEWAY, port))
                try:
                    client.send(b"\n")
                    return client.recv(100).decode().strip()
                except ConnectionRefusedError:
                    return "refused"
                except socket.timeout:
                    return "late"
        return self(ask)

    def close(self):
        os.close(self.namespace)


def ask(port, limit):
    try:
        with socket.create_connection((GATEWAY, port), limit) as connection:
            connection.settimeout(limit)
            connection.sendall(b"\n")
            return connection.recv(100).decode().strip() or "closed"
    except (ConnectionRefusedError, ConnectionResetError):
        return "refused"
    except socket.timeout:
        return "late"


class Watcher:
    """Asks all the time, and knows since when the answer is what it is."""

    def __init__(self, inside, port):
        self.port, self.over, self.answers = port, threading.Event(), []
        self.thread = threading.Thread(target=lambda: inside(self.watch), daemon=True)
        self.thread.start()
        wait_for("the first answer", SOON, lambda: self.answers)

    def watch(self):
        while not self.over.is_set():
            begun = time.monotonic()
            self.answers.append((begun, ask(self.port, 1).partition(" ")[0]))

    def since(self, begun, wanted):
        """From when on after `begun` connections that are begun find `wanted`, in seconds."""
        settled = lambda: [answer for at, answer in self.answers[-3:] if at > begun] == [wanted] * 3  # noqa: E731
        wait_for(wanted, SOON, settled, every=0.002)
        others = [at for at, answer in self.answers if at > begun and answer != wanted]
        return next(at for at, _ in self.answers if at > max(others, default=begun)) - begun

    def end(self):
        self.over.set()
        self.thread.join(5)


class Echo:
    """An open connection by a link, spoken over all the time."""

    def __init__(self, inside, port):
        self.error, self.words, self.over = None, 0, threading.Event()
        self.thread = threading.Thread(target=lambda: inside(lambda: self.speak(port)), daemon=True)
        self.thread.start()
        wait_for("it echoes", SOON, lambda: self.words > 3)

    def speak(self, port):
        with socket.create_connection((GATEWAY, port), 5) as connection:
            connection.settimeout(5)
            while not self.over.wait(0.02):
                try:
                    connection.sendall(b"?")
                    if connection.recv(1) != b"?":
                        raise ConnectionError("closed")
                except OSError as error:
                    self.error = error
                    return
                self.words += 1

    def end(self):
        self.over.set()
        self.thread.join(10)


class Waits:
    """An open connection by a link, over which nothing is said."""

    def __init__(self, inside, port):
        self.error, self.open = None, threading.Event()
        threading.Thread(target=lambda: inside(lambda: self.listen(port)), daemon=True).start()
        wait_for("a connection", SOON, self.open.is_set)

    def listen(self, port):
        with socket.create_connection((GATEWAY, port), 5) as connection:
            connection.settimeout(20)
            self.open.set()
            try:
                connection.recv(1)
            except OSError as error:
                self.error = error


class LinksTest(LabTest):
    def serve(self, name, host=None, **fields):
        wanted = {"requestedHostId": self.host_id(host)} if host else {}
        command = {"command": "chroot", "commandArgs": ["/machine", "sh", "-c", WHO.format(name=name)]}
        return self.make(**({"ports": ["80", "53/udp", "7"], "dockerVolumes": ["/:/machine:ro"]} | command | wanted | fields))

    def source(self, host, wait=True, **links):
        ids = {name: row and row["id"] for name, row in links.items()}
        return self.make(requestedHostId=self.host_id(host), instanceLinks=ids, wait=wait)

    def links(self, row):
        return {link["linkName"]: link for link in self.api.list("/v1/instancelinks", instanceId=row["id"])}

    def port(self, row, private=80, link="web", protocol="tcp"):
        ports = self.links(row)[link]["ports"]
        return next(port["publicPort"] for port in ports if (port["privatePort"], port["protocol"]) == (private, protocol))

    def aim(self, row, target, link="web", api=None):
        path = f"/v1/instancelinks/{self.links(row)[link]['id']}"
        return (api or self.api).put(path, {"targetInstanceId": target and target["id"]})

    def inside(self, row):
        inside = Inside(self, row)
        self.addCleanup(inside.close)
        return inside

    def variables(self, row):
        lines = self.host_of(row).out("docker", "exec", container_name(row), "env").splitlines()
        return dict(line.split("=", 1) for line in lines)

    def elements(self, host, row):
        found = host.shell("nft list map inet stampede links; nft list set inet stampede refused")
        return re.findall(rf"{row['primaryIpAddress']} \. (\w+ \. \d+)", found)


class Reach(LinksTest):
    def test_variables_and_ways_on_one_host_and_across(self):
        web = self.serve("web", HOSTS[1])
        away, beside = self.source(HOSTS[0], web=web), self.source(HOSTS[1], web=web, **{"my-db": None})
        link = self.links(away)["web"]
        self.assertEqual(
            (link["instanceId"], link["targetInstanceId"], link["state"], link["type"]), (away["id"], web["id"], "active", "instanceLink"))
        self.assertEqual({(port["privatePort"], port["protocol"], port["ipAddress"]) for port in link["ports"]},
                         {(80, "tcp", GATEWAY), (7, "tcp", GATEWAY), (53, "udp", GATEWAY)})
        public = {(port["privatePort"], port["protocol"]): port["publicPort"] for port in link["ports"]}
        self.assertTrue(all(port in range(20000, 40000) for port in public.values()), public)
        variables = self.variables(away)
        expected = {"WEB_NAME": "/cattle/web", "WEB_PORT": f"tcp://{GATEWAY}:{public[7, 'tcp']}"}
        for (private, protocol), port in public.items():
            name = f"WEB_PORT_{private}_{protocol.upper()}"
            expected |= {name: f"{protocol}://{GATEWAY}:{port}", f"{name}_ADDR": GATEWAY, f"{name}_PORT": str(port), f"{name}_PROTO": protocol}
        self.assertEqual({name: value for name, value in variables.items() if name.startswith("WEB_")}, expected)
        self.assertEqual(self.variables(beside)["MY_DB_NAME"], "/cattle/my-db")
        self.assertEqual([row["id"] for row in self.api.get(f"/v1/containers/{web['id']}/targetinstancelinks")["data"]],
                         sorted((link["id"], self.links(beside)["web"]["id"]), key=lambda one: int(one[3:])))
        for row, seen in ((away, away["primaryIpAddress"]), (beside, beside["primaryIpAddress"])):
            with self.subTest(row["name"]):
                inside = self.inside(row)
                wait_for("an answer", SOON, lambda inside=inside, row=row: inside.asks(self.port(row)) == f"web {seen}")
                self.assertEqual(inside.asks_udp(self.port(row, 53, protocol="udp")), f"web {seen}")
        # To itself, and the link of another is none of its own.
        self.aim(beside, beside)
        itself = self.serve("itself", HOSTS[2], instanceLinks={"web": web["id"]})
        self.aim(itself, itself)
        inside = self.inside(itself)
        wait_for("itself", SOON, lambda: inside.asks(self.port(itself)) == f"itself {NOBODY}")
        stranger = self.inside(self.make(requestedHostId=self.host_id(HOSTS[0])))
        self.assertEqual(stranger.asks(self.port(away)), "refused")

    def test_rubbish_is_refused_with_a_word(self):
        web = self.make()
        for links, code in (
                ({"": None}, "InvalidCharacters"), ({"-x": None}, "InvalidCharacters"), ({"a b": None}, "InvalidCharacters"),
                ({"x" * 64: None}, "MaxLengthExceeded"), ({"a-b": None, "A_b": None}, "NotUnique"), ({"web": "1i999999999"}, "InvalidReference"),
                ({"web": "1n1"}, "InvalidReference"), ({f"l{number}": None for number in range(65)}, "MaxLimitExceeded")):
            with self.subTest(links):
                self.refused(422, code, self.make, wait=False, instanceLinks=links, field="instanceLinks")
        row = self.source(HOSTS[0], web=web)
        link = self.links(row)["web"]
        path = f"/v1/instancelinks/{link['id']}"
        self.refused(422, "InvalidReference", self.api.put, path, {"targetInstanceId": "1i999999999"}, field="targetInstanceId")
        self.refused(405, "Method Not Allowed", self.api.delete, path)
        self.purge(web["id"])
        self.refused(422, "InvalidReference", self.make, wait=False, instanceLinks={"web": web["id"]}, field="instanceLinks")


class Aiming(LinksTest):
    def test_it_is_led_elsewhere_at_once_while_all_runs(self):
        one, two = self.serve("one", HOSTS[1]), self.serve("two", HOSTS[2])
        row = self.source(HOSTS[0], web=one)
        started = self.docker(row)["State"]["StartedAt"]
        inside, port = self.inside(row), self.port(row)
        wait_for("an answer", SOON, lambda: inside.asks(port).startswith("one "))
        watcher, times = Watcher(inside, port), {"another": [], "nobody": [], "back": [], "answer": []}
        path = f"/v1/instancelinks/{self.links(row)['web']['id']}"

        def aim(target, expected, into):
            begun = time.monotonic()
            self.apis[len(times[into]) % 3].put(path, {"targetInstanceId": target and target["id"]})
            times["answer"].append(time.monotonic() - begun)
            times[into].append(watcher.since(begun, expected))

        for number in range(10):
            aim(two, "two", "another")
            aim(one, "one", "another")
            aim(None, "refused", "nobody")
            aim(one, "one", "back")
        watcher.end()
        late = sum(answer == "late" for _, answer in watcher.answers)
        print(f"              {len(watcher.answers)} connections meanwhile, {late} of them without a word for a second")
        for kind, all_of in times.items():
            spread = statistics.quantiles(all_of, n=100, method="inclusive")
            print(f"              {kind}: {len(all_of)} times, p50 {spread[49] * 1000:.0f} ms, p99 {spread[98] * 1000:.0f} ms")
        self.assertLess(statistics.median(times["another"] + times["back"] + times["nobody"]), 1)
        self.assertEqual(self.port(row), port, "its port stays")
        self.assertEqual((self.docker(row)["State"]["StartedAt"], self.api.container(row)["state"]), (started, "running"))
        # What was led to the old target is led there no more, and who only waits for an answer hears of it.
        echo, waits = Echo(inside, self.port(row, 7)), Waits(inside, self.port(row, 7))
        self.aim(row, two)
        wait_for("the old way to end", SOON, lambda: echo.error and waits.error)
        echo.end()
        self.aim(row, None)
        wait_for("nobody", SOON, lambda: inside.asks_udp(self.port(row, 53, protocol="udp")) == "refused")

    def test_a_target_that_stops_starts_and_moves_is_found_again(self):
        web = self.serve("web", HOSTS[1])
        row = self.source(HOSTS[0], web=web)
        inside, port = self.inside(row), self.port(row)
        wait_for("an answer", SOON, lambda: inside.asks(port).startswith("web "))
        self.api.act(web, "stop")
        self.api.wait(web, "stopped")
        wait_for("nobody", SOON, lambda: inside.asks(port) == "refused")
        self.api.act(web, "start")
        self.api.wait(web, "running")
        wait_for("it is back", SOON, lambda: inside.asks(port).startswith("web "))
        self.api.act(web, "stop", {"deallocateFromHost": True})
        wait_for("no host", SOON, lambda: (now := self.api.container(web))["state"] == "stopped" and now["hostId"] is None)
        self.api.put(f"/v1/containers/{web['id']}", {"requestedHostId": self.host_id(HOSTS[2])})
        self.api.act(web, "start")
        moved = self.api.wait(web, "running")
        self.assertEqual(moved["hostId"], self.host_id(HOSTS[2]))
        self.assertNotEqual(moved["primaryIpAddress"], web["primaryIpAddress"])
        wait_for("it is found there", SOON, lambda: inside.asks(port).startswith("web "))
        self.purge(web["id"])
        wait_for("nobody", SOON, lambda: inside.asks(port) == "refused")
        endpoint = f"/stampede/v1/endpoint/{web['id']}/"
        self.assertEqual(HOSTS[0].out("etcdctl", "get", "--prefix", "--keys-only", endpoint), "")


class Late(LinksTest):
    def test_a_start_waits_for_a_target_that_has_yet_to_run_and_learns_its_ports(self):
        for host in HOSTS:
            host.shell("docker image inspect exposes:2 >/dev/null 2>&1 || { id=$(docker create busybox true); "
                       "docker commit -c 'EXPOSE 80/tcp' -c 'EXPOSE 53/udp' $id exposes:2; docker rm $id; }")
        late = [self.serve(f"late{number}", HOSTS[1], imageUuid="docker:exposes:2", ports=[], startOnCreate=False, wait=False)
                for number in range(2)]
        begun = time.monotonic()
        soon, never = (self.source(HOSTS[0], web=target, wait=False) for target in late)
        wait_for("that it waits", SOON, lambda: f"waits for {late[0]['id']}" in (self.api.container(soon)["transitioningMessage"] or ""))
        self.assertEqual(self.api.container(soon)["hostId"], None)
        self.api.act(late[0], "start")
        self.api.wait(late[0], "running")
        ran = time.monotonic()
        soon = self.api.wait(soon, "running")
        print(f"              ran {(time.monotonic() - ran) * 1000:.0f} ms after its target did")
        self.assertLess(time.monotonic() - begun, 12)
        self.assertEqual(self.variables(soon)["WEB_PORT_80_TCP_PORT"], str(self.port(soon)))
        inside = self.inside(soon)
        wait_for("an answer", SOON, lambda: inside.asks(self.port(soon)).startswith("late0 "))

        never = self.api.wait(never, "running")
        waited = time.monotonic() - begun
        print(f"              ran after {waited:.1f} s without its target")
        self.assertTrue(14 < waited < 25, waited)
        variables = self.variables(never)
        self.assertEqual([name for name in variables if name.startswith("WEB_")], ["WEB_NAME"])
        self.assertEqual(self.links(never)["web"]["ports"], [])
        self.api.act(late[1], "start")
        self.api.wait(late[1], "running")
        wait_for("its ports", SOON, lambda: len(self.links(never)["web"]["ports"]) == 2)
        inside = self.inside(never)
        wait_for("an answer", SOON, lambda: inside.asks(self.port(never)).startswith("late1 "))

    def test_made_without_a_target_it_gets_one_while_it_runs(self):
        row = self.source(HOSTS[0], web=None)
        self.assertEqual((self.links(row)["web"]["targetInstanceId"], self.links(row)["web"]["ports"]), (None, []))
        web = self.serve("web", HOSTS[0])
        self.assertEqual(self.aim(row, web, api=self.apis[1])["targetInstanceId"], web["id"])
        inside = self.inside(row)
        wait_for("an answer", SOON, lambda: inside.asks(self.port(row)).startswith("web "))


class Lasting(LinksTest):
    def setUp(self):
        super().setUp()
        self.web, self.beside = at_once(lambda one: self.serve(*one), [("web", HOSTS[1]), ("beside", HOSTS[0])])
        self.row = self.source(HOSTS[0], web=self.web, beside=self.beside)
        self.inner = self.inside(self.row)
        wait_for("an answer", SOON, lambda: self.inner.asks(self.port(self.row)).startswith("web "))

    def test_an_open_connection_goes_on_over_an_agents_death(self):
        echoes = [Echo(self.inner, self.port(self.row, 7, link)) for link in ("web", "beside")]
        before = self.elements(HOSTS[0], self.row)
        self.assertEqual(len(before), 6)
        HOSTS[0].shell("timeout 30 nft monitor > /run/changes.txt 2>&1 &")
        time.sleep(0.3)
        for _ in range(2):
            HOSTS[0].run("systemctl", "kill", "-s", "KILL", "stampede.service")
            wait_for("another agent", START, lambda: HOSTS[0].api(timeout=2).ask("GET", "/v1").status == 200)
        spoken = [echo.words for echo in echoes]
        wait_for("they go on", SOON, lambda: all(echo.words > words + 50 for echo, words in zip(echoes, spoken)))
        for echo in echoes:
            echo.end()
            self.assertIsNone(echo.error)
        HOSTS[0].shell("pkill -f 'nft monitor'", check=False)
        self.assertEqual(self.elements(HOSTS[0], self.row), before)
        flaps = [line for line in HOSTS[0].out("cat", "/run/changes.txt").splitlines() if "element inet stampede" in line or "table inet stampede" in line]
        self.assertEqual(flaps, [], "nothing was taken away or put anew")

    def test_a_flushed_ruleset_is_mended_and_a_purged_source_leaves_nothing(self):
        HOSTS[0].run("nft", "flush", "ruleset")
        begun = time.monotonic()
        for link in ("web", "beside"):
            wait_for("an answer", SOON, lambda link=link: self.inner.asks(self.port(self.row, link=link), 0.5).startswith(link), every=0.01)
        print(f"              led again {(time.monotonic() - begun) * 1000:.0f} ms after the flush")
        # A flush leaves Docker without its own rules too.
        HOSTS[0].run("systemctl", "restart", "docker.service")
        self.api.wait(self.row, "running", 90)
        ports = self.links(self.row)["web"]["ports"]
        self.api.act(self.row, "stop")
        self.api.wait(self.row, "stopped")
        wait_for("nothing is led", SOON, lambda: self.elements(HOSTS[0], self.row) == [])
        self.assertEqual(self.links(self.row)["web"]["ports"], ports, "they outlast a stop")
        self.api.act(self.row, "start")
        self.api.wait(self.row, "running")
        inside = self.inside(self.row)
        wait_for("an answer", 30, lambda: inside.asks(self.port(self.row, link="beside")).startswith("beside "))
        self.assertEqual(self.links(self.row)["web"]["ports"], ports)
        self.purge(self.row["id"])
        wait_for("nothing is led", SOON, lambda: self.elements(HOSTS[0], self.row) == [])
