"""Output, commands and figures of a container, asked for at hosts that have it and at hosts that do not."""

import json
import threading
import time

import case
from api import Api
from case import HOSTS, SOON, LabTest, cluster_is_whole
from hosts import wait_for
from websocket import Stream

SPEAKER = "echo first; echo wrong >&2; echo last; n=0; while sleep 0.2; do n=$((n+1)); echo tick $n; done"


class Streams(LabTest):
    def speaker(self, host):
        return self.make(requestedHostId=self.host_id(host), command="sh", commandArgs=["-c", SPEAKER])

    def open(self, row, kind, at, **query):
        return Stream(at.api(), f"/v1/containers/{row['id']}/{kind}", **query)

    def processes(self, row, word):
        """How many of the container's processes have `word` in their command."""
        top = self.host_of(row).out("docker", "top", self.docker(row)["Id"], "-o", "pid,args", check=False)
        return sum(word in line for line in top.splitlines())


class Logs(Streams):
    def test_at_every_host_and_in_every_form(self):
        # Docker reads the two outputs side by side: apart in time, so that the last line is the last. Its `tail` counts both.
        words = "echo first; echo wrong >&2; sleep 0.5; echo last; exec sleep infinity"
        row = self.make(requestedHostId=self.host_id(HOSTS[0]), command="sh", commandArgs=["-c", words])
        for host in HOSTS:
            path = f"/v1/containers/{row['id']}/logs"
            wait_for("all output", SOON, lambda: host.api().ask("GET", path).body.count("\n") == 3)
            self.assertEqual(sorted(host.api().ask("GET", path).body.split()), ["first", "last", "wrong"])
            self.assertEqual(host.api().ask("GET", f"{path}?tail=1&stderr=false").body, "last\n")
            self.assertEqual(host.api().ask("GET", f"{path}?stdout=false").body, "wrong\n")
            self.assertRegex(host.api().ask("GET", f"{path}?timestamps=true&tail=1").body, r"^20\d\d-\d\d-\d\dT[0-9:.]+Z \w+\n$")
            self.assertEqual(host.api().ask("GET", f"{path}?since={int(time.time()) + 3600}").body, "")
            with self.open(row, "logs", host) as stream:
                stream.rest()
                self.assertEqual((stream.output, stream.errors), (b"first\nlast\n", b"wrong\n"))
                self.assertEqual((stream.end["code"], stream.closed[0]), ("Ended", 1000))
        self.assertIn("last", HOSTS[1].out("stampede", "logs", row["id"]))

    def test_followed_until_it_stops(self):
        row = self.speaker(HOSTS[0])
        with self.open(row, "logs", HOSTS[1], follow="true", tail=0) as there, self.open(row, "logs", HOSTS[0], follow="true") as here:
            for stream in (there, here):
                stream.until(b"tick")
            begun = time.monotonic()
            there.output = b""
            there.until(b"tick")
            self.assertLess(time.monotonic() - begun, 3, "it comes as it is written")
            self.api.act(row, "stop")
            for stream in (there, here):
                stream.rest()
                self.assertEqual((stream.end["code"], stream.closed[0]), ("Ended", 1000))
        self.api.wait(row, "stopped")
        self.assertIn("first", HOSTS[2].api().ask("GET", f"/v1/containers/{row['id']}/logs").body, "of what is stopped there is output too")

    def test_a_plain_stream_followed(self):
        row = self.speaker(HOSTS[0])
        text = HOSTS[1].shell(f"timeout 3 curl -sN --unix-socket /run/stampede/api.sock 'http://h/v1/containers/{row['id']}/logs?follow=true'", check=False)
        self.assertIn("tick", text)


class Exec(Streams):
    def test_input_output_and_exit_code_at_every_host(self):
        row = self.make(requestedHostId=self.host_id(HOSTS[0]))
        for host in HOSTS:
            script = "read line; echo heard $line; echo wrong >&2; pwd; id -un; echo $COLOUR; cat; exit 3"
            with self.open(row, "exec", host, command=["sh", "-c", script], stdin="true", environment="COLOUR=green", directory="/tmp", user="nobody") as stream:
                stream.say(b"a word\n")
                stream.until(b"green\n")
                stream.say(b"x" * 100_000)
                stream.say(b"")
                stream.rest()
                self.assertEqual(stream.output, b"heard a word\n/tmp\nnobody\ngreen\n" + b"x" * 100_000)
                self.assertEqual(stream.errors, b"wrong\n")
                self.assertEqual((stream.end["exitCode"], stream.closed[0]), (3, 1000), stream.end)

    def test_a_terminal(self):
        row = self.make(requestedHostId=self.host_id(HOSTS[0]))
        for host in HOSTS[:2]:
            with self.open(row, "exec", host, command=["sh"], stdin="true", tty="true", columns=91, rows=33) as stream:
                stream.say(b"stty size\n")
                stream.until(b"33 91")
                stream.resize(101, 44)
                stream.say(b"sleep 0.3; stty size\n")
                stream.until(b"44 101")
                stream.say(b"exit 5\n")
                stream.rest()
                self.assertEqual(stream.end["exitCode"], 5)

    def test_who_goes_leaves_nothing_behind(self):
        row = self.make(requestedHostId=self.host_id(HOSTS[0]))
        for host in HOSTS[:2]:
            # One that ends with its input, one that ends when it is hung up on, and one that heeds neither.
            for word, command in (("cat", ["cat"]), ("4711", ["sleep", "4711"]), ("4712", ["sh", "-c", "trap '' HUP; exec sleep 4712"])):
                with self.open(row, "exec", host, command=command, stdin="true"):
                    wait_for("it to run", SOON, lambda: self.processes(row, word) == 1)
                wait_for(f"{command} to be gone", 20, lambda: self.processes(row, word) == 0)

    def test_the_command_line(self):
        row = self.make(requestedHostId=self.host_id(HOSTS[0]))
        result = HOSTS[1].run("sh", "-c", f"echo hello | stampede exec -i {row['id']} -- sh -c 'cat; echo wrong >&2; exit 7'", check=False)
        self.assertEqual((result.returncode, result.stdout, result.stderr), (7, "hello\n", "wrong\n"))
        result = HOSTS[1].run("stampede", "exec", row["id"], "--", "/no/such/program", check=False)
        self.assertNotEqual(result.returncode, 0)
        # By its name, as long as that says which one it is.
        name = f"named-{row['id']}"
        named = self.make(requestedHostId=self.host_id(HOSTS[0]), name=name)
        self.assertEqual(HOSTS[1].out("stampede", "exec", name, "--", "echo", "yes"), "yes")
        HOSTS[1].run("stampede", "logs", name)
        self.make(requestedHostId=self.host_id(HOSTS[0]), name=name)
        result = HOSTS[1].run("stampede", "logs", name, check=False)
        self.assertEqual((result.returncode, named["id"] in result.stderr), (1, True), result.stderr)
        result = HOSTS[1].run("stampede", "logs", "nobody", check=False)
        self.assertIn("no instance has the id or name nobody", result.stderr)

    def test_for_its_owner_alone(self):
        row = self.make(requestedHostId=self.host_id(HOSTS[0]))
        self.assertLessEqual({"exec", "logs", "stats"}, set(self.api.container(row)["links"]))
        made = self.api.post("/v1/accounts", {"name": "other", "kind": "readAdmin"})
        key = self.api.post("/v1/apikeys", {"accountId": made["id"]})
        reader = Api(HOSTS[1].api_address, key["publicValue"], key["secretValue"])
        self.assertNotIn("exec", reader.container(row)["links"])
        self.assertEqual(reader.ask("GET", f"/v1/containers/{row['id']}/logs").status, 200)
        self.refused(403, "Forbidden", Stream, reader, f"/v1/containers/{row['id']}/exec?command=ls")

    def test_an_address_with_a_token(self):
        row = self.make(requestedHostId=self.host_id(HOSTS[0]))
        made = HOSTS[1].api().post(f"/v1/containers/{row['id']}/exec", {"command": ["echo", "it & she"]})
        path = "/" + made["url"].split("/", 3)[3]
        for host in HOSTS:
            nobody = Api(host.api_address)
            with Stream(nobody, path) as stream:
                self.assertEqual(stream.rest(), b"it & she\n")
        self.refused(401, "Unauthorized", Stream, Api(HOSTS[0].api_address), path.replace("she", "he"))


class Stats(Streams):
    def test_figures_each_second_at_every_host(self):
        row = self.make(requestedHostId=self.host_id(HOSTS[0]), command="sh", commandArgs=["-c", "while :; do :; done"])
        for host in HOSTS[:2]:
            with self.open(row, "stats", host) as stream:
                told = [stream.next() for _ in range(3)]
            self.assertEqual(len({one["time"] for one in told}), 3)
            self.assertIn("eth0", told[2]["network"])
            # Where the machine's kernel counts them for the hosts.
            if "cpu" in told[2]:
                self.assertGreater(told[2]["cpu"]["totalNanos"], told[1]["cpu"]["totalNanos"])
                self.assertGreater(told[2]["cpu"]["percent"], 1)
            if "memory" in told[2]:
                self.assertGreater(told[2]["memory"]["usedBytes"], 0)
            one = host.api().ask("GET", f"/v1/containers/{row['id']}/stats")
            self.assertEqual((one.status, "eth0" in one.body["network"]), (200, True))

    def test_until_it_stops(self):
        row = self.make(requestedHostId=self.host_id(HOSTS[0]))
        with self.open(row, "stats", HOSTS[1]) as stream:
            self.assertIn("network", stream.next())
            self.api.act(row, "stop")
            while stream.next() is not None:
                pass
            self.assertEqual((stream.end["code"], stream.closed[0]), ("Ended", 1000))


class Ends(Streams):
    def test_errors_say_what_to_do(self):
        row = self.make(requestedHostId=self.host_id(HOSTS[0]))
        self.api.act(row, "stop")
        self.api.wait(row, "stopped")
        for host in HOSTS[:2]:
            self.refused(409, "NotRunning", self.open, row, "exec", host, command="ls")
            self.refused(409, "NotRunning", self.open, row, "stats", host)
        waiting = self.make(startOnCreate=False, wait=False)
        wait_for("it to be made", SOON, lambda: self.api.container(waiting)["transitioning"] != "yes")
        for host in HOSTS:
            self.assertIn(host.api().ask("GET", f"/v1/containers/{waiting['id']}/logs").body["code"], ("NotPlaced", "NoContainer"))

    def test_an_agent_that_starts_again_says_so(self):
        row = self.speaker(HOSTS[0])
        with self.open(row, "logs", HOSTS[1], follow="true") as there, self.open(row, "logs", HOSTS[0], follow="true") as here:
            for stream in (there, here):
                stream.until(b"tick")
            HOSTS[0].run("systemctl", "restart", "--no-block", "stampede.service")
            for stream in (there, here):
                stream.rest()
                self.assertEqual((stream.end["code"], stream.closed[0]), ("Closing", 1012))

    def test_an_owner_that_loses_power_is_noticed(self):
        row = self.speaker(HOSTS[2])
        plain = []

        def follow():
            plain.append(HOSTS[0].run("curl", "-sSN", "--unix-socket", "/run/stampede/api.sock", f"http://h/v1/containers/{row['id']}/logs?follow=true", check=False))

        try:
            self.lose(row, follow, plain)
        finally:
            case.LAB("start", HOSTS[2].name, timeout=180)
            cluster_is_whole(120)

    def lose(self, row, follow, plain):
        with self.open(row, "logs", HOSTS[0], follow="true") as logs, self.open(row, "exec", HOSTS[0], command="cat", stdin="true") as command:
            logs.until(b"tick")
            follower = threading.Thread(target=follow)
            follower.start()
            time.sleep(1)
            case.LAB("kill", HOSTS[2].name)
            begun = time.monotonic()
            for stream in (logs, command):
                stream.rest()
                self.assertEqual((stream.end["code"], stream.closed[0]), ("HostUnavailable", 1013))
            follower.join(30)
            taken = time.monotonic() - begun
        print(f"              noticed after {taken:.1f} s")
        self.assertLess(taken, 15)
        self.assertIn("[stampede: HostUnavailable", plain[0].stdout)
        self.assertNotEqual(plain[0].returncode, 0, "to curl it is no whole answer")
        answer = HOSTS[0].api().ask("GET", f"/v1/containers/{row['id']}/logs")
        self.assertEqual((answer.status, answer.body["code"]), (503, "HostUnavailable"), json.dumps(answer.body))
