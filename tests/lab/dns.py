"""Names: who gets which, how soon they come and go, and what they outlast."""

import re
import time
from ast import literal_eval

import case
from case import HOSTS, SOON, START, LabTest
from hosts import at_once, container_name, wait_for

GATEWAY = "10.42.0.1"

# A question by hand, in the network of a container: what nslookup cannot do (TCP, how long it took, over and over).
ASK = r'''
import socket, struct, sys, time
KINDS = {"A": 1, "SOA": 6, "PTR": 12, "TXT": 16, "AAAA": 28}
def packet(name, kind):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split("."))
    return struct.pack(">HHHHHH", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", KINDS[kind], 1)
def skip(data, at):
    while data[at] & 0xc0 != 0xc0 and data[at]:
        at += data[at] + 1
    return at + (2 if data[at] else 1)
def read(data):
    _, flags, questions, answers, _, _ = struct.unpack(">HHHHHH", data[:12])
    at, addresses = 12, []
    for _ in range(questions):
        at = skip(data, at) + 4
    for _ in range(answers):
        at = skip(data, at)
        kind, _, ttl, length = struct.unpack(">HHIH", data[at:at + 10])
        addresses += [socket.inet_ntoa(data[at + 10:at + 14])] if kind == 1 else []
        at += 10 + length
    return {"code": flags & 15, "cut": bool(flags & 0x200), "answers": answers, "addresses": sorted(addresses)}
def ask(name, kind="A", tcp=False, limit=5.0, server="10.42.0.1"):
    question = packet(name, kind)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM) as way:
        way.settimeout(limit)
        try:
            way.connect((server, 53))
            way.sendall((struct.pack(">H", len(question)) if tcp else b"") + question)
            if not tcp:
                return read(way.recv(4096))
            data = b""
            while len(data) < 2 or len(data) < 2 + struct.unpack(">H", data[:2])[0]:
                more = way.recv(4096)
                if not more:
                    return {"code": None}
                data += more
            return read(data[2:])
        except OSError as error:
            return {"code": None, "error": str(error)}
'''
ONCE = ASK + "print(ask(sys.argv[1], sys.argv[2], sys.argv[3] == 'tcp', float(sys.argv[4]), sys.argv[5]))\n"
# What is said to one name, each time that it is something else, with when that was and the longest answer until then.
FOLLOW = ASK + r'''
name, path = sys.argv[1:3]
last, longest, lost = None, 0, 0
while True:
    began = time.time()
    said = ask(name, limit=4.0)
    longest, lost = max(longest, time.time() - began), lost + (said["code"] is None)
    said = {"code": said["code"], "addresses": said.get("addresses", [])}
    if said != last:
        with open(path, "a") as log:
            log.write(repr({"at": time.time(), "longest": longest, "lost": lost} | said) + "\n")
        last, longest = said, 0
    time.sleep(0.02)
'''
# When etcd's member on another host could be reached again, each time.
REACH = r'''
import socket, sys, time
there = True
while True:
    try:
        socket.create_connection((sys.argv[1], 2379), 0.2).close()
        if not there:
            with open(sys.argv[2], "a") as log:
                log.write(f"{time.time()}\n")
        there = True
    except OSError:
        there = False
    time.sleep(0.05)
'''
# A name server that has one name, over UDP and TCP.
SERVER = r'''
import socket, struct, threading
def answer(packet):
    end = packet.index(b"\0", 12) + 5
    found = packet[12:end - 4].lower() == b"\7example\4test\0" and packet[end - 4:end] == b"\0\1\0\1"
    here = packet[12:end - 4].lower() == b"\7example\4test\0"
    head = packet[:2] + struct.pack(">HHHHH", 0x8180 | (0 if here else 3), 1, int(found), 0, 0)
    return head + packet[12:end] + (b"\xc0\x0c\0\1\0\1\0\0\1\x2c\0\4" + socket.inet_aton("192.0.2.99") if found else b"")
def tcp():
    door = socket.create_server((ADDRESS, 53))
    while True:
        way, _ = door.accept()
        packet = way.recv(4096)
        said = answer(packet[2:])
        way.sendall(struct.pack(">H", len(said)) + said)
        way.close()
threading.Thread(target=tcp, daemon=True).start()
door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
door.bind((ADDRESS, 53))
while True:
    packet, source = door.recvfrom(4096)
    door.sendto(answer(packet), source)
'''


class DnsTest(LabTest):
    def lookup(self, row, name, *options):
        """What nslookup says in a container: addresses or names, empty where there is none."""
        text = self.host_of(row).out("docker", "exec", container_name(row), "nslookup", *options, name, check=False)
        said = text.partition("\n\n")[2]
        return sorted(re.findall(r"^Address(?: \d+)?:\s*(\S+)", said, re.M) + re.findall(r"name = (\S+)", said))

    def inside(self, row, script, *arguments):
        """Runs a program in the network of a container, with the host's own Python."""
        host = self.host_of(row)
        pid = host.out("docker", "inspect", "-f", "{{.State.Pid}}", container_name(row))
        return host.out("nsenter", "-t", pid, "-n", "python3", "-c", script, *arguments, timeout=60)

    def ask(self, row, name, kind="A", way="udp", limit=5, server=GATEWAY):
        return literal_eval(self.inside(row, ONCE, name, kind, way, limit, server))

    def resolved(self, row, name, *addresses):
        wait_for(f"{name} to be {addresses}", SOON, lambda: self.lookup(row, name) == sorted(addresses))

    def follow(self, row, name):
        """Begins to ask for one name all the time; what was said is in the file."""
        host, path = self.host_of(row), f"/run/follow-{row['id']}"
        pid = host.out("docker", "inspect", "-f", "{{.State.Pid}}", container_name(row))
        host.path(f"{path}.py").write_text(FOLLOW)
        host.shell(f"rm -f {path}; systemd-run -q --collect --unit follow-{row['id']} nsenter -t {pid} -n python3 {path}.py {name} {path}")
        self.addCleanup(host.run, "systemctl", "stop", f"follow-{row['id']}", check=False)
        said = lambda: [literal_eval(line) for line in host.out("cat", path, check=False).splitlines()]  # noqa: E731
        wait_for("a first answer", SOON, said)
        return said


class Names(DnsTest):
    def test_by_name_hostname_and_address_on_every_host(self):
        clients = self.make_everywhere()
        web = self.make(name="web-front", hostname="www", requestedHostId=self.host_id(HOSTS[1]))
        address = web["primaryIpAddress"]
        default = f"ip-{address.replace('.', '-')}"
        for client in clients:
            for name in ("web-front", "WWW", default, "web-front.stampede.internal", f"{default}.stampede.internal"):
                with self.subTest(f"{name} from {client['name']}"):
                    self.assertEqual(self.lookup(client, name), [address])
        one = next(client for client in clients if client["hostId"] != web["hostId"])
        self.assertEqual(self.lookup(one, address), ["web-front.stampede.internal"], "turned round")
        # As programs do it, by the container's own resolv.conf.
        config = self.host_of(one).out("docker", "exec", container_name(one), "cat", "/etc/resolv.conf")
        self.assertIn("search stampede.internal", config)
        self.assertEqual(self.ask(one, "web-front.stampede.internal", "AAAA"), {"code": 0, "cut": False, "answers": 0, "addresses": []})
        for name in ("nobody", "nobody.stampede.internal"):
            self.assertEqual(self.ask(one, name)["code"], 3, name)
        self.assertEqual(self.ask(one, "web-front", way="tcp")["addresses"], [address])
        self.assertEqual(self.ask(one, "stampede.internal", "SOA")["answers"], 1)

    def test_a_link_by_its_name_leads_to_its_target_wherever_that_is(self):
        one, two = (self.make(name=name, requestedHostId=self.host_id(host)) for name, host in zip(("db", "spare"), HOSTS[1:]))
        row = self.make(requestedHostId=self.host_id(HOSTS[0]), instanceLinks={"store": one["id"], "db": two["id"]})
        other = self.make(requestedHostId=self.host_id(HOSTS[0]))
        self.resolved(row, "store", one["primaryIpAddress"])
        self.assertEqual(self.lookup(row, "store.stampede.internal"), [one["primaryIpAddress"]])
        self.assertEqual(self.lookup(row, "db"), [two["primaryIpAddress"]], "its own name goes before another's")
        self.assertEqual((self.lookup(other, "store"), self.lookup(other, "db")), ([], [one["primaryIpAddress"]]))
        links = {link["linkName"]: link for link in self.api.get(f"/v1/containers/{row['id']}/instancelinks")["data"]}
        store = f"/v1/instancelinks/{links['store']['id']}"
        self.api.put(store, {"targetInstanceId": two["id"]})
        self.resolved(row, "store", two["primaryIpAddress"])
        self.api.put(store, {"targetInstanceId": None})
        self.resolved(row, "store")
        self.assertEqual(self.ask(row, "store")["code"], 0, "there is such a name, and it leads nowhere")

    def test_several_of_one_name(self):
        client = self.make(requestedHostId=self.host_id(HOSTS[0]))
        rows = [self.make(name="pool", requestedHostId=self.host_id(host)) for host in HOSTS]
        addresses = sorted(row["primaryIpAddress"] for row in rows)
        self.resolved(client, "pool", *addresses)
        self.purge(rows[1]["id"])
        addresses.remove(rows[1]["primaryIpAddress"])
        self.resolved(client, "pool", *addresses)

    def test_each_account_has_its_own(self):
        other = self.api.post("/v1/accounts", {"name": "names", "kind": "user"})
        key = self.api.post("/v1/apikeys", {"accountId": other["id"]})
        theirs = HOSTS[0].api()
        theirs = type(theirs)(HOSTS[0].api_address, key["publicValue"], key["secretValue"])
        ours, other_one = self.make(name="mine"), self.make(theirs, name="mine", wait=False)
        other_one = self.api.wait(other_one, "running")
        self.assertEqual(self.ask(ours, "mine")["addresses"], [ours["primaryIpAddress"]])
        self.assertEqual(self.ask(other_one, "mine")["addresses"], [other_one["primaryIpAddress"]])
        turned = ".".join(reversed(ours["primaryIpAddress"].split("."))) + ".in-addr.arpa"
        self.assertEqual((self.ask(ours, turned, "PTR")["answers"], self.ask(other_one, turned, "PTR")["code"]), (1, 3))
        at_once(self.purge, [ours["id"], other_one["id"]])


class Changing(DnsTest):
    def test_gone_with_the_stop_and_back_with_the_start(self):
        client = self.make(requestedHostId=self.host_id(HOSTS[0]))
        row = self.make(name="comes-and-goes", requestedHostId=self.host_id(HOSTS[1]))
        said = self.follow(client, "comes-and-goes")
        wait_for("the name", SOON, lambda: said()[-1]["addresses"])
        begun = time.time()
        self.apis[2].act(row, "stop")
        gone = wait_for("it to be gone", SOON, lambda: (last := said()[-1])["code"] == 3 and last)
        self.api.wait(row, "stopped")
        again = time.time()
        self.apis[2].act(row, "start")
        self.api.wait(row, "running")
        running = time.time()
        back = wait_for("it to be back", SOON, lambda: (last := said()[-1])["addresses"] == [row["primaryIpAddress"]] and last)
        print(f"              gone {(gone['at'] - begun) * 1000:.0f} ms after the stop was asked for, back {(back['at'] - again) * 1000:.0f} ms "
              f"after the start was ({(back['at'] - running) * 1000:+.0f} ms to when it was seen to run); longest answer {max(one['longest'] for one in said()) * 1000:.0f} ms")
        self.assertLess(gone["at"] - begun, 2)
        self.assertLess(back["at"] - running, 2)

    def test_another_name_at_once(self):
        client, row = self.make(), self.make(name="before")
        self.resolved(client, "before", row["primaryIpAddress"])
        self.api.put(f"/v1/containers/{row['id']}", {"name": "after"})
        self.resolved(client, "after", row["primaryIpAddress"])
        wait_for("the old name to be gone", SOON, lambda: self.ask(client, "before")["code"] == 3)
        # What Docker calls it stays as it was.
        self.assertEqual(self.api.container(row)["name"], "after")
        self.purge(row["id"])


class Elsewhere(DnsTest):
    def test_other_names_come_from_the_hosts_name_server(self):
        server, host = HOSTS[2], HOSTS[0]
        client = self.make(requestedHostId=self.host_id(host))
        server.path("/run/server.py").write_text(f"ADDRESS = '{server.address}'\n{SERVER}")
        server.run("systemd-run", "-q", "--collect", "--unit", "name-server", "python3", "/run/server.py")
        self.addCleanup(server.run, "systemctl", "stop", "name-server", check=False)
        before = host.out("cat", "/etc/resolv.conf", check=False)
        self.addCleanup(host.shell, "rm -f /etc/resolv.conf; ln -s /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf; systemctl restart systemd-resolved", check=False)
        for how in ("its own", "behind systemd-resolved"):
            with self.subTest(how):
                if how == "its own":
                    host.shell(f"rm -f /etc/resolv.conf; echo nameserver {server.address} > /etc/resolv.conf")
                else:
                    host.shell(f"mkdir -p /run/systemd/resolved.conf.d; printf '[Resolve]\\nDNS={server.address}\\n' > /run/systemd/resolved.conf.d/test.conf; "
                               "systemctl restart systemd-resolved; rm -f /etc/resolv.conf; echo nameserver 127.0.0.53 > /etc/resolv.conf")
                    self.addCleanup(host.shell, "rm -rf /run/systemd/resolved.conf.d", check=False)
                wait_for("the name", SOON, lambda: self.lookup(client, "example.test", "-type=a") == ["192.0.2.99"])
                self.assertEqual(self.ask(client, "example.test", way="tcp")["addresses"], ["192.0.2.99"])
                self.assertEqual(self.ask(client, "nobody.example.test")["code"], 3)
        host.shell("rm -f /etc/resolv.conf; echo nameserver 10.42.0.1 > /etc/resolv.conf")
        wait_for("nobody to ask", SOON, lambda: self.ask(client, "example.test")["code"] == 2)
        self.assertNotEqual(before, "")

    def test_who_is_nobody_is_told_nothing(self):
        row = self.make(name="secret", requestedHostId=self.host_id(HOSTS[0]))
        self.resolved(row, "secret", row["primaryIpAddress"])
        host = HOSTS[0]
        asked = lambda where, server: literal_eval(where.out("python3", "-c", ONCE, "secret.stampede.internal", "A", "udp", "1", server))  # noqa: E731
        self.assertEqual(asked(host, GATEWAY)["code"], 5, "the host itself is refused")
        self.assertIsNone(asked(host, host.address)["code"], "at the gateway's address alone")
        sockets = host.out("ss", "-Hlnp", "sport", "=", "53")
        self.assertEqual(sorted(re.findall(r"(10\.\S+):53 .*\"stampede\"", sockets)), [GATEWAY, GATEWAY], sockets)
        # Another machine that leads the address here.
        other = HOSTS[1]
        other.shell(f"ip netns add stranger && ip link add st0 type veth peer name st1 netns stranger && ip addr add 198.19.9.1/24 dev st0 && "
                    "ip link set st0 up && ip -n stranger addr add 198.19.9.2/24 dev st1 && ip -n stranger link set st1 up && ip -n stranger route add default via 198.19.9.1")
        try:
            self.assertIsNone(literal_eval(other.out("ip", "netns", "exec", "stranger", "python3", "-c", ONCE, "secret", "A", "udp", "1", GATEWAY))["code"])
        finally:
            other.shell("ip netns del stranger; ip link del st0", check=False)


class Lasting(DnsTest):
    def test_over_an_agents_death_and_restart(self):
        client = self.make(requestedHostId=self.host_id(HOSTS[0]))
        row = self.make(name="lasting", requestedHostId=self.host_id(HOSTS[1]))
        said = self.follow(client, "lasting")
        wait_for("the name", SOON, lambda: said()[-1]["addresses"])
        for how in (("kill", "-s", "KILL"), ("restart",)):
            HOSTS[0].run("systemctl", *how, "stampede.service")
            time.sleep(0.2)
            wait_for("another agent", START, lambda: HOSTS[0].api(timeout=2).ask("GET", "/v1").status == 200)
        wait_for("the name", SOON, lambda: said()[-1]["addresses"] == [row["primaryIpAddress"]])
        self.ask(client, "nobody")
        # What makes it write what it saw: the name is another's now.
        self.purge(row["id"])
        wait_for("it to be gone", SOON, lambda: said()[-1]["code"] == 3)
        print(f"              over two agents: {said()[-1]['lost']} questions lost, longest answer {max(one['longest'] for one in said()):.2f} s")
        self.assertTrue(all(one["code"] in (0, 3) for one in said()), said())

    def test_a_host_that_was_cut_off_is_right_at_once(self):
        cut = HOSTS[2]
        client = self.make(requestedHostId=self.host_id(cut))
        row = self.make(name="moving", requestedHostId=self.host_id(HOSTS[0]))
        old = row["primaryIpAddress"]
        self.resolved(client, "moving", old)
        said = self.follow(client, "moving")
        cut.path("/run/reach.py").write_text(REACH)
        cut.shell(f"rm -f /run/reached; systemd-run -q --collect --unit reach python3 /run/reach.py {HOSTS[0].address} /run/reached")
        self.addCleanup(cut.run, "systemctl", "stop", "reach", check=False)
        self.addCleanup(case.LAB, "heal", cut.name, check=False)
        case.LAB("cut", cut.name)
        begun = time.monotonic()
        self.purge(row["id"])
        new = self.make(name="moving", requestedHostId=self.host_id(HOSTS[1]))
        time.sleep(max(0, (60 if case.LONG else 12) - (time.monotonic() - begun)))
        blind = said()
        self.assertEqual(blind[-1]["addresses"], [old], "what it knew")
        unknown = self.ask(client, "never-asked-for", limit=5)
        self.assertEqual(unknown["code"], 2, "a failure, not that there is none")
        healed = time.time()
        case.LAB("heal", cut.name)
        right = wait_for("the new address", START, lambda: (last := said()[-1])["addresses"] == [new["primaryIpAddress"]] and last)
        reached = wait_for("etcd", START, lambda: next(when for when in map(float, cut.out("cat", "/run/reached").split()) if when > healed))
        print(f"              right {right['at'] - healed:.2f} s after the cable, {right['at'] - reached:+.2f} s to when etcd could be reached; longest answer while cut off {max(one['longest'] for one in said()):.2f} s")
        # It is 0.5 s; where a connection was just being tried, that is waited for first.
        self.assertLess(right["at"] - reached, 2)
