"""DHCP on the bridge, with a client as systems boot with: busybox's udhcpc, in the network of a container whose address was taken away."""

import time

from case import HOSTS, SOON, START, LabTest
from hosts import container_name, wait_for

GATEWAY = "10.42.0.1"
# What udhcpc runs when it has heard something: does as it is told, and writes down what that was.
SCRIPT = r'''#!/bin/sh
case $1 in
bound | renew)
    ip address flush dev $interface
    ip address add $ip/$mask dev $interface
    ip link set $interface mtu $mtu
    set -- $1 $staticroutes
    event=$1
    shift
    while [ $# -gt 1 ]; do
        ip route replace $1 via $2
        shift 2
    done
    set -- $event
    ;;
esac
env > /run/dhcp/$1.new
mv /run/dhcp/$1.new /run/dhcp/$1
'''


class Dhcp(LabTest):
    def setUp(self):
        super().setUp()
        self.host = HOSTS[0]
        self.host.shell("rm -rf /run/dhcp; mkdir -p /run/dhcp")
        self.host.path("/run/dhcp/script").write_text(SCRIPT)
        self.host.run("chmod", "+x", "/run/dhcp/script")

    def within(self, row, *command, **options):
        pid = self.host.out("docker", "inspect", "-f", "{{.State.Pid}}", container_name(row))
        return self.host.run("nsenter", "-t", pid, "-n", *command, **options)

    def client(self, row, *options):
        """Asks once; whether it was given something."""
        words = ("busybox", "udhcpc", "-f", "-q", "-n", "-t", "4", "-T", "1", "-i", "eth0", "-s", "/run/dhcp/script", "-O", "staticroutes", "-O", "mtu")
        return self.within(row, *words, *options, check=False, timeout=60).returncode == 0

    def heard(self, event):
        text = self.host.out("cat", f"/run/dhcp/{event}", check=False)
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def test_what_boots_is_given_its_own_address_and_all_that_goes_with_it(self):
        row, other = (self.make(requestedHostId=self.host_id(self.host), hostname=name) for name in ("guest", "other"))
        far = self.make(requestedHostId=self.host_id(HOSTS[1]))
        self.within(row, "ip", "address", "flush", "dev", "eth0")
        self.assertFalse(self.can_ping(row, other))
        begun = time.monotonic()
        # Whatever it asks for.
        self.assertTrue(self.client(row, "-r", other["primaryIpAddress"]))
        took = time.monotonic() - begun
        told = self.heard("bound")
        expected = {
            "ip": row["primaryIpAddress"], "mask": "16", "router": GATEWAY, "dns": GATEWAY, "serverid": GATEWAY, "domain": "stampede.internal",
            "hostname": "guest", "lease": "86400", "staticroutes": f"169.254.169.254/32 {GATEWAY} 0.0.0.0/0 {GATEWAY}"}
        self.assertEqual({name: told.get(name) for name in expected}, expected)
        self.assertIn(f" mtu {told['mtu']} ", self.within(other, "ip", "link", "show", "eth0").stdout, "as Docker sets it")
        for target in (other, far):
            self.ping(row, target)
        said = self.within(row, "curl", "-s", "-m", "5", "http://169.254.169.254/latest/meta-data/instance-id").stdout
        self.assertEqual(said, row["id"], "and it is told about itself")
        print(f"              from nothing to an address in {took:.2f} s")

    def test_it_is_renewed_released_and_had_again_over_an_agents_death(self):
        row = self.make(requestedHostId=self.host_id(self.host))
        self.within(row, "ip", "address", "flush", "dev", "eth0")
        pid = self.host.out("docker", "inspect", "-f", "{{.State.Pid}}", container_name(row))
        self.host.run("systemd-run", "-q", "--collect", "--unit", "udhcpc", "nsenter", "-t", pid, "-n", "busybox", "udhcpc", "-f", "-T", "1", "-A", "1", "-i", "eth0",
                      "-s", "/run/dhcp/script", "-O", "staticroutes", "-O", "mtu")
        self.addCleanup(self.host.run, "systemctl", "stop", "udhcpc", check=False)
        # Not to its script, which may be at work.
        signal = lambda name: self.host.run("systemctl", "kill", "-s", name, "--kill-whom=main", "udhcpc")  # noqa: E731

        def again(event, name):
            self.host.shell(f"rm -f /run/dhcp/{event}")
            signal(name)
            return wait_for(event, SOON, lambda: self.heard(event))

        self.assertEqual(wait_for("an address", SOON, lambda: self.heard("bound"))["ip"], row["primaryIpAddress"])
        self.assertEqual(again("renew", "USR1")["ip"], row["primaryIpAddress"])
        again("deconfig", "USR2")
        self.host.shell("rm -f /run/dhcp/bound")
        self.host.run("systemctl", "kill", "-s", "KILL", "--kill-whom=main", "stampede.service")
        signal("USR1")
        self.assertEqual(wait_for("an address", START, lambda: self.heard("bound"))["ip"], row["primaryIpAddress"])

    def test_who_is_unknown_is_given_none(self):
        row = self.make(requestedHostId=self.host_id(self.host))
        self.within(row, "ip", "address", "flush", "dev", "eth0")
        own = self.within(row, "ip", "-br", "link", "show", "eth0").stdout.split()[2]
        self.within(row, "ip", "link", "set", "eth0", "address", "02:aa:aa:aa:aa:aa")
        self.assertFalse(self.client(row))
        self.within(row, "ip", "link", "set", "eth0", "address", own)
        self.assertTrue(self.client(row))
        # On the bridge alone: not for other machines, nor for Docker's own network.
        sockets = self.host.out("ss", "-Hlun", "sport", "=", "67")
        self.assertTrue(sockets and all("%stampede0:67" in line for line in sockets.splitlines()), sockets)

    def test_rubbish_keeps_nobody_from_an_address(self):
        row = self.make(requestedHostId=self.host_id(self.host))
        flood = ("import os, socket\nway = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nway.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)\n"
                 "for number in range(20000):\n    head = b'\\1\\1\\6\\0' + os.urandom(232) + bytes([99, 130, 83, 99]) if number % 2 else b''\n"
                 "    way.sendto(head + os.urandom(number % 400), (('255.255.255.255', '10.42.0.1')[number % 3 == 0], 67))")
        self.within(row, "python3", "-c", flood, timeout=120)
        self.within(row, "ip", "address", "flush", "dev", "eth0")
        self.assertTrue(self.client(row))
        self.assertEqual(self.heard("bound")["ip"], row["primaryIpAddress"])
