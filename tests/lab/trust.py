"""Who is who, on hosts of their own: a fresh one joins by a token, and whoever is none of the cluster stays outside."""

import json
import shutil
import ssl
import socket
import time
import unittest

import case
from hosts import TREE, Lab, wait_for
from single import binary

NAME = "e2etrust"


class Joining(unittest.TestCase):
    """`h1` is a cluster; `h2` has Docker, the binary and the units, and nothing else."""

    @classmethod
    def setUpClass(cls):
        cls.lab = Lab(NAME)
        cls.addClassCleanup(cls.lab.stream, "down")
        if cls.lab.stream("up", "1", "--release", case.RELEASE) != 0 or cls.lab.stream("up", "2", "--no-agent") != 0:
            raise AssertionError("the other lab does not come up")
        cls.one, cls.two = cls.lab.hosts()
        shutil.copy(binary(), cls.two.path("/usr/bin/stampede"))
        for unit in (TREE / "systemd").glob("stampede*"):
            shutil.copy(unit, cls.two.path(f"/usr/lib/systemd/system/{unit.name}"))
        cls.two.run("systemctl", "daemon-reload")
        cls.ca = cls.one.out("stampede", "ca", "show") + "\n"

    def tearDown(self):
        if any(error for _, error in getattr(self._outcome, "errors", [])):
            for host in (self.one, self.two):
                print(host.shell("journalctl --no-pager -u stampede.service | tail -n 20", check=False))

    def token(self, *words):
        return json.loads(self.one.out("stampede", "token", "create", "--json", *words))["token"]

    def join(self, token, *words):
        """Its exit code and all its words. The token comes by standard input, as an operator's script would have it."""
        result = self.two.run("stampede", "join", *words, "-", stdin=token, check=False, timeout=60)
        return result.returncode, result.stdout + result.stderr

    def refused(self, token, *expected, words=()):
        code, said = self.join(token, *words)
        self.assertEqual(code, 1, said)
        for word in expected:
            self.assertIn(word, said)
        self.assertEqual(self.two.shell("ls /var/lib/stampede/secret /etc/stampede/config.toml 2>/dev/null", check=False), "", "nothing is left")

    def test_1_tokens_that_are_none(self):
        good = self.token()
        self.refused(good[:-5], "not all of it")
        self.refused("hello", "no join token")
        self.refused(self.token("--address", f"{self.one.address}:9"), f"{self.one.address}:9", "open from here to there")
        short = self.token("--ttl", "1s")
        time.sleep(1.1)
        self.refused(short, "time is over")
        for row in json.loads(self.one.out("stampede", "token", "list", "--json"))["tokens"]:
            self.one.run("stampede", "token", "remove", row["id"])
        self.refused(good, "not known here")

    def test_2_a_token_of_another_cluster(self):
        """The host tells nothing to an agent that does not prove to be of the token's cluster."""
        self.two.run("setsid", "--fork", "unshare", "-m", "sh", "-c", "mount -t tmpfs none /run/systemd && exec stampede up --no-network "
                     "--state-directory /var/lib/alone --run-directory /run/alone --api-address 0.0.0.0:9080 >/var/log/up 2>&1", timeout=30)
        try:
            wait_for("its certificate", 60, self.served)
            self.refused(self.token(), "of another cluster", words=("--address", f"{self.two.address}:9080"))
            # And the other way: its certificate opens nothing here.
            self.assertEqual(self.ask_as_agent("/var/lib/alone/certificate.pem"), None)
        finally:
            self.two.run("pkill", "-x", "-f", ".*stampede up .*", check=False)
            wait_for("it to be gone", 30, lambda: self.served() is None)
            self.two.run("rm", "-rf", "/var/lib/alone", "/run/alone", check=False)

    def test_3_one_line_and_the_host_is_in(self):
        token = self.token()
        begun = time.monotonic()
        code, said = self.join(token)
        self.assertEqual(code, 0, said)
        self.two.run("systemctl", "enable", "--now", "stampede-network.socket", "stampede.service")
        wait_for("both hosts to be active", 60, lambda: [row["state"] for row in self.hosts()] == ["active"] * 2)
        print(f"       joined in {time.monotonic() - begun:.1f} s", flush=True)
        self.refuses_again(token)
        modes = self.two.shell("stat -c '%a %n' /var/lib/stampede/secret /var/lib/stampede/certificate.pem /etc/stampede/config.toml")
        self.assertEqual({line.split()[0] for line in modes.splitlines()}, {"600"}, modes)
        self.assertEqual(self.two.out("cat", "/var/lib/stampede/secret"), self.one.out("cat", "/var/lib/stampede/secret"))
        # What etcd holds is no secret.
        everything = self.one.out("etcdctl", "get", "--prefix", "/stampede", "--print-value-only")
        self.assertNotIn(self.one.out("cat", "/var/lib/stampede/secret"), everything)
        self.assertNotIn("PRIVATE KEY", everything)
        # The API over TLS, by curl, at both; each has its own name alone.
        made = json.loads(self.one.out("stampede", "api-key", "create", "--json"))
        self.one.run("sh", "-c", "cat > /tmp/ca.pem", stdin=self.ca)
        for host in (self.one, self.two):
            url = f"https://{host.address}:9080/v1/hosts"
            answer = json.loads(self.one.out("curl", "-sS", "--cacert", "/tmp/ca.pem", "-u", f"{made['publicValue']}:{made['secretValue']}", url))
            self.assertEqual(len(answer["data"]), 2)
            self.assertTrue(answer["links"]["self"].startswith("https://"), answer["links"])
        plain = self.one.out("curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", f"http://{self.two.address}:9080/v1")
        self.assertEqual(plain, "403", "plain text from another host")
        wrong = self.one.run("curl", "-sS", "--cacert", "/tmp/ca.pem", "--resolve", f"h9:9080:{self.two.address}", "https://h9:9080/ping", check=False)
        self.assertEqual(wrong.returncode, 60, wrong.stderr)
        listed = self.one.out("stampede", "hosts", "--url", f"https://{self.two.address}:9080", "--ca", "/tmp/ca.pem",
                              "--access-key", made["publicValue"], "--secret-key", made["secretValue"])
        self.assertIn("h2", listed)
        # As an agent, with the host's own certificate.
        self.assertIn("answer", self.ask_as_agent("/var/lib/stampede/certificate.pem"))

    def refuses_again(self, token):
        code, said = self.join(token)
        self.assertEqual(code, 1, said)
        self.assertIn("as often as it may be", said)

    def test_4_certificates_are_renewed_while_the_agent_runs(self):
        self.two.shell("printf '\\n[certificate]\\nlifetime_seconds = 20\\n' >> /etc/stampede/config.toml")
        self.two.run("rm", "/var/lib/stampede/certificate.pem")
        self.two.run("systemctl", "restart", "stampede.service")
        pid = self.two.out("systemctl", "show", "--value", "-p", "MainPID", "stampede.service")
        first = wait_for("a certificate", 30, self.served)
        second = wait_for("the next one", 60, lambda: self.served() not in (None, first) and self.served(), every=0.5)
        wait_for("one more", 60, lambda: self.served() not in (None, first, second), every=0.5)
        self.assertEqual(self.two.out("systemctl", "show", "--value", "-p", "MainPID", "stampede.service"), pid)

    def test_5_an_authority_is_rotated_and_all_follow(self):
        before = [self.served(self.one), self.served(self.two)]
        self.one.run("stampede", "ca", "rotate", "--overlap", "10s")
        both = self.one.out("stampede", "ca", "show")
        self.assertEqual(both.count("BEGIN CERTIFICATE"), 2)
        new = ssl.create_default_context(cadata=both.split("-----END CERTIFICATE-----")[1] + "-----END CERTIFICATE-----\n")

        def all_follow():
            for host in (self.one, self.two):
                with socket.create_connection((host.address, 9080), timeout=5) as plain, new.wrap_socket(plain, server_hostname=host.address):
                    pass
            return True

        wait_for("both to have certificates of the new one", 150, all_follow, every=1)
        self.assertFalse(set(before) & {self.served(self.one), self.served(self.two)})
        self.assertEqual([row["state"] for row in self.hosts()], ["active"] * 2)

    def test_6_a_wrong_secret_and_an_open_one(self):
        for words, change in (("not the one", "openssl rand -hex 32 > secret || head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \\n' > secret"),
                              ("chmod 600", "cp good secret; chmod 644 secret")):
            self.two.shell(f"cd /var/lib/stampede && cp -p secret good && ({change})")
            try:
                self.two.run("systemctl", "restart", "stampede.service", check=False)
                wait_for("the refusal", 60, lambda: self.two.out(
                    "systemctl", "show", "--value", "-p", "ExecMainStatus", "stampede.service") == "78")
                self.assertIn(words, self.two.shell("journalctl --no-pager -n 30 -o cat -u stampede.service"))
            finally:
                self.two.shell("cd /var/lib/stampede && mv good secret && chmod 600 secret")
        self.two.run("systemctl", "reset-failed", "stampede.service", check=False)
        self.two.run("systemctl", "restart", "stampede.service")
        wait_for("both hosts to be active", 60, lambda: [row["state"] for row in self.hosts()] == ["active"] * 2)

    def test_7_another_secret_takes_over_while_the_agents_run(self):
        pids = [self.pid(host) for host in (self.one, self.two)]
        old = self.one.out("cat", "/var/lib/stampede/secret")
        self.one.run("stampede", "secret", "next", "--new")
        new = self.one.out("cat", "/var/lib/stampede/secret.next")
        self.assertEqual(self.one.out("stat", "-c", "%a", "/var/lib/stampede/secret.next"), "600")
        wait_for("the other host to be named", 90, lambda: "not on h2 yet" in self.secret()["message"])
        self.assertEqual({row["used"] for row in self.secret()["hosts"]}, {self.secret()["hosts"][1]["used"]}, "all use the old one")
        for wrong, words in (("rubbish", "64 hexadecimal digits"), (old, "uses already")):
            result = self.two.run("stampede", "secret", "next", "--file", "-", stdin=wrong, check=False)
            self.assertEqual((result.returncode, words in result.stderr), (1, True), result.stderr)
        begun = time.monotonic()
        self.two.run("stampede", "secret", "next", "--file", "-", stdin=new)
        wait_for("all to use the new one", 90, lambda: "was changed" in (self.secret()["message"] or ""))
        print(f"       all changed over in {time.monotonic() - begun:.1f} s", flush=True)
        shown = self.secret()["hosts"]
        self.assertEqual(len({row["used"] for row in shown}), 1, shown)
        self.assertEqual({row["before"] is None for row in shown}, {False}, shown)
        everything = self.one.out("etcdctl", "get", "--prefix", "/stampede", "--print-value-only")
        self.assertFalse(old in everything or new in everything)
        self.assertEqual([self.pid(host) for host in (self.one, self.two)], pids, "no agent was started anew")
        self.assertEqual([row["state"] for row in self.hosts()], ["active"] * 2)
        # One that starts now goes on with it, and an agent that has the old one alone does not start.
        self.two.run("systemctl", "restart", "stampede.service")
        wait_for("it to be active", 60, lambda: [row["state"] for row in self.hosts()] == ["active"] * 2)
        self.two.run("mv", "/var/lib/stampede/secret.next", "/root/")
        try:
            self.two.run("systemctl", "restart", "stampede.service", check=False)
            wait_for("the refusal", 60, lambda: self.two.out(
                "systemctl", "show", "--value", "-p", "ExecMainStatus", "stampede.service") == "78")
        finally:
            self.two.run("mv", "/root/secret.next", "/var/lib/stampede/")
        self.two.run("systemctl", "reset-failed", "stampede.service", check=False)
        self.two.run("systemctl", "restart", "stampede.service")
        wait_for("both hosts to be active", 60, lambda: [row["state"] for row in self.hosts()] == ["active"] * 2)

    def secret(self):
        return json.loads(self.one.out("stampede", "secret", "show", "--json"))

    def pid(self, host):
        return host.out("systemctl", "show", "--value", "-p", "MainPID", "stampede.service")

    def hosts(self):
        return json.loads(self.one.out("stampede", "hosts", "--json"))

    def served(self, host=None):
        """The certificate that the host's agent shows at this moment."""
        try:
            return ssl.get_server_certificate(((host or self.two).address, 9080), timeout=5)
        except OSError:
            return None

    def ask_as_agent(self, certificate):
        """The question to `h1`, with a certificate of `h2`'s disk; None where it is not let in."""
        context = ssl.create_default_context(cadata=self.ca)
        context.check_hostname = False
        context.set_alpn_protocols(["stampede/1"])
        context.load_cert_chain(self.two.path(certificate))
        try:
            with socket.create_connection((self.one.address, 9080), timeout=5) as plain, context.wrap_socket(plain) as stream:
                stream.sendall(b"GET /agent/v1/lease HTTP/1.1\r\nHost: h1\r\nConnection: close\r\n\r\n")
                answer = b""
                while more := stream.recv(4096):
                    answer += more
                return answer.decode() if answer.startswith(b"HTTP/1.1 200") else None
        except (ssl.SSLError, ConnectionError):
            return None
