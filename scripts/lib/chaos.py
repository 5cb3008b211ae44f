"""Random faults on real hosts while clients create, stop, start and remove, publish ports, lead links elsewhere and move floating
addresses: `scripts/chaos --minutes N --seed S`.

Five hosts, etcd on the first three, real Docker. Never may be, and is looked for all the time in the kernel's own list of
processes:
  - one instance in two places at once;
  - one floating address on two hosts at once (in the hosts' kernels).
And when the faults are over, within three minutes:
  - what was acknowledged is as it was acknowledged: running on the one host that the API names, or stopped, or gone;
  - no address is held twice, and nothing runs that nobody knows;
  - each published port, link and floating address leads where the records say, by connecting.
What was asked for and not answered (a node died, a connection was cut) may be either way, but whole.

The seed chooses faults and requests; the hosts' timing is their own, so two runs of a seed are alike and not the same.
"""

import argparse
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections import Counter

from api import ApiError, Unreachable
from chaos_network import Network, served
from eyes import Eyes
from hosts import Lab, at_once, wait_for

MARKS = itertools.count(8_000_000)
CLIENTS, MOST = 3, 10
SETTLED = 180
DAEMONS = ("dockerd", "containerd")


class Chaos:
    def __init__(self, lab, seed):
        self.lab, self.seed = lab, seed
        self.hosts = lab.hosts()
        self.began = time.monotonic()
        self.over = threading.Event()
        self.eyes = Eyes(lab.name, self.hosts)
        self.network = Network(lab, self.hosts)
        self.faulty = {}
        self.lock = threading.Lock()
        self.faults, self.requests = Counter(), Counter()
        self.wrong = []

    def say(self, words):
        print(f"  {time.monotonic() - self.began:6.1f} s  {words}", flush=True)

    # Faults

    def fault(self, chance):
        """Chooses a fault, begins it, and gives how to end it."""
        with self.lock:
            free = [host for host in self.hosts if host.name not in self.faulty]
            etcd = [host for host in free if host.name in ("h1", "h2", "h3")]
            # At most two hosts at once, and etcd's majority stays, else most of a run is waiting.
            if len(self.faulty) >= 2:
                return None
            broken = sum(name in ("h1", "h2", "h3") for name in self.faulty)
            candidates = etcd + [host for host in free if host not in etcd] if broken == 0 else [host for host in free if host not in etcd]
            if not candidates:
                return None
            host = chance.choice(candidates)
            kinds = ["power", "cut", "switch", "agent killed", "agent paused", "docker restarted", "docker paused", "docker killed"]
            if host in etcd:
                kinds += ["etcd member", "etcd killed"]
            kind = chance.choice(kinds)
            self.faulty[host.name] = kind
        self.faults[kind] += 1
        length = chance.uniform(3, 25)
        self.say(f"{host}: {kind}, for {length:.0f} s")
        ends = {
            "power": (lambda: self.lab("kill", host.name), lambda: self.lab("start", host.name, timeout=240)),
            "cut": (lambda: self.lab("cut", host.name), lambda: self.lab("heal", host.name)),
            "switch": (lambda: self.lab("cut", host.name, "--switch"), lambda: self.lab("heal", host.name)),
            "agent killed": (lambda: self.send(host, signal.SIGKILL, "agent"), lambda: None),
            "agent paused": (lambda: self.send(host, signal.SIGSTOP, "agent"), lambda: self.send(host, signal.SIGCONT, "agent")),
            "docker restarted": (lambda: host.run("systemctl", "restart", "--no-block", "docker.service"), lambda: None),
            "docker killed": (lambda: self.send(host, signal.SIGKILL, "dockerd"), lambda: None),
            "docker paused": (lambda: self.send(host, signal.SIGSTOP, *DAEMONS), lambda: self.send(host, signal.SIGCONT, *DAEMONS)),
            "etcd member": (lambda: host.run("systemctl", "stop", "etcd.service"), lambda: host.run("systemctl", "start", "--no-block", "etcd.service")),
            "etcd killed": (lambda: self.send(host, signal.SIGKILL, "etcd"), lambda: host.run("systemctl", "start", "--no-block", "etcd.service")),
        }[kind]
        ends[0]()
        return host, kind, length, ends[1]

    def send(self, host, number, *names):
        for name in names:
            words = ["systemctl", "kill", "-s", number.name, "--kill-whom=main", "stampede.service"] if name == "agent" else [
                "pkill", f"-{number.value}", "-x", name]
            host.run(*words, check=False)

    def mend(self, host, kind, end):
        end()
        self.say(f"{host}: {kind} is over")
        with self.lock:
            self.faulty.pop(host.name, None)

    def break_things(self, chance, minutes):
        end = time.monotonic() + minutes * 60
        pending = []
        while time.monotonic() < end or pending:
            now = time.monotonic()
            for one in [one for one in pending if one[0] <= now or now >= end]:
                pending.remove(one)
                self.mend(*one[1:])
            if now < end and chance.random() < 0.15:
                begun = self.fault(chance)
                if begun:
                    host, kind, length, ends = begun
                    pending.append((time.monotonic() + length, host, kind, ends))
            time.sleep(1)

    # Clients

    def client(self, number, chance, mine):
        while not self.over.is_set():
            self.turn(chance, mine, number)
            time.sleep(chance.uniform(0.2, 1.5))

    def turn(self, chance, mine, number):
        healthy = [host for host in self.hosts if host.name not in self.faulty] or self.hosts
        host = chance.choice(healthy if chance.random() < 0.9 else self.hosts)
        api = host.api(timeout=15)
        alive = [one for one in mine if one["wants"] != "gone"]
        usual = ["stop", "start", "remove", "port", "link", "address", "address"]
        work = chance.choice(usual + ["create"] * 3 if len(alive) < MOST else usual)
        self.requests[work] += 1
        try:
            if work == "create":
                self.create(api, chance, mine, number)
            elif alive:
                self.work(api, work, chance, [one for one in alive if one["id"]])
        except (Unreachable, ApiError, TimeoutError) as error:
            self.requests["failed"] += 1
            # An error in the API itself is a finding, whatever is broken around it.
            if isinstance(error, ApiError) and error.status == 500:
                self.wrong.append(f"{work} at {host}: {error}")

    def work(self, api, work, chance, known):
        if not known:
            return
        one = chance.choice(known)
        if work in ("port", "link", "address"):
            self.network.turn(api, work, chance, one, chance.choice(known))
        else:
            self.act(api, work, one)

    def create(self, api, chance, mine, number):
        mark = str(next(MARKS))
        move = chance.random() < 0.5
        one = {"mark": mark, "move": move, "wants": "unknown", "id": None}
        self.eyes.marks.add(mark)
        others = [other for other in mine if other["id"] and other["wants"] != "gone"]
        mine.append(one)
        made = api.post("/v1/containers", {
            "imageUuid": "docker:busybox", "name": f"chaos-{number}-{mark}", **served(mark), **self.network.fields(chance, others),
            "onHostLoss": "move" if move else "stay", "instanceTriggeredStop": "restart"})
        one["id"], one["wants"] = made["id"], "running"

    def act(self, api, work, one):
        if one["id"] is None:
            return
        before, one["wants"] = one["wants"], "unknown"
        try:
            if work == "remove":
                row = api.container(one["id"])
                if "remove" not in row["actions"]:
                    one["wants"] = before
                    return
                api.act(one["id"], "remove")
                one["wants"] = "gone"
            else:
                row = api.container(one["id"])
                if work not in row["actions"]:
                    one["wants"] = before
                    return
                api.act(one["id"], work)
                one["wants"] = {"stop": "stopped", "start": "running"}[work]
        except ApiError as error:
            # Refused is not done; only what was not answered, or could not be, is unknown.
            if error.status in (409, 422):
                one["wants"] = before
            raise

    # The end

    def whole(self):
        for host in self.hosts:
            answer = host.api(timeout=5).ask("GET", "/v1/hosts")
            if answer.status != 200 or answer.headers.get("X-Stampede-Stale"):
                return False
            active = {row["name"] for row in answer.body["data"] if row["state"] == "active" and "container" in row["capabilities"]}
            if active != {host.name for host in self.hosts}:
                return False
        return True

    def differences(self, all_of_them):
        """What is not as it was acknowledged."""
        rows = {row["id"]: row for row in self.hosts[0].api(timeout=30).list("/v1/containers")}
        names = {row["id"]: row["name"] for row in self.hosts[0].api(timeout=30).list("/v1/hosts")}
        now = self.eyes.look(set(self.eyes.marks))
        found = []
        for one in all_of_them:
            row = rows.get(one["id"]) if one["id"] else next((row for row in rows.values() if (row["name"] or "").endswith(one["mark"])), None)
            where = sorted(now.get(one["mark"], {}).values())
            state = row["state"] if row else "gone"
            words = f"{one['id']} (sleep {one['mark']}, {'move' if one['move'] else 'stay'}): wanted {one['wants']}, it is {state}, runs on {where or 'no host'}"
            if row and row["transitioning"] == "yes":
                found.append(f"{words}; still on its way")
            elif state == "running":
                if where != [names.get(row["hostId"])]:
                    found.append(f"{words}; the API says {names.get(row['hostId'])}")
            elif where:
                found.append(words)
            stated = row and row["transitioning"] == "error" and row["transitioningMessage"]
            fine = {"running": state == "running" or stated, "stopped": state == "stopped", "gone": state in ("removed", "purged", "gone"), "unknown": True}
            if not fine[one["wants"]]:
                found.append(words)
        addresses = Counter(row["primaryIpAddress"] for row in rows.values() if row["state"] in ("running", "starting", "stopped") and row["primaryIpAddress"])
        found += [f"{address} is held {times} times" for address, times in addresses.items() if times > 1]
        for host in self.hosts:
            for identifier in host.containers():
                row = rows.get(identifier)
                if row is None or row["state"] != "running" or names.get(row["hostId"]) != host.name:
                    found.append(f"{identifier} runs on {host} and the API says {row and row['state']} on {row and names.get(row['hostId'])}")
        if not found:
            marks = {row["id"]: row["name"].rsplit("-", 1)[1] for row in rows.values() if (row["name"] or "").startswith("chaos-")}
            found += self.network.differences(rows, names, marks)
        return found

    def run(self, minutes):
        chance = random.Random(self.seed)
        lists = [[] for _ in range(CLIENTS)]
        clients = [threading.Thread(target=self.client, args=(number, random.Random(f"{self.seed}-{number}"), mine), daemon=True)
                   for number, mine in enumerate(lists)]
        with self.eyes:
            self.network.eyes.start()
            for client in clients:
                client.start()
            try:
                self.break_things(chance, minutes)
            finally:
                self.over.set()
                self.mend_all()
            for client in clients:
                client.join(60)
            everything = [one for mine in lists for one in mine]
            left = []
            try:
                wait_for("all hosts to be in the cluster again", SETTLED, self.whole, every=1)
                wait_for("what was acknowledged to be so", SETTLED, lambda: not self.into(left, self.differences(everything)), every=2)
            except TimeoutError as late:
                self.wrong.append(str(late))
                self.wrong += left
                self.look_closer()
            self.wrong += [f"in two places at once: sleep {mark}: {pids}" for mark, pids in self.eyes.doubled]
            self.network.eyes.over.set()
            self.network.eyes.join(10)
            self.wrong += [f"floating address {address} on two hosts at once: {on}" for address, on in self.network.eyes.doubled]
            self.wrong += self.network.give_up()
            self.tell(everything)
            at_once(self.purge, [one["id"] for one in everything if one["id"]], width=12)
        return not self.wrong

    @staticmethod
    def into(place, found):
        place[:] = found
        return found

    def mend_all(self):
        """However it ended: nothing stays off, cut or stopped."""
        self.lab("start", *(host.name for host in self.hosts), check=False, timeout=300)
        self.lab("heal", *(host.name for host in self.hosts), check=False)
        for host in self.hosts:
            self.send(host, signal.SIGCONT, "agent", *DAEMONS)
            host.run("systemctl", "start", "--no-block", "docker.service", "stampede.service", check=False)
        for host in self.hosts[:3]:
            host.run("systemctl", "start", "--no-block", "etcd.service", check=False)

    def purge(self, identifier):
        api = self.hosts[0].api()

        def step():
            try:
                row = api.container(identifier)
                if row["state"] == "purged":
                    return True
                action = next((action for action in ("purge", "remove", "stop") if action in row["actions"]), None)
                if action:
                    api.act(row, action)
            except ApiError as error:
                return error.status == 404
            return False

        try:
            wait_for(f"{identifier} to be purged", 60, step)
        except TimeoutError as late:
            self.wrong.append(str(late))

    def look_closer(self):
        """What each host's units say, for whoever has to find out why."""
        for host in self.hosts:
            look = ("systemctl --no-legend --plain list-units --all docker.service containerd.service etcd.service 'stampede*.service'; "
                    "systemctl list-jobs --no-legend; journalctl --no-pager -n 25 -o short-precise -u docker.service -u containerd.service -u stampede.service "
                    "-u stampede-network.service")
            try:
                print("".join(f"  {host}: {line}\n" for line in host.shell(look, check=False, timeout=30).splitlines()), end="")
            except Exception as error:  # noqa: BLE001 (a host that does not even answer that is told, too)
                print(f"  {host}: {error}")

    def tell(self, everything):
        moved = []
        for one in everything:
            sights = self.eyes.seen.get(one["mark"], [])
            moved += [(then, now) for (_, then), (_, now) in zip(sights, sights[1:]) if then != now]
        print(f"\nseed {self.seed}: {sum(self.faults.values())} faults ({', '.join(f'{kind} {times}' for kind, times in sorted(self.faults.items()))})")
        print(f"{sum(self.requests.values()) - self.requests['failed']} requests ({', '.join(f'{kind} {times}' for kind, times in sorted(self.requests.items()))})")
        print(f"{len(everything)} instances, {sum(one['move'] for one in everything)} of them exclusive; {len(moved)} ran on another host later; {self.eyes.looks} looks")
        sights, looks = self.network.eyes.seen, self.network.eyes.looks
        print(f"{len({address for address, _ in sights})} floating addresses, seen on hosts {len(sights)} times; {looks} looks at those; "
              f"{self.network.tried} ports, links and floating addresses connected to in the end")
        for words in self.wrong:
            print(f"WRONG: {words}")


def main():
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--hosts", type=int, default=5)
    parser.add_argument("--keep", action="store_true", help="leave the hosts up at the end, to look at them")
    options = parser.parse_args()
    lab = Lab(os.environ.get("STAMPEDE_LAB", "chaos"))
    own = not lab.rows()
    good = False
    try:
        if own and lab.stream("up", str(options.hosts)) != 0:
            return 1
        chaos = Chaos(lab, options.seed)
        wait_for("the cluster", 120, chaos.whole)
        good = chaos.run(options.minutes)
    finally:
        if own and not options.keep:
            lab.stream("down")
    print(f"{int(good)} passed, {int(not good)} failed")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
