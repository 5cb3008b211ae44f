#!/usr/bin/python3 -B
"""The test hosts' own test: tests/lab.py [--release trixie|bookworm]

Brings up a lab of its own (STAMPEDE_LAB=labtest), breaks it in the ways scripts/lab offers, cuts runs short with
SIGKILL, and compares what is on the machine before and after. Needs root, and the network once for the root file system.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zlib
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent
NAME, OTHER = "labtest", "labtwo"
STATES = Path("/var/lib/stampede-lab")
CGROUPS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd")

UNIT = """
[Unit]
Description=A stand-in for the agent
[Service]
Type=notify
NotifyAccess=all
ExecStart=/usr/bin/stampede
[Install]
WantedBy=multi-user.target
"""
SOCKET = """
[Socket]
ListenStream=/run/docker/plugins/stand-in.sock
[Install]
WantedBy=sockets.target
"""
SOCKET_SERVICE = "[Service]\nExecStart=/usr/bin/sleep 1000\n"
GOOD_AGENT = "#!/bin/sh\n# version {}\nsystemd-notify --ready\nwhile :; do sleep 1; done\n"
BAD_AGENT = "#!/bin/sh\necho this agent cannot start\nexit 3\n"

passed, failed = 0, 0


def check(what, good, detail=""):
    global passed, failed
    if good:
        passed += 1
        print(f"  passed  {what}", flush=True)
    else:
        failed += 1
        print(f"  FAILED  {what}: {detail}", flush=True)
    return good


def lab(*words, tree=TREE, name=NAME, stdin=None, limit=240, **environment):
    # Which agent there is, is this test's own business: mostly none, or a stand-in.
    inherited = {key: value for key, value in os.environ.items() if key != "STAMPEDE_BINARY"}
    return subprocess.run(
        [tree / "scripts/lab", *words], env=dict(inherited, STAMPEDE_LAB=name, **environment), input=stdin, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=limit, check=False,
        **({} if stdin is not None else {"stdin": subprocess.DEVNULL}))


def good(what, *words, **options):
    result = lab(*words, **options)
    check(what, result.returncode == 0, f"exit code {result.returncode}: {result.stdout[-1500:]}{result.stderr[-1500:]}")
    return result.stdout.strip()


def within(limit, probe):
    end = time.monotonic() + limit
    while time.monotonic() < end:
        if probe():
            return True
        time.sleep(0.2)
    return False


# What is on the machine

def _other_labs():
    """By whatever shows that one is there, or is just coming or going."""
    groups = {folder.name for top in CGROUPS for folder in Path(top).glob("stampede-lab.*")}
    locks = {file.name.removesuffix(".lock") for file in Path("/run").glob("stampede-lab.*.lock")}
    names = {name.removeprefix("stampede-lab.") for name in groups | locks}
    return (names | {folder.name for folder in STATES.glob("*")}) - {NAME, OTHER}


def _processes():
    """Those of the labs under test: by cgroup, by what they inherited, by network namespace."""
    marks = tuple(f"STAMPEDE_LAB={name}\0".encode() for name in (NAME, OTHER))
    found = set()
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            ours = any(f"stampede-lab.{name}" in (process / "cgroup").read_text() for name in (NAME, OTHER)) or any(
                mark in (process / "environ").read_bytes() + b"\0" for mark in marks)
            if ours and "State:\tZ" not in (process / "status").read_text():
                found.add(f"{process.name} {(process / 'cmdline').read_bytes()[:80]}")
        except OSError:
            pass
    return found


def snapshot():
    """Everything a lab could leave; what belongs to a lab of somebody else's is left out."""
    others = _other_labs()
    mounts = {line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()}
    links = {line.split(":")[1].strip().split("@")[0] for line in subprocess.run(
        ["ip", "-o", "link"], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()}
    namespaces = {file.name for file in Path("/run/netns").glob("*")}
    groups = set()
    for top in CGROUPS:
        groups |= {str(folder) for folder in Path(top).glob("stampede-lab.*")}
    files = {str(file) for pattern in ("/run/systemd/nspawn/**/*", "/run/stampede-lab*", "/tmp/mmdebstrap*", "/var/tmp/mmdebstrap*")
             for file in Path("/").glob(pattern[1:])}
    return {
        "mounts": mounts - ({"/run/netns"} | {f"/run/netns/{name}" for name in others} if others else set()),
        "links": links - {f"{name}0" for name in others},
        "network namespaces": namespaces - others,
        "cgroups": {group for group in groups if group.rpartition(".")[2] not in others},
        "files": {file for file in files if not any(file == f"/run/stampede-lab.{name}.lock" for name in others)},
        "state": {str(folder) for folder in STATES.glob("*") if folder.name not in others},
        "processes": _processes(),
    }


def compare(when, before):
    # The kernel takes links and namespaces away a moment after their last process.
    within(5, lambda: snapshot() == before)
    after = snapshot()
    for kind, things in before.items():
        check(f"{when}: {kind} as before", after[kind] == things,
              f"left: {sorted(after[kind] - things)}, gone: {sorted(things - after[kind])}")


# The sections, in order; each one leaves what the next needs

def comes_up(release):
    start = time.monotonic()
    good("up 3", "up", "3", "--release", release, "--no-agent")
    print(f"          three hosts in {time.monotonic() - start:.1f} s")
    for number in (1, 2, 3):
        name = f"h{number}"
        check(f"{name} is running", good(f"{name}: systemctl answers", "exec", name, "systemctl", "is-system-running") == "running")
        check(f"{name}: a container runs", good(f"{name}: docker run", "exec", name, "docker", "run", "--rm", "busybox", "echo", "hello") == "hello")
        check(f"{name} forwards", good(f"{name}: sysctl", "exec", name, "sysctl", "-n", "net.ipv4.ip_forward") == "1")
        check(f"{name} is {release}", f"VERSION_CODENAME={release}" in lab("exec", name, "cat", "/etc/os-release").stdout)
    ids = {lab("exec", name, "docker", "image", "inspect", "-f", "{{.Id}}", "busybox").stdout for name in ("h1", "h2", "h3")}
    check("one image id on all hosts", len(ids) == 1 and "sha256" in ids.pop(), ids)
    ids = {lab("exec", name, "cat", "/etc/machine-id").stdout.strip() for name in ("h1", "h2", "h3")}
    check("machine ids differ", len(ids) == 3 and all(len(one) == 32 for one in ids), ids)
    address = good("address", "address", "h3")
    check("h1 pings h3", lab("exec", "h1", "ping", "-c1", "-W2", address).returncode == 0)
    check("etcd has three members", len(good("member list", "exec", "h1", "etcdctl", "member", "list").splitlines()) == 3)
    good("etcd: put on h1", "exec", "h1", "etcdctl", "put", "colour", "green")
    check("etcd: get on h3", lab("exec", "h3", "etcdctl", "get", "--print-value-only", "colour").stdout.strip() == "green")
    again = lab("up", "--no-agent")
    check("up again starts nothing", again.returncode == 0 and "starting" not in again.stdout, again.stdout + again.stderr)


def passes_things_through():
    check("exit code", lab("exec", "h1", "sh", "-c", "exit 7").returncode == 7)
    check("stdin", lab("exec", "h1", "cat", stdin="words\n").stdout == "words\n")
    check("options of the command", lab("exec", "h1", "--", "echo", "-n", "--release", "x").stdout == "--release x")
    unknown = lab("exec", "h9", "true")
    check("unknown host", unknown.returncode == 125 and "there is no host h9" in unknown.stderr, unknown.stderr)
    check("journal", "dockerd" in lab("logs", "h1", "docker").stdout)
    listed = lab("list").stdout
    check("list", listed.count("running") == 3 and lab("address", "h2").stdout.strip() in listed, listed)


def loses_power():
    docker = ("exec", "h2", "docker")
    good("a container with a restart policy", *docker, "run", "-d", "--name", "keeper", "--restart=always", "busybox", "sleep", "100000")
    boot = lab("exec", "h2", "cat", "/proc/sys/kernel/random/boot_id").stdout
    machine_id = lab("exec", "h2", "cat", "/etc/machine-id").stdout
    start = time.monotonic()
    good("kill h2", "kill", "h2")
    print(f"          power loss in {time.monotonic() - start:.2f} s")
    check("h2 is off", "off" in next(line for line in lab("list").stdout.splitlines() if line.startswith("h2")))
    check("exec on it fails plainly", "not running" in lab("exec", "h2", "true").stderr)
    check("its journal can still be read", "dockerd" in lab("logs", "h2", "docker").stdout)
    # A write that was on its way to a leader that died is lost, and etcdctl does not try again.
    check("etcd goes on without it", within(30, lambda: lab("exec", "h1", "etcdctl", "put", "colour", "blue").returncode == 0))
    start = time.monotonic()
    good("start h2", "start", "h2")
    print(f"          ready again in {time.monotonic() - start:.1f} s")
    check("another boot", lab("exec", "h2", "cat", "/proc/sys/kernel/random/boot_id").stdout not in ("", boot))
    check("the same machine", lab("exec", "h2", "cat", "/etc/machine-id").stdout == machine_id)
    check("its container is back", within(20, lambda: "keeper" in lab(*docker, "ps", "--format", "{{.Names}}").stdout))
    check("its etcd has caught up", within(20, lambda: lab("exec", "h2", "etcdctl", "get", "--print-value-only", "colour").stdout.strip() == "blue"))
    check("no other host was touched", all("running" in line for line in lab("list").stdout.splitlines()[1:]))
    boot = lab("exec", "h2", "cat", "/proc/sys/kernel/random/boot_id").stdout
    good("reboot h2", "reboot", "h2")
    check("another boot again", lab("exec", "h2", "cat", "/proc/sys/kernel/random/boot_id").stdout not in ("", boot))


def is_cut_off():
    address = lab("address", "h2").stdout.strip()

    def reached():
        return lab("exec", "h1", "ping", "-c1", "-W1", address).returncode == 0

    def carrier():
        return lab("exec", "h2", "cat", "/sys/class/net/host0/carrier").stdout.strip()

    for options, expected in (((), ""), (("--switch",), "1")):
        kind = "switch" if options else "cable"
        check(f"{kind}: reached before", within(10, reached))
        good(f"{kind}: cut h2", "cut", "h2", *options)
        check(f"{kind}: not reached", not reached())
        check(f"{kind}: carrier", within(5, lambda: (carrier() or "0") == (expected or "0")), carrier())
        good(f"{kind}: heal h2", "heal", "h2")
        check(f"{kind}: reached again", within(15, reached))
    good("cut h2 once more", "cut", "h2")
    start = time.monotonic()
    good("kill it while cut", "kill", "h2")
    check("at once, whatever waits to be sent", time.monotonic() - start < 5)
    good("start it while cut", "start", "h2")
    check("still cut after the start", not reached())
    good("heal it", "heal", "h2")
    check("reached at last", within(15, reached))
    check("etcd healthy", within(20, lambda: lab("exec", "h2", "etcdctl", "endpoint", "health").returncode == 0))


def two_at_once(release):
    preferred = f"198.18.{zlib.crc32(OTHER.encode()) % 255 + 1}"
    # What a lab with the same taste left behind.
    subprocess.run(["ip", "link", "add", "leftover", "type", "veth", "peer", "name", "leftover-peer"], check=True)
    try:
        subprocess.run(["ip", "address", "add", f"{preferred}.254/24", "dev", "leftover"], check=True)
        good("another lab beside it", "up", "1", "--release", release, "--no-agent", name=OTHER)
    finally:
        subprocess.run(["ip", "link", "delete", "leftover"], check=True)
    address = lab("address", "h1", name=OTHER).stdout.strip()
    check("its subnet is none that was taken", address and not address.startswith(f"{preferred}."), address)
    good("up again", "up", "--no-agent", name=OTHER)
    check("its subnet stays", lab("address", "h1", name=OTHER).stdout.strip() == address)
    check("its etcd is its own", len(lab("exec", "h1", "etcdctl", "member", "list", name=OTHER).stdout.splitlines()) == 1)
    check("its h1 is another", lab("exec", "h1", "cat", "/etc/machine-id", name=OTHER).stdout != lab("exec", "h1", "cat", "/etc/machine-id").stdout)
    good("the other one goes", "down", name=OTHER)
    check("the first stays", lab("exec", "h1", "etcdctl", "endpoint", "health").returncode == 0)


def installs_the_agent():
    """With a source tree of its own, in which a script stands in for the agent."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        shutil.copytree(TREE / "scripts", tree / "scripts")
        for path, text in (
                ("systemd/stampede.service", UNIT), ("systemd/stand-in.socket", SOCKET), ("systemd/stand-in.service", SOCKET_SERVICE),
                ("systemd/sysctl.d/50-stand-in.conf", "net.ipv4.conf.all.log_martians = 1\n"),
                ("systemd/sysusers.d/stand-in.conf", "u standin - - -\n"),
                ("systemd/tmpfiles.d/stand-in.conf", "d /run/stand-in 0700 root root -\n"),
                ("target/debug/stampede", GOOD_AGENT.format(1))):
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text)

        def pid():
            return lab("exec", "h3", "systemctl", "show", "-P", "MainPID", "stampede.service").stdout.strip()

        good("up brings the agent", "up", tree=tree)
        check("it is active on all", all(lab("exec", name, "systemctl", "is-active", "stampede.service").returncode == 0 for name in ("h1", "h2", "h3")))
        check("enabled", lab("exec", "h1", "systemctl", "is-enabled", "stampede.service", "stand-in.socket").stdout.split() == ["enabled"] * 2)
        check("socket, user, folder, sysctl", lab("exec", "h2", "sh", "-c", (
            "test -S /run/docker/plugins/stand-in.sock && id standin && test -d /run/stand-in && "
            "test $(sysctl -n net.ipv4.conf.all.log_martians) = 1")).returncode == 0)
        check("configuration names all of etcd", lab("exec", "h1", "cat", "/etc/stampede/config.toml").stdout.count(":2379") == 3)
        before = pid()
        (tree / "target/debug/stampede").write_text(GOOD_AGENT.format(2))
        start = time.monotonic()
        good("install", "install", tree=tree)
        print(f"          installed on three in {time.monotonic() - start:.1f} s")
        check("the new binary is there", "version 2" in lab("exec", "h3", "cat", "/usr/bin/stampede").stdout)
        check("not restarted", before == pid() != "0", (before, pid()))
        good("install --restart", "install", "--restart", tree=tree)
        check("restarted", pid() not in (before, "0", ""), pid())
        good("a reboot", "reboot", "h3")
        check("it starts at boot", lab("exec", "h3", "systemctl", "is-active", "stampede.service", "stand-in.socket").stdout.split() == ["active"] * 2)
        (tree / "target/debug/stampede").write_text(BAD_AGENT)
        bad = lab("install", "--restart", "h1", tree=tree)
        check("an agent that does not start is a failure with its words", bad.returncode == 1 and "this agent cannot start" in bad.stderr, bad.stderr)


def cut_short(release, before):
    # Before, while and after the network is made, the hosts boot and Docker gets its image.
    for moment in (0.1, 0.25, 0.5, 1.0, 2.0, 3.5):
        _up_killed_after(moment, release)
        good(f"killed after {moment} s: down", "down")
        compare(f"killed after {moment} s", before)
    _up_killed_after(1.0, release)
    good("killed after 1.0 s, then up", "up", "--no-agent")
    check("that lab works", lab("exec", "h3", "docker", "run", "--rm", "busybox", "true").returncode == 0)
    good("down", "down")
    compare("killed, up, down", before)
    good("down of nothing", "down")
    compare("down of nothing", before)


def build_cut_short(release, before):
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        process = _start_up(release, STAMPEDE_LAB_CACHE=str(cache))

        def mounted():
            """Whether the builder is where it has /proc mounted in the new root: the worst moment."""
            for pid in [process.split()[0] for process in _processes()]:
                try:
                    if f"{cache}/" in Path(f"/proc/{pid}/mounts").read_text():
                        return True
                except OSError:
                    pass
            return False

        check("the builder mounts things", within(120, mounted))
        process.kill()
        process.wait()
        check("the builder outlived the killed run", any("mmdebstrap" in process for process in _processes()))
        good("down ends it", "down", STAMPEDE_LAB_CACHE=str(cache))
        check("nothing of the cache is left", not cache.exists(), list(cache.rglob("*"))[:5] if cache.exists() else "")
        compare("build killed", before)


def stopped_run(release, before):
    """A run that neither ends nor goes on must not keep `down` from its work."""
    process = _start_up(release)
    time.sleep(1)
    process.send_signal(signal.SIGSTOP)
    good("down beside a stopped up", "down")
    process.wait(timeout=10)
    compare("stopped run", before)


def _start_up(release, **environment):
    return subprocess.Popen(
        [TREE / "scripts/lab", "up", "3", "--release", release, "--no-agent"], env=dict(os.environ, STAMPEDE_LAB=NAME, **environment),
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _up_killed_after(seconds, release, **environment):
    process = _start_up(release, **environment)
    time.sleep(seconds)
    check(f"up ran, or was done, after {seconds} s", process.poll() in (None, 0), process.returncode)
    process.kill()
    process.wait()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--release", default="trixie")
    release = parser.parse_args().release
    # Builds the cache if need be, so that what follows is about hosts; and starts from nothing.
    for name in (NAME, OTHER):
        lab("down", name=name)
    good("a first lab", "up", "1", "--release", release, "--no-agent", limit=900)
    good("and down", "down")
    before = snapshot()
    check("nothing of ours before", not before["processes"] and NAME not in before["network namespaces"], before)
    sections = [
        (comes_up, (release,)), (passes_things_through, ()), (loses_power, ()), (is_cut_off, ()), (two_at_once, (release,)),
        (installs_the_agent, ()), (lambda: good("down", "down"), ()), (lambda: compare("after all that", before), ()),
        (cut_short, (release, before)), (stopped_run, (release, before)), (build_cut_short, (release, before)),
    ]
    for section, arguments in sections:
        print(section.__name__.replace("_", " ").replace("<lambda>", "down"))
        try:
            section(*arguments)
        except Exception:  # noqa: BLE001 (a section that breaks has failed; the next ones still run)
            check(section.__name__, False, traceback.format_exc())
    for name in (NAME, OTHER):
        lab("down", name=name)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
