"""Nobody sends as somebody else: packets made by hand, in a container's own network; and accounts that are kept apart."""

import time

from api import ApiError
from case import HOSTS, LabTest
from hosts import at_once, container_name, wait_for

# A datagram in a frame made by hand; the way there is whom a ping before it was sent to.
FORGE = r'''
import socket, struct, sys
own, source, target, port = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
def checksum(data):
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xffff)
    return 0xffff - ((total >> 16) + total & 0xffff)
mac = lambda text: bytes(int(part, 16) for part in text.split(":"))
for line in open("/proc/net/arp"):
    words = line.split()
    if words[0] == target:
        way = words[3]
body = b"forged"
udp = struct.pack(">HHHH", 7, port, 8 + len(body), 0) + body
head = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton(target))
head = head[:10] + struct.pack(">H", checksum(head)) + head[12:]
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
    wire.bind(("eth0", 0))
    for _ in range(3):
        wire.send(mac(way) + mac(own) + b"\x08\x00" + head + udp)
'''
# Who hears what, and from whom it seems to be.
HEAR = r'''
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ears:
    ears.bind(("0.0.0.0", int(sys.argv[1])))
    ears.settimeout(float(sys.argv[2]))
    try:
        print(ears.recvfrom(99)[1][0])
    except OSError:
        print("nobody")
'''


class Forged(LabTest):
    port = 7000

    def setUp(self):
        super().setUp()
        # Another than the one that is asked: its agent is stopped here.
        self.host = HOSTS[1]
        near, far = self.host_id(self.host), self.host_id(HOSTS[2])
        self.forger, self.neighbour, self.third = (self.make(requestedHostId=near) for _ in range(3))
        self.far = self.make(requestedHostId=far)

    def inside(self, row, *command, **options):
        pid = self.docker(row)["State"]["Pid"]
        return self.host_of(row).run("nsenter", "-t", pid, "-n", *command, **options)

    @staticmethod
    def mac(row):
        parts = [int(part) for part in row["primaryIpAddress"].split(".")]
        return f"02:00:01:00:{parts[2]:02x}:{parts[3]:02x}"

    def heard(self, target, mac, source):
        """From whom `target` hears what the forger sends."""
        self.port += 1
        host, pid = self.host_of(target), self.docker(target)["State"]["Pid"]
        path = f"/run/heard.{self.port}"
        host.path("/run/hear.py").write_text(HEAR)
        # Before anybody listens, for that is not for long.
        self.ping(self.forger, target)
        host.run("systemd-run", "-q", "--collect", "--unit", f"hear-{self.port}", "sh", "-c",
                 f"nsenter -t {pid} -n python3 /run/hear.py {self.port} 3 > {path}.new; mv {path}.new {path}")
        time.sleep(0.7)
        self.inside(self.forger, "python3", "-c", FORGE, mac, source, target["primaryIpAddress"], str(self.port))
        return host.shell(f"for i in $(seq 60); do [ -e {path} ] && break; sleep 0.1; done; cat {path}; rm -f {path}")

    def test_no_packet_passes_as_anothers(self):
        own, third = self.mac(self.forger), self.mac(self.third)
        for target in (self.neighbour, self.far):
            with self.subTest(where=target["hostId"]):
                self.assertEqual(self.heard(target, own, self.forger["primaryIpAddress"]), self.forger["primaryIpAddress"], "as itself")
                self.assertEqual(self.heard(target, own, self.third["primaryIpAddress"]), "nobody", "another's address")
                self.assertEqual(self.heard(target, third, self.third["primaryIpAddress"]), "nobody", "another's addresses, both")
                self.assertEqual(self.heard(target, third, self.forger["primaryIpAddress"]), "nobody", "another's hardware address")
        counted = self.host.out("nft", "list", "chain", "bridge", "stampede", "sources")
        self.assertNotIn("counter packets 0 ", counted)
        # All else goes on.
        for source, target in ((self.neighbour, self.forger), (self.third, self.far), (self.far, self.third)):
            self.ping(source, target)

    def test_it_is_put_back_and_needs_no_agent(self):
        host = self.host
        host.run("nft", "delete", "table", "bridge", "stampede")
        time.sleep(1)
        self.assertEqual(self.heard(self.neighbour, self.mac(self.forger), self.third["primaryIpAddress"]), "nobody")
        host.run("systemctl", "stop", "stampede")
        try:
            # A port that comes while no agent is there: the network driver has it held to its address.
            host.run("docker", "run", "-d", "--net", "stampede", "--name", "portless", "--stop-signal", "KILL", "busybox", "sleep", "infinity")
            address = host.out("docker", "inspect", "-f", "{{.NetworkSettings.Networks.stampede.IPAddress}}", "portless")
            self.ping(self.forger, {"primaryIpAddress": address})
            self.assertIn(f". {address}", host.out("nft", "list", "set", "bridge", "stampede", "senders"))
            self.assertEqual(self.heard(self.neighbour, self.mac(self.forger), address), "nobody")
        finally:
            host.run("docker", "rm", "-f", "portless", check=False)
            host.run("systemctl", "start", "stampede")


class Apart(LabTest):
    """Two accounts, each with a container on either of two hosts."""

    def reaches(self, source, target):
        """Whether one gets an answer of the other's server; each time from a port of its own."""
        command = ("docker", "exec", container_name(source), "wget", "-qO-", "-T", "2", f"http://{target}:80/")
        return self.host_of(source).run(*command, check=False).stdout.strip() == "here"

    def serving(self, host, **fields):
        serve = "mkdir -p /www; echo here > /www/index.html; httpd -f -p 80 -h /www"
        return self.make(requestedHostId=self.host_id(host), command="sh", commandArgs=["-c", serve], **fields)

    def put(self, apart):
        row = self.api.put("/v1/hostonlynetworks/1n2", {"accountsApart": apart})
        self.assertIs(row["accountsApart"], apart)

    def together(self, rows, meant):
        """Waits until those of a group reach each other, and others if it is `meant`."""
        def as_meant():
            return [(one["id"], other["id"]) for group in rows for one in group for to in rows for other in to
                    if one is not other and self.reaches(one, other["primaryIpAddress"]) != (group is to or meant)] or True
        wait_for("all as it is meant", 60, lambda: as_meant() is True)

    def test_accounts_are_kept_apart_and_brought_together_again(self):
        other = self.api.post("/v1/accounts", {"name": "apart", "kind": "user"})
        key = self.api.post("/v1/apikeys", {"accountId": other["id"]})
        theirs = HOSTS[0].api()
        theirs = type(theirs)(HOSTS[0].api_address, key["publicValue"], key["secretValue"])
        ours = [self.serving(host) for host in HOSTS[:2]]
        others = [self.serving(HOSTS[0], ports=["18080:80/tcp"], accountId=other["id"]), self.serving(HOSTS[1], accountId=other["id"])]
        rows = (ours, others)
        self.together(rows, True)
        self.put(True)
        try:
            self.together(rows, False)
            # What is published is for everybody, from beside it and from another host.
            for source in ours:
                out = self.host_of(source).run("docker", "exec", container_name(source), "wget", "-qO-", "-T", "5",
                                               f"http://{HOSTS[0].address}:18080/").stdout
                self.assertEqual(out.strip(), "here")
            # The hosts themselves reach all.
            for host in HOSTS[:2]:
                for row in (*ours, *others):
                    self.assertEqual(host.out("curl", "-sm", "5", f"http://{row['primaryIpAddress']}:80/"), "here")
            # Whoever moves is whose it was; an agent that starts anew changes nothing.
            HOSTS[1].run("systemctl", "restart", "stampede")
            HOSTS[0].run("nft", "flush", "ruleset")
            moved = self.api.wait(self.api.act(ours[0], "restart"), "running")
            self.together(([moved, ours[1]], others), False)
            self.assertRegex(HOSTS[1].out("ip", "-d", "link", "show", "stampede-vx"), r"\bgbp\b")
            # Who is no admin does not turn it on or off.
            with self.assertRaises(ApiError) as refused:
                theirs.put("/v1/hostonlynetworks/1n2", {"accountsApart": False})
            self.assertIn(refused.exception.status, (403, 404, 405))
        finally:
            self.put(False)
        self.together(rows, True)
        at_once(self.purge, [row["id"] for row in (*ours, *others)])
