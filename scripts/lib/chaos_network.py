"""What chaos' clients do with the network, and what must hold of it.

Never may be, and is looked for all the time in the hosts themselves (`ip address`):
  - one floating address on two hosts at once.
And when the faults are over, by connecting:
  - each published port, link and floating address leads where the records say, and what leads to nobody answers nobody.
"""

import ipaddress
import json
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from api import ApiError, Unreachable
from hosts import container_name, run

# What clients fight for, and how many addresses there are to move.
PUBLIC = (8080, 8081, 8082)
FLOATING = 3
GATEWAY = "10.42.0.1"
MOST_AT_ONCE = 12


def served(mark):
    """A command that answers with its mark over HTTP, and is `sleep MARK` to whoever looks at processes."""
    return {"command": "sh", "commandArgs": ["-c", f"echo {mark} >/tmp/index.html; busybox httpd -p 80 -h /tmp; exec sleep {mark}"]}


def answer(address, port=80, limit=3):
    """The mark of who answers this machine there; `None` where nobody does."""
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/", timeout=limit) as page:
            return page.read().decode().strip()
    except OSError:
        return None


class FloatingEyes(threading.Thread):
    """Looks all the time at which floating addresses the hosts' kernels have; what has run out of its lifetime and is still there counts."""

    def __init__(self, lab, net):
        super().__init__(daemon=True)
        self.lab, self.net = lab, net
        self.leaders, self.asked = {}, 0.0
        self.looks, self.seen, self.doubled = 0, set(), []
        self.over = threading.Event()

    def leader(self, name):
        if time.monotonic() - self.asked > 2:
            self.leaders = {row["host"]: row["pid"] for row in self.lab.rows()}
            self.asked = time.monotonic()
        return self.leaders.get(name)

    def held(self, name):
        pid = self.leader(name)
        shown = run("nsenter", "-t", pid, "-n", "ip", "-j", "-4", "address", "show", "dev", "stampede0", check=False, timeout=10) if pid else None
        if shown is None or shown.returncode != 0 or not shown.stdout.strip():
            return {}
        found = {one["local"]: one.get("valid_life_time") for link in json.loads(shown.stdout) for one in link.get("addr_info", [])}
        return {address: left for address, left in found.items() if ipaddress.ip_address(address) in self.net}

    def run(self):
        names = sorted(row["host"] for row in self.lab.rows())
        with ThreadPoolExecutor(len(names)) as pool:
            while not self.over.wait(0.1):
                now = dict(zip(names, pool.map(self.held, names)))
                self.looks += 1
                for address in {address for held in now.values() for address in held}:
                    on = [name for name in names if address in now[name]]
                    self.seen.update((address, name) for name in on)
                    if len(on) > 1:
                        self.look_again(address, on)

    def look_again(self, address, on):
        """Who had it before and after the other was seen with it had it at that moment too."""
        first, second, third = self.held(on[0]), self.held(on[1]), self.held(on[0])
        if address in first and address in second and address in third:
            self.doubled.append((address, {on[0]: third[address], on[1]: second[address]}))


class Network:
    def __init__(self, lab, hosts):
        self.lab, self.hosts = lab, hosts
        self.net = ipaddress.ip_network(f"{hosts[0].address}/24", strict=False)
        api = hosts[0].api(timeout=60)
        # Hosts are the first of the /24, this machine is the last but one.
        self.pool = api.post("/v1/subnetippools", {"networkAddress": str(self.net[192]), "cidrSize": 28, "name": "chaos"})
        self.addresses = [self.act(api, f"subnetippools/{self.pool['id']}", "acquire") for _ in range(FLOATING)]
        self.eyes = FloatingEyes(lab, self.net)
        # How many ports, links and addresses were last connected to.
        self.tried = 0

    @staticmethod
    def act(api, path, action, **body):
        return api.post(f"/v1/{path}/?action={action}", body)

    def fields(self, chance, others):
        """What an instance that is to be made has of the network; `others` are those that there are."""
        fields = {}
        if chance.random() < 0.4:
            fields["ports"] = [f"{chance.choice(PUBLIC)}:80", "80"] if chance.random() < 0.5 else ["80"]
        if others and chance.random() < 0.5:
            fields["instanceLinks"] = {"peer": chance.choice(others)["id"]}
        return fields

    def turn(self, api, work, chance, one, other):
        """Has a port, a link or an address be otherwise; where there is nothing to change, that is all."""
        if work == "address":
            row = api.get(f"/v1/ipaddresses/{chance.choice(self.addresses)['id']}")
            if chance.random() < 0.8:
                self.act(api, f"ipaddresses/{row['id']}", "associate", ipAddressId=one["id"].replace("1i", "1ia", 1))
            elif "disassociate" in row["actions"]:
                self.act(api, f"ipaddresses/{row['id']}", "disassociate")
        elif work == "port":
            for port in api.list("/v1/ports", instanceId=one["id"])[:1]:
                api.put(f"/v1/ports/{port['id']}", {"publicPort": chance.choice(PUBLIC + (None,))})
        else:
            for link in api.list("/v1/instancelinks", instanceId=one["id"])[:1]:
                api.put(f"/v1/instancelinks/{link['id']}", {"targetInstanceId": other["id"] if chance.random() < 0.85 else None})

    # The end

    def differences(self, rows, names, marks):
        """`rows` by id, hosts' names by theirs, and what each instance answers with."""
        api = self.hosts[0].api(timeout=30)
        running = {row_id: row for row_id, row in rows.items() if row["state"] == "running" and row_id in marks}
        hosts = {host.name: host for host in self.hosts}
        looks = []
        for port in api.list("/v1/ports"):
            row = running.get(port["instanceId"])
            if row and port["publicPort"] and port["protocol"] == "tcp":
                host = hosts[names[row["hostId"]]]
                looks.append((f"port {port['publicPort']} of {host}", marks[row["id"]], lambda at=host.address, port=port["publicPort"]: answer(at, port)))
        for link in api.list("/v1/instancelinks"):
            row, target = running.get(link["instanceId"]), running.get(link["targetInstanceId"])
            if row:
                looks += self.link_looks(row, hosts[names[row["hostId"]]], link, target and marks[target["id"]])
        found = []
        for address in (api.get(f"/v1/ipaddresses/{address['id']}") for address in self.addresses):
            if address["state"] not in ("active", "associated"):
                found.append(f"{address['address']} is {address['state']} still")
            ends = [one["childIpAddressId"].replace("1ia", "1i", 1) for one in api.list("/v1/ipassociations", ipAddressId=address["id"])]
            wanted = next((marks[end] for end in ends if end in running), None)
            looks.append((f"floating address {address['address']}", wanted, lambda at=address["address"]: answer(at)))
        self.tried = len(looks)
        with ThreadPoolExecutor(MOST_AT_ONCE) as pool:
            said = list(pool.map(lambda look: look[2](), looks))
        found += [f"{what} is to lead to {wanted}, and {got} answers" for (what, wanted, _), got in zip(looks, said) if got != wanted]
        return found

    def link_looks(self, row, host, link, wanted):
        def ask(port):
            said = host.run("docker", "exec", container_name(row), "busybox", "wget", "-q", "-T", "3", "-O", "-", f"http://{GATEWAY}:{port}/", check=False)
            return said.stdout.strip() or None

        ports = [(port["publicPort"], port["privatePort"]) for port in link.get("ports") or [] if port["privatePort"] == 80]
        return [(f"link {link['linkName']} of {row['id']} on {host}", wanted, lambda port=public: ask(port)) for public, _ in ports]

    def give_up(self):
        """Nothing of it is left; what is, is told."""
        api = self.hosts[0].api(timeout=30)
        for address in self.addresses:
            for _ in range(60):
                row = api.get(f"/v1/ipaddresses/{address['id']}")
                action = next((action for action in ("disassociate", "remove", "purge") if action in row["actions"]), None)
                if row["state"] == "purged":
                    break
                try:
                    if action:
                        self.act(api, f"ipaddresses/{row['id']}", action)
                except (ApiError, Unreachable):
                    pass
                time.sleep(0.5)
        left = {host.name: list(self.eyes.held(host.name)) for host in self.hosts}
        return [f"{held} left on {name}" for name, held in left.items() if held]
