"""What an instance is told about itself at 169.254.169.254: which names there are, to whom they are told, what that outlasts, and that
cloud-init's own readers understand it."""

import json
import time

import case
from case import HOSTS, SOON, START, LabTest, cluster_is_whole
from etcd import start_etcd, stop_etcd
from hosts import container_name, wait_for

ADDRESS = "169.254.169.254"
TTL = "X-aws-ec2-metadata-token-ttl-seconds"
TOKEN = "X-aws-ec2-metadata-token"
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPuKw9FMm4UTLGH1nBpIcF0vy9UN8Hqz3sZfXQ0c7D8e lab"

# Debian's cloud-init, as it runs in a guest, but for what tells that this is a cloud at all (the hardware).
READERS = r'''
import json, sys, tempfile
from cloudinit import helpers
from cloudinit.sources import DataSourceEc2, DataSourceOpenStack
from cloudinit.sources.helpers import openstack
try:
    from cloudinit.distros.debian import Distro
except ImportError:
    from cloudinit.distros import Distro

mac = sys.argv[1]
where = tempfile.mkdtemp()
paths = helpers.Paths({"cloud_dir": where, "run_dir": where})
settings = {"timeout": 5, "max_wait": 10, "retries": 1}
config = {"datasource_list": ["Ec2", "OpenStack"], "datasource": {"Ec2": settings | {"strict_id": False}, "OpenStack": settings}}
distro = Distro("debian", config, paths)
# Where the guest's hardware would be asked which cloud this is; Debian 12's has it elsewhere.
if hasattr(DataSourceOpenStack, "detect_openstack"):
    DataSourceOpenStack.detect_openstack = lambda *_, **__: True
def made(kind):
    source = kind(config, distro, paths)
    source.ds_detect = lambda: True
    return source
def hostname(source):
    name = source.get_hostname()
    return getattr(name, "hostname", name)
def text(data):
    return data.decode() if isinstance(data, bytes) else data
ec2 = made(DataSourceEc2.DataSourceEc2)
assert ec2._get_data(), "EC2's reader finds nothing"
stack = made(DataSourceOpenStack.DataSourceOpenStack)
assert stack._get_data(), "OpenStack's reader finds nothing"
read = {name: {
    "id": source.get_instance_id(), "hostname": hostname(source), "keys": source.get_public_ssh_keys(),
    "userdata": text(source.userdata_raw), "zone": source.availability_zone,
} for name, source in (("ec2", ec2), ("openstack", stack))}
read["ec2"]["address"] = ec2.metadata["local-ipv4"]
read["openstack"]["also_ec2"] = (stack.ec2_metadata or {}).get("instance-id")
read["network"] = openstack.convert_net_json(stack.network_json, known_macs={mac: "eth0"})
read["tokens"] = bool(getattr(ec2, "_api_token", None))
print(json.dumps(read))
'''
# Asks all the time, and writes down what is not as ever, with when that was and the longest it took.
FOLLOW = r'''
import http.client, os, sys, time
expected, path = sys.argv[1:3]
count, longest, lost = 0, 0, 0
while True:
    began = time.time()
    try:
        way = http.client.HTTPConnection("169.254.169.254", timeout=10)
        way.request("GET", "/latest/meta-data/instance-id")
        said = way.getresponse().read().decode()
        way.close()
    except Exception as error:
        said, lost = f"{type(error).__name__}: {error}", lost + 1
    longest, count = max(longest, time.time() - began), count + 1
    with open(path + ".new", "w") as log:
        log.write(repr({"count": count, "longest": longest, "lost": lost}))
    os.replace(path + ".new", path)
    if said != expected:
        with open(path + ".wrong", "a") as log:
            log.write(f"{began} {said}\n")
    time.sleep(0.02)
'''


class MetadataTest(LabTest):
    def within(self, row, *command, **options):
        """A program of the host's in the network of a container."""
        host = self.host_of(row)
        pid = host.out("docker", "inspect", "-f", "{{.State.Pid}}", container_name(row))
        return host.run("nsenter", "-t", pid, "-n", *command, **options)

    def ask(self, row, path, *options, address=ADDRESS):
        """Status and body; 0 where there is no answer."""
        said = self.within(row, "curl", "-s", "-m", "5", "-o", "-", "-w", "\n%{http_code}", *options, f"http://{address}{path}", check=False)
        body, _, status = said.stdout.rpartition("\n")
        return int(status or 0), body

    def told(self, row, path, *options):
        status, body = self.ask(row, path, *options)
        self.assertEqual(status, 200, f"{path}: {body}")
        return body

    def meta(self, row, name):
        return self.told(row, f"/latest/meta-data/{name}")

    def key(self, name="mine"):
        made = self.api.post("/v1/sshkeys", {"name": name, "publicValue": KEY})
        self.addCleanup(self.api.delete, f"/v1/sshkeys/{made['id']}")
        return made["id"]


class Told(MetadataTest):
    def test_each_about_itself_on_every_host(self):
        rows = self.make_everywhere(userdata="#cloud-config\nhostname: näme\n", credentialIds=[self.key()], labels={"app": "web"})
        for row in rows:
            with self.subTest(row["name"]):
                # By what every image has.
                host = self.host_of(row)
                said = host.out("docker", "exec", container_name(row), "wget", "-qO-", f"http://{ADDRESS}/latest/meta-data/instance-id")
                self.assertEqual(said, row["id"])
                mac = json.loads(self.within(row, "ip", "-j", "link", "show", "eth0").stdout)[0]["address"]
                hostname = host.out("docker", "exec", container_name(row), "hostname")
                for name, value in (
                        ("local-ipv4", row["primaryIpAddress"]), ("mac", mac), ("hostname", hostname), ("local-hostname", hostname),
                        ("public-keys/", "0=mine"), ("public-keys/0/openssh-key", KEY), ("instance-type", "container"), ("instance-action", "none"),
                        ("placement/availability-zone", "default"), (f"network/interfaces/macs/{mac}/local-ipv4s", row["primaryIpAddress"])):
                    self.assertEqual(self.meta(row, name), value, name)
                self.assertEqual(self.told(row, "/2009-04-04/user-data"), "#cloud-config\nhostname: näme\n")
                listed = self.meta(row, "").split("\n")
                self.assertLessEqual({"ami-id", "block-device-mapping/", "network/", "placement/", "public-keys/", "services/"}, set(listed))
                self.assertFalse({"public-ipv4", "public-hostname"} & set(listed), "there is none")
                for nothing in ("/latest/meta-data/public-ipv4", "/latest/nothing", "/2031-01-01/", "/computeMetadata/v1/"):
                    self.assertEqual(self.ask(row, nothing)[0], 404, nothing)
                document = json.loads(self.told(row, "/openstack/latest/meta_data.json"))
                self.assertEqual((document["uuid"], document["meta"], document["name"]), (row["uuid"], {"app": "web"}, row["name"]))
        maps = self.api.list("/v1/credentialinstancemaps")
        self.assertEqual(sum(one["instanceId"] in self.made for one in maps), len(rows))

    def test_what_changes_is_told_and_keys_only_of_ones_own(self):
        row = self.make(userdata="one", credentialIds=[self.key("first"), self.key("second")])
        self.assertEqual(self.told(row, "/latest/user-data"), "one")
        self.api.put(f"/v1/containers/{row['id']}", {"userdata": "two"})
        wait_for("the new data", SOON, lambda: self.ask(row, "/latest/user-data") == (200, "two"))
        self.api.put(f"/v1/containers/{row['id']}", {"userdata": None})
        wait_for("none", SOON, lambda: self.ask(row, "/latest/user-data")[0] == 404)
        keys = {one["name"]: one["id"] for one in self.api.list("/v1/sshkeys")}
        self.api.post(f"/v1/sshkeys/{keys['first']}/?action=deactivate", {})
        wait_for("one key less", SOON, lambda: self.meta(row, "public-keys/") == "0=second")
        other = self.api.post("/v1/accounts", {"name": "metadata", "kind": "user"})
        theirs = self.api.post("/v1/sshkeys", {"publicValue": KEY, "accountId": other["id"]})
        apikey = self.api.post("/v1/apikeys", {})
        for wrong, code in ((theirs["id"], "InvalidReference"), ("1c999999", "InvalidReference"), (apikey["id"], "InvalidOption")):
            self.refused(422, code, self.api.post, "/v1/containers", {"imageUuid": "docker:busybox", "credentialIds": [wrong]}, field="credentialIds")
        self.api.delete(f"/v1/apikeys/{apikey['id']}")
        host = self.host_of(row)
        self.api.put(f"/v1/hosts/{self.host_id(host)}", {"labels": {"zone": "eu-1"}})
        self.addCleanup(self.api.put, f"/v1/hosts/{self.host_id(host)}", {"labels": {}})
        wait_for("the zone", SOON, lambda: self.meta(row, "placement/availability-zone") == "eu-1")

    def test_tokens(self):
        row, other = (self.make(requestedHostId=self.host_id(HOSTS[0])) for _ in range(2))
        put = ("-X", "PUT")
        status, token = self.ask(row, "/latest/api/token", *put, "-H", f"{TTL}: 60")
        self.assertEqual(status, 200, token)
        self.assertEqual(self.told(row, "/latest/meta-data/instance-id", "-H", f"{TOKEN}: {token}"), row["id"])
        self.assertEqual(self.ask(other, "/latest/meta-data/instance-id", "-H", f"{TOKEN}: {token}")[0], 401, "another's")
        self.assertEqual(self.ask(row, "/latest/meta-data/instance-id", "-H", f"{TOKEN}: x{token[1:]}")[0], 401)
        for wrong in ("0", "21601", "x"):
            self.assertEqual(self.ask(row, "/latest/api/token", *put, "-H", f"{TTL}: {wrong}")[0], 400, wrong)
        self.assertEqual(self.ask(row, "/latest/api/token", *put)[0], 400)
        self.assertEqual(self.ask(row, "/latest/api/token", *put, "-H", f"{TTL}: 60", "-H", "X-Forwarded-For: 10.42.0.9")[0], 403)
        short = self.ask(row, "/latest/api/token", *put, "-H", f"{TTL}: 1")[1]
        wait_for("its end", SOON, lambda: self.ask(row, "/latest/meta-data/instance-id", "-H", f"{TOKEN}: {short}")[0] == 401)


class Others(MetadataTest):
    def test_nobody_is_told_about_another(self):
        """With all rights within its own network, and more than a container has: as a guest that is a machine has them."""
        host = HOSTS[0]
        victim, thief = (self.make(requestedHostId=self.host_id(host), userdata="secret") for _ in range(2))
        address = victim["primaryIpAddress"]
        mac = self.meta(victim, "mac")
        self.assertEqual(self.meta(thief, "instance-id"), thief["id"])
        self.assertEqual(self.ask(thief, "/latest/user-data", "-H", f"X-Forwarded-For: {address}")[0], 403)
        for step in (("ip", "address", "add", f"{address}/32", "dev", "eth0"), ("ip", "link", "set", "eth0", "address", mac)):
            self.within(thief, *step)
            for _ in range(3):
                # Said to all: this address is here.
                self.within(thief, "busybox", "arping", "-U", "-c", "1", "-I", "eth0", address, check=False)
                status, body = self.ask(thief, "/latest/user-data", "--interface", address, "-m", "1")
                self.assertEqual((status, body), (0, ""), f"after {step}")
            self.assertEqual(self.meta(victim, "instance-id"), victim["id"], "who has it is answered as before")

    def test_neither_hosts_nor_strangers_are(self):
        row = self.make(requestedHostId=self.host_id(HOSTS[0]), userdata="secret")
        address = row["primaryIpAddress"]
        asked = lambda host, *options: host.run("curl", "-s", "-m", "2", "-o", "/dev/null", "-w", "%{http_code}", *options, check=False).stdout  # noqa: E731
        host = HOSTS[0]
        self.assertEqual(asked(host, "http://10.42.0.1:9169/latest/user-data"), "404", "the host itself")
        self.assertEqual(asked(host, "-H", f"X-Forwarded-For: {address}", "http://10.42.0.1:9169/latest/user-data"), "404")
        self.assertEqual(asked(host, f"http://{ADDRESS}/latest/user-data"), "000", "that address is the cloud's, to a host")
        self.assertEqual(asked(HOSTS[1], f"http://{host.address}:9169/latest/user-data"), "000", "another host")
        # Docker's own network, and one that is published at the same port.
        said = host.run("docker", "run", "--rm", "busybox", "wget", "-T", "2", "-qO-", "http://10.42.0.1:9169/latest/user-data", check=False, timeout=60)
        self.assertNotEqual(said.returncode, 0, said.stdout)
        web = self.make(requestedHostId=self.host_id(host), ports=["80:80"], command="sh", commandArgs=["-c", "mkdir /w; echo web > /w/index.html; exec httpd -f -p 80 -h /w"])
        wait_for("the port", SOON, lambda: asked(HOSTS[1], f"http://{host.address}/") == "200")
        self.assertEqual(self.meta(row, "instance-id"), row["id"], "a published port 80 is not in the way")
        self.purge(web["id"])
        sockets = host.out("ss", "-Hltn", "sport", "=", "9169")
        self.assertIn("10.42.0.1:9169", sockets)
        self.assertNotIn("0.0.0.0:9169", sockets)

    def test_who_asks_too_much_keeps_nobody_from_being_answered(self):
        host = HOSTS[0]
        row, other = (self.make(requestedHostId=self.host_id(host)) for _ in range(2))
        flood = ("import socket, time\nheld = [socket.create_connection(('169.254.169.254', 80)) for _ in range(200)]\n"
                 "[one.send(b'GET / HT') for one in held[:16]]\nprint('held', flush=True)\ntime.sleep(4)")
        host.path("/run/flood.py").write_text(flood)
        pid = host.out("docker", "inspect", "-f", "{{.State.Pid}}", container_name(row))
        host.run("systemd-run", "-q", "--collect", "--unit", "flood", "nsenter", "-t", pid, "-n", "python3", "/run/flood.py")
        self.addCleanup(host.run, "systemctl", "stop", "flood", check=False)
        wait_for("its connections", SOON, lambda: int(host.shell("ss -Htn state established '( sport = :9169 )' | wc -l")) >= 16)
        begun = time.monotonic()
        self.assertEqual(self.meta(other, "instance-id"), other["id"])
        self.assertLess(time.monotonic() - begun, 2)
        host.run("systemctl", "stop", "flood", check=False)
        wait_for("it is answered too", SOON * 2, lambda: self.ask(row, "/latest/meta-data/instance-id")[1] == row["id"])


class Lasting(MetadataTest):
    def follow(self, row):
        host, path = self.host_of(row), f"/run/told-{row['id']}"
        pid = host.out("docker", "inspect", "-f", "{{.State.Pid}}", container_name(row))
        host.path(f"{path}.py").write_text(FOLLOW)
        host.shell(f"rm -f {path} {path}.wrong; systemd-run -q --collect --unit told-{row['id']} nsenter -t {pid} -n python3 {path}.py {row['id']} {path}")
        self.addCleanup(host.run, "systemctl", "stop", f"told-{row['id']}", check=False)

        def said():
            return eval(host.out("cat", path)), host.out("cat", f"{path}.wrong", check=False).splitlines()

        wait_for("a first answer", SOON, said)
        return said

    def goes_on(self, said):
        count = said()[0]["count"]
        wait_for("more answers", START, lambda: said()[0]["count"] > count + 5)

    def test_over_an_agents_death_and_restart(self):
        host = HOSTS[0]
        row = self.make(requestedHostId=self.host_id(host))
        said = self.follow(row)
        token = self.ask(row, "/latest/api/token", "-X", "PUT", "-H", f"{TTL}: 600")[1]
        for how in (("kill", "-s", "KILL", "--kill-whom=main"), ("restart",)):
            host.run("systemctl", *how, "stampede.service")
            time.sleep(0.2)
            wait_for("another agent", START, lambda: host.api(timeout=2).ask("GET", "/v1").status == 200)
            self.goes_on(said)
        counted, wrong = said()
        print(f"              over two agents: {counted['count']} answers, {counted['lost']} lost, the longest took {counted['longest']:.2f} s")
        self.assertEqual((counted["lost"], wrong), (0, []))
        self.assertEqual(self.ask(row, "/latest/", "-H", f"{TOKEN}: {token}")[0], 401, "tokens end with the agent: another is to be had")

    def test_over_flushed_rules_and_dockers_restart(self):
        host = HOSTS[0]
        row = self.make(requestedHostId=self.host_id(host), instanceTriggeredStop="restart")
        said = self.follow(row)
        for _ in range(10):
            host.run("nft", "flush", "ruleset")
            self.goes_on(said)
        counted, wrong = said()
        print(f"              over ten flushes: {counted['count']} answers, {counted['lost']} lost, the longest took {counted['longest']:.2f} s")
        self.assertTrue(all("Error" in line or "Disconnected" in line for line in wrong), wrong)
        self.assertLess(counted["lost"], counted["count"] / 4)
        self.assertLess(counted["longest"], 5, "who waits for an answer that was lost is told")
        host.run("systemctl", "stop", f"told-{row['id']}", check=False)
        # One that runs is started anew with Docker, in a network of its own.
        host.run("systemctl", "restart", "docker.service")
        wait_for("Docker", START, lambda: host.run("docker", "version", check=False).returncode == 0)
        wait_for("it is told", START, lambda: self.ask(row, "/latest/meta-data/instance-id") == (200, row["id"]))

    def test_without_etcd_what_is_known_is_told_and_the_rest_is_not_denied(self):
        host = HOSTS[0]
        row, other = (self.make(requestedHostId=self.host_id(host), userdata="data") for _ in range(2))
        self.assertEqual(self.told(row, "/latest/user-data"), "data")
        stop_etcd(HOSTS)
        try:
            time.sleep(12 if not case.LONG else 60)
            begun = time.monotonic()
            self.assertEqual(self.told(row, "/latest/user-data"), "data")
            status, _ = self.ask(other, "/latest/user-data")
            self.assertEqual(status, 503)
            self.assertIn("Retry-After: 1", self.within(other, "curl", "-si", "-m", "5", f"http://{ADDRESS}/openstack/latest/meta_data.json").stdout.replace("retry-after", "Retry-After"))
            self.assertEqual(self.meta(other, "instance-id"), other["id"], "its host knows that much")
            self.assertEqual(self.meta(other, "local-ipv4"), other["primaryIpAddress"])
            print(f"              five questions without etcd took {time.monotonic() - begun:.1f} s")
        finally:
            start_etcd(HOSTS)
        wait_for("all is told again", START, lambda: self.ask(other, "/latest/user-data") == (200, "data"))
        cluster_is_whole()

    def test_who_is_gone_is_told_nothing_and_the_next_at_its_address_about_itself(self):
        host = HOSTS[0]
        for _ in range(3):
            row = self.make(requestedHostId=self.host_id(host), userdata="first")
            self.assertEqual(self.meta(row, "instance-id"), row["id"])
            self.api.act(row, "restart")
            self.api.wait(row, "running")
            wait_for("it is told again", SOON, lambda row=row: self.ask(row, "/latest/user-data") == (200, "first"))
            self.purge(row["id"])


class CloudInit(MetadataTest):
    def test_its_readers_understand_both_trees(self):
        host = HOSTS[1]
        row = self.make(requestedHostId=self.host_id(host), userdata="#cloud-config\npackages: [vim]\n", credentialIds=[self.key()], hostname="guest")
        mac = self.meta(row, "mac")
        host.path("/run/readers.py").write_text(READERS)
        said = self.within(row, "python3", "/run/readers.py", mac, timeout=120)
        read = json.loads(said.stdout.splitlines()[-1])
        expected = {"hostname": "guest", "keys": [KEY], "userdata": "#cloud-config\npackages: [vim]\n", "zone": "default"}
        self.assertEqual(read["ec2"], expected | {"id": row["id"], "address": row["primaryIpAddress"]})
        self.assertEqual(read["openstack"], expected | {"id": row["uuid"], "also_ec2": row["id"]})
        interface = read["network"]["config"][0]
        self.assertEqual((interface["name"], interface["mac_address"]), ("eth0", mac))
        subnet = interface["subnets"][0]
        self.assertEqual((subnet["type"], subnet["address"], subnet.get("netmask")), ("static", row["primaryIpAddress"], "255.255.0.0"))
        self.assertIn("10.42.0.1", json.dumps(subnet["routes"]))
        print(f"              cloud-init {host.out('dpkg-query', '-W', '-f', '${Version}', 'cloud-init')}")
