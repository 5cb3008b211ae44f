"""etcd goes away, in part and altogether; nothing that runs stops, and all carries on after."""

import threading
import time

import case
from case import HOSTS, START, LabTest, Standing, cluster_is_whole, rounds
from hosts import at_once, container_name, wait_for


def stop_etcd(hosts):
    at_once(lambda host: host.run("systemctl", "stop", "etcd.service"), hosts)


def start_etcd(hosts):
    at_once(lambda host: host.run("systemctl", "start", "etcd.service"), hosts)


class Pings(threading.Thread):
    """A container pings another, five times a second, for as long as the block lasts."""

    def __init__(self, host, container, address):
        super().__init__()
        self.host, self.command, self.text = host, ["docker", "exec", container, "sh", "-c", f"ping -i 0.2 {address} & echo $! > /tmp/ping; wait"], ""
        self.container = container

    def __enter__(self):
        self.start()
        return self

    def run(self):
        self.text = self.host.run(*self.command, check=False, timeout=900).stdout

    def __exit__(self, *_):
        self.host.run("docker", "exec", self.container, "sh", "-c", "kill -INT $(cat /tmp/ping)", check=False)
        self.join(30)

    def lost(self):
        """Sent and received, as ping counts them at its end."""
        line = next(line for line in self.text.splitlines() if "packets transmitted" in line)
        words = line.split()
        return int(words[0]) - int(words[3])


class Gone(LabTest):
    def test_all_of_etcd_stopped_nothing_stops_and_it_carries_on_after(self):
        seconds = 120 if case.LONG else 40
        one, two, three = self.make_everywhere(each=1, instanceTriggeredStop="restart")
        ends = self.make(requestedHostId=one["hostId"], instanceTriggeredStop="stop")
        killed = self.make(requestedHostId=two["hostId"], instanceTriggeredStop="restart")
        killed_before = self.docker(killed)["State"]["StartedAt"]
        # What was asked for lately is known; the rest of the reads gets 503 too.
        known = [{row["id"] for row in api.list("/v1/containers")} for api in self.apis][0]
        host_one, host_two = HOSTS[0], HOSTS[1]
        standing = Standing()
        with Pings(host_one, container_name(one), three["primaryIpAddress"]) as pings:
            stop_etcd(HOSTS)
            try:
                since = time.monotonic()
                stale = wait_for("reads to be marked stale", 30, lambda: [
                    answer for api in self.apis for answer in [api.ask("GET", "/v1/containers")]
                    if answer.status == 200 and answer.headers.get("X-Stampede-Stale")])
                print(f"              stale after {time.monotonic() - since:.1f} s: {stale[0].headers['X-Stampede-Stale']}")
                for api in self.apis:
                    answer = api.ask("GET", "/v1/containers?limit=1000")
                    self.assertEqual(answer.status, 200)
                    self.assertLessEqual(set(self.made), {row["id"] for row in answer.body["data"]} & known)
                    for method, path, body in (
                            ("POST", "/v1/containers", {"imageUuid": "docker:busybox"}), ("PUT", f"/v1/containers/{one['id']}", {"name": "x"}),
                            ("DELETE", f"/v1/containers/{one['id']}", None), ("POST", f"/v1/containers/{one['id']}/?action=stop", {})):
                        answer = api.ask(method, path, body)
                        self.assertEqual((method, answer.status), (method, 503), answer.body)
                        self.assertEqual(answer.body["type"], "error")
                # Longer than a lease: hosts are gone in nobody's eyes but their own.
                time.sleep(max(0, seconds - (time.monotonic() - since)))
                standing.must_be_same(self)
                # An agent that starts now finds no etcd, waits for it, and leaves alone what runs.
                host_one.run("systemctl", "kill", "-s", "KILL", "--kill-whom=main", "stampede.service")
                time.sleep(5)
                standing.must_be_same(self)
                # And what happens now is made good later, or at once by its own supervisor.
                host_one.run("docker", "kill", container_name(ends))
                host_two.run("docker", "kill", container_name(killed))
                wait_for("its supervisor to start it again, with nobody to ask", START, lambda: (
                    container := host_two.containers().get(killed["id"])) and container["State"]["StartedAt"] != killed_before)
            finally:
                start_etcd(HOSTS)
            cluster_is_whole(120)
        self.assertLessEqual(pings.lost(), 2, pings.text[-300:])
        wait_for("the end to be known", START, lambda: self.api.container(ends)["state"] == "stopped")
        self.api.wait(killed, "running")
        after = self.make()
        self.ping(after, three)
        for row in (one, two, three):
            self.assertEqual(self.docker(row)["State"]["StartedAt"], {
                instance: started for _, instance, _, started, _, _ in standing.seen}[row["id"]], "not started again")

    def test_one_member_gone_nobody_notices(self):
        standing_rows = self.make_everywhere()
        standing = Standing()
        for _ in rounds(1, 20):
            for host in HOSTS:
                stop_etcd([host])
                try:
                    for api in self.apis:
                        row = self.make(api)
                        self.api.act(row, "stop", {"remove": True})
                        self.api.wait(row, "removed")
                        self.purge(row["id"])
                finally:
                    start_etcd([host])
                wait_for("etcd", START, lambda host=host: host.run("etcdctl", "endpoint", "health", check=False).returncode == 0)
        standing.must_be_same(self)
        self.assertEqual(len(standing_rows), 3)

    def headers(self, host):
        """Of an answer to a list, asked for on the host itself."""
        answer = host.out("curl", "-sS", "-D", "-", "-o", "/dev/null", "--unix-socket", "/run/stampede/api.sock", "http://x/v1/containers")
        self.assertIn("200", answer.splitlines()[0])
        return answer.lower()

    def test_a_cut_host_keeps_its_containers_and_says_that_it_is_stale(self):
        """Its cable pulled, a host is alone: everything on it runs on, and it answers for what it knows."""
        rows = self.make_everywhere()
        standing = Standing()
        # What it was asked for lately is what it knows when it is alone.
        self.apis[2].list("/v1/containers")
        case.LAB("cut", "h3")
        try:
            wait_for("the others to see it go", 60, lambda: next(
                host for host in self.api.list("/v1/hosts") if host["name"] == "h3")["state"] != "active")
            made = self.make()
            self.assertNotEqual(made["hostId"], rows[2]["hostId"])
            self.ping(made, rows[1] if self.host_of(made).name != "h2" else rows[0])
            # It cannot know at once that it is alone: its watch is silent first, and then refused.
            wait_for("h3 to say that what it answers is old", 15, lambda: "x-stampede-stale" in self.headers(HOSTS[2]))
        finally:
            case.LAB("heal", "h3")
        cluster_is_whole(120)
        self.assertLessEqual(set(standing.seen), set(Standing.look()), "a container was restarted or lost")
        wait_for("it is reached again", 30, lambda: self.can_ping(rows[0], rows[2]))
        self.assertEqual(self.api.container(rows[2])["state"], "running")
