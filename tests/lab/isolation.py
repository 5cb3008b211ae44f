"""Nobody sends as somebody else: packets made by hand, in a container's own network."""

import time

from case import HOSTS, LabTest

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
