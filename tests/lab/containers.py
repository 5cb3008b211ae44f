"""The main job: containers asked for at any node are placed on all hosts and reach each other by private address."""

import ipaddress
from collections import Counter

from case import HOSTS, SOON, LabTest
from hosts import at_once, container_name, wait_for


class Thirty(LabTest):
    """30 containers over three nodes' APIs at once."""

    def test_all_run_with_addresses_of_their_own_and_reach_every_other_host(self):
        wanted = [self.apis[number % len(HOSTS)] for number in range(30)]
        made = at_once(lambda api: self.make(api, wait=False), wanted, width=30)
        rows = at_once(lambda row: self.api.wait(row, "running", 120), made)
        self.assertEqual(len({row["id"] for row in rows}), 30)

        addresses = Counter(row["primaryIpAddress"] for row in rows)
        self.assertEqual([address for address, times in addresses.items() if times > 1], [], "given twice")
        subnet = ipaddress.ip_network("10.42.0.0/16")
        self.assertTrue(all(ipaddress.ip_address(address) in subnet for address in addresses), addresses)

        # What Docker has is what the API shows, on that host and no other.
        by_host = {host.name: [row for row in rows if self.host_of(row).name == host.name] for host in HOSTS}
        for host in HOSTS:
            there = set(host.containers()) & set(self.made)
            self.assertEqual(there, {row["id"] for row in by_host[host.name]}, f"on {host}")
            for row in by_host[host.name]:
                inside = host.out("docker", "exec", container_name(row), "ip", "-4", "-o", "addr", "show", "scope", "global")
                self.assertIn(f" {row['primaryIpAddress']}/", inside)
        self.assertTrue(all(len(there) >= 3 for there in by_host.values()), {name: len(there) for name, there in by_host.items()})

        def pings(host):
            """Each one here pings one on each other host; in one go, as a command each takes its time."""
            script = []
            for number, source in enumerate(by_host[host.name]):
                for other in self.others(host):
                    there = by_host[other.name]
                    target = there[number % len(there)]["primaryIpAddress"]
                    script.append(f"docker exec {container_name(source)} ping -c 1 -W 5 {target} >/dev/null || echo {source['id']} to {target}")
            return host.shell("\n".join(script))

        self.assertEqual("\n".join(at_once(pings, HOSTS)).split("\n"), [""] * len(HOSTS), "do not reach each other")


class Network(LabTest):
    def test_on_one_host_too_and_out_of_the_cluster(self):
        one, two = self.make(count=2, requestedHostId=self.host_id(HOSTS[0]))
        self.ping(one, two)
        machine = HOSTS[0].address.rpartition(".")[0] + ".254"
        for outside in (machine, HOSTS[1].address, HOSTS[0].address):
            self.ping(one, {"primaryIpAddress": outside})

    def test_the_source_is_the_containers_own_address(self):
        """Between containers nothing is translated: who is asked sees who asks."""
        one = self.make(requestedHostId=self.host_id(HOSTS[0]))
        two = self.make(requestedHostId=self.host_id(HOSTS[1]), command="sh", commandArgs=["-c", "sleep 600 | nc -l -p 7000"])
        talk = f"sleep 60 | nc {two['primaryIpAddress']} 7000"
        HOSTS[0].run("docker", "exec", "-d", container_name(one), "sh", "-c", talk)
        sees = lambda: HOSTS[1].out("docker", "exec", container_name(two), "netstat", "-tn")  # noqa: E731
        wait_for("the connection", SOON, lambda: "ESTABLISHED" in sees())
        self.assertIn(f"{one['primaryIpAddress']}:", sees())

    def test_large_packets_pass(self):
        """The MTU inside leaves room for the overlay's headers, so that nothing silently goes missing."""
        one, two, _ = self.make_everywhere()
        mtu = int(HOSTS[0].out("docker", "exec", container_name(one), "cat", "/sys/class/net/eth0/mtu"))
        self.assertLess(mtu, 1500)
        HOSTS[0].run("docker", "exec", container_name(one), "ping", "-c", "2", "-W", "3", "-s", str(mtu - 28), two["primaryIpAddress"])
        HOSTS[0].run("docker", "exec", container_name(one), "ping", "-c", "2", "-W", "3", "-s", "8000", two["primaryIpAddress"])

    def test_unallocated_addresses_answer_at_once_that_there_is_nobody(self):
        one = self.make()
        host = self.host_of(one)
        result = host.run("docker", "exec", container_name(one), "ping", "-c", "1", "-W", "2", "10.42.250.250", check=False)
        self.assertNotEqual(result.returncode, 0)

    def test_dockers_own_network_where_asked_for(self):
        networks = {row["uuid"]: row["id"] for row in self.api.list("/v1/networks")}
        row = self.make(networkIds=[networks["unmanaged"]])
        container = self.docker(row)
        self.assertEqual(list(container["NetworkSettings"]["Networks"]), ["bridge"])


class Placement(LabTest):
    def test_the_requested_host_is_taken(self):
        rows = self.make_everywhere(each=2)
        self.assertEqual([self.host_of(row).name for row in rows], [host.name for host in HOSTS] * 2)

    def test_count_makes_as_many_with_one_request(self):
        rows = self.make(count=7, name="many")
        self.assertEqual(len({row["id"] for row in rows}), 7)
        self.assertEqual(len({row["uuid"] for row in rows}), 7)
        self.assertEqual({row["name"] for row in rows}, {"many"})

    def test_a_host_that_is_not_there_is_no_placement(self):
        self.refused(422, "InvalidReference", self.make, wait=False, requestedHostId="1h999", field="requestedHostId")

    def test_host_and_wire_and_container_agree(self):
        row = self.make(name="agreed", hostname="inside", environment={"COLOUR": "green"}, directory="/tmp", user="nobody",
                        command="sh", commandArgs=["-c", "pwd; id -un; hostname; echo $COLOUR; exec sleep infinity"])
        self.assertEqual(self.host_of(row).out("docker", "logs", container_name(row)).split(), ["/tmp", "nobody", "inside", "green"])
        self.assertIn("agreed", self.docker(row)["Name"])
        default = self.make()
        self.assertEqual(self.docker(default)["Config"]["Hostname"], "ip-" + default["primaryIpAddress"].replace(".", "-"))
