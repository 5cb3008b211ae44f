"""Plain to look at: the usual tools on a host tell the story under clear names (docs/inspect.md)."""

from case import HOSTS, SOON, LabTest
from hosts import wait_for


class Inspect(LabTest):
    def test_etcd_shows_what_should_be(self):
        row = self.make(name="looked-at")
        host = self.host_of(row)
        keys = host.out("etcdctl", "get", "--prefix", "/stampede", "--keys-only").split()
        for key in (f"/stampede/v1/on/{host.name}/{row['id']}", f"/stampede/v1/resource/instance/{row['id'][2:]}",
                    f"/stampede/v1/address/10.42.0.0/{row['primaryIpAddress']}", f"/stampede/v1/alive/{host.name}", f"/stampede/v1/host/{host.name}"):
            self.assertIn(key, keys)
        value = host.out("etcdctl", "get", "--print-value-only", f"/stampede/v1/resource/instance/{row['id'][2:]}")
        self.assertIn("looked-at", value)
        self.assertNotIn("null", value)

    def test_systemd_shows_a_unit_an_instance_and_its_output(self):
        row = self.make(name="speaker", command="sh", commandArgs=["-c", "echo hello from inside; echo and to stderr >&2; exec sleep infinity"])
        host = self.host_of(row)
        units = host.out("systemctl", "list-units", "--plain", "--no-legend", "stampede*")
        self.assertIn(host.unit(row["id"]), units)
        self.assertIn("stampede.service", units)
        status = host.out("systemctl", "show", "-P", "ActiveState", host.unit(row["id"]))
        self.assertEqual(status, "active")
        journal = host.out("journalctl", "--no-pager", "-o", "cat", "-u", host.unit(row["id"]))
        self.assertIn("hello from inside", journal)
        self.assertIn("and to stderr", journal)

    def test_a_supervisor_is_small(self):
        row = self.make()
        host = self.host_of(row)
        pid = host.out("systemctl", "show", "-P", "MainPID", host.unit(row["id"]))
        rollup = host.out("cat", f"/proc/{pid}/smaps_rollup")
        kilobytes = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith(("Private_Clean", "Private_Dirty")))
        print(f"              a supervisor has {kilobytes} kB of its own")
        self.assertLess(kilobytes, 3 * 1024)
        self.assertEqual(len(host.out("ls", f"/proc/{pid}/task").split()), 1, "one thread")

    def test_ip_route_and_nft_show_the_network(self):
        one, two, _ = self.make_everywhere()
        host = HOSTS[0]
        self.assertIn("10.42.0.1/32", host.out("ip", "-4", "addr", "show", "stampede0"))
        self.assertIn(" dev stampede0", host.out("ip", "route", "get", one["primaryIpAddress"]))
        self.assertIn(" dev stampede", host.out("ip", "route", "get", two["primaryIpAddress"]))
        self.assertIn("unreachable 10.42.0.0/16", host.out("ip", "route"))
        shown = {row["name"]: row["underlayAddress"] for row in self.api.list("/v1/hosts")}
        self.assertEqual(shown, {each.name: each.address for each in HOSTS})
        tables = host.out("nft", "list", "tables")
        self.assertIn("stampede", tables)
        self.assertIn("masquerade", host.out("nft", "list", "ruleset"))

    def test_docker_ps_names_them(self):
        row = self.make(name="by-name")
        self.assertIn(f"by-name-{row['id']}", self.host_of(row).out("docker", "ps", "--format", "{{.Names}}"))

    def test_of_what_was_purged_nothing_is_left(self):
        """No unit, slice, container, link, file or key with its id."""
        row = self.make(name="traceless")
        host, address = self.host_of(row), row["primaryIpAddress"]
        self.purge(row["id"])

        def traces():
            return host.shell(
                f"systemctl list-units --all --no-legend --plain 'stampede*' | grep -w {row['id']}; docker ps -a | grep -w {row['id']}; "
                f"ip -o link | grep -w st-{row['id']}; ls /var/lib/stampede/*/ | grep -w {row['id']}; "
                f"etcdctl get --prefix /stampede/v1/on/ --keys-only | grep -w {row['id']}; "
                f"etcdctl get --prefix /stampede/v1/address/ --keys-only | grep -w {address}", check=False)

        try:
            wait_for("nothing to be left", SOON, lambda: not traces())
        except TimeoutError as late:
            raise AssertionError(traces()) from late
