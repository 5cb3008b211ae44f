"""Two hosts of one name, or of one machine-id: the second refuses to start and says why."""

from case import HOSTS, LabTest

CONFIG = """
name = "{name}"
state_directory = "/var/lib/second"
run_directory = "/run/second"
[store]
endpoints = ["http://{store}:2379"]
[api]
address = "127.0.0.1:9999"
[network]
enabled = false
encryption = "none"
"""


class Second(LabTest):
    def second_agent(self, host, name):
        """Another agent on the host, with an identity of its own; its exit code and words."""
        host.run("sh", "-c", "cat > /tmp/second.toml", stdin=CONFIG.format(name=name, store=HOSTS[0].address))
        try:
            return host.run("timeout", "40", "stampede", "agent", "--config", "/tmp/second.toml", check=False)
        finally:
            host.run("rm", "-rf", "/tmp/second.toml", "/var/lib/second", "/run/second")

    def refuses(self, result, *words):
        text = result.stdout + result.stderr
        self.assertNotIn(result.returncode, (0, 124, 137), text)
        for word in words:
            self.assertIn(word, text)

    def test_the_same_name_on_another_machine(self):
        before = self.api.list("/v1/hosts")
        # A machine of its own in the eyes of the agent: another machine-id.
        HOSTS[1].run("sh", "-c", "cat > /tmp/second.toml", stdin=CONFIG.format(name=HOSTS[0].name, store=HOSTS[0].address))
        result = HOSTS[1].run(
            "unshare", "-m", "sh", "-c", "echo 0123456789abcdef0123456789abcdef > /tmp/id && mount --bind /tmp/id /etc/machine-id && "
            "exec timeout 40 stampede agent --config /tmp/second.toml", check=False)
        HOSTS[1].run("rm", "-rf", "/tmp/second.toml", "/tmp/id", "/var/lib/second", "/run/second")
        self.refuses(result, HOSTS[0].name, "name")
        self.assertEqual([row["uuid"] for row in self.api.list("/v1/hosts")], [row["uuid"] for row in before])

    def test_the_same_machine_id_under_another_name(self):
        before = [row["name"] for row in self.api.list("/v1/hosts")]
        result = self.second_agent(HOSTS[1], "another")
        self.refuses(result, "machine")
        self.assertEqual([row["name"] for row in self.api.list("/v1/hosts")], before)

    def test_an_unknown_key_in_the_configuration(self):
        HOSTS[1].run("sh", "-c", "printf '[api]\\nadress = \"0.0.0.0:9080\"\\n' > /tmp/wrong.toml")
        result = HOSTS[1].run("timeout", "20", "stampede", "agent", "--config", "/tmp/wrong.toml", check=False)
        HOSTS[1].run("rm", "/tmp/wrong.toml")
        self.refuses(result, "adress", "line 2")

    def test_an_address_that_is_taken(self):
        config = CONFIG.format(name="x", store=HOSTS[0].address).replace("127.0.0.1:9999", "0.0.0.0:9080")
        HOSTS[1].run("sh", "-c", "cat > /tmp/second.toml", stdin=config)
        result = HOSTS[1].run("timeout", "40", "stampede", "agent", "--config", "/tmp/second.toml", check=False)
        HOSTS[1].run("rm", "-rf", "/tmp/second.toml", "/var/lib/second", "/run/second")
        self.refuses(result)
