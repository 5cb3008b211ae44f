"""The commands of scripts/lab. One that changes something holds the lab's lock while it does so, but not while it only
waits for hosts to be ready.
"""

import argparse
import json

import agent
import machine
import network
import provision
import ready
import rootfs
import teardown
from machine import say
from record import Record
from settings import MOST_HOSTS, RELEASES, STATES, Failure

USAGE = """\
scripts/lab: test hosts on this machine, each a real systemd with Docker, and an etcd between them.

    up [N] [--release trixie|bookworm] [--no-agent [--read-only]]
                            brings up hosts h1…hN (3), or what is missing of them; --read-only: those that it makes have
                            a /usr that cannot be written to, as on CoreOS
    install [--restart] [HOST…]
                            puts a newly built agent and its units into the hosts
    exec HOST [CMD…]        runs a command in a host (a shell without one); its exit code is ours
    address HOST            prints the host's address
    list [--json]           hosts with address, state, pid and uptime
    logs HOST [UNIT] […]    the host's journal; further words go to journalctl, -f for one
    cut HOST… [--switch]    pulls the host's cable; --switch: its carrier stays, nothing passes
    heal HOST…              plugs it in again
    kill HOST…              as if the power went
    start HOST…             and came back
    reboot HOST…            reboots the host from inside
    libvirt HOST…           gives the host a libvirt, which it has none of before: it runs virtual machines then
    down [--keep]           takes the lab away with all its state; --keep leaves the hosts' disks for the next `up`
    clean [--cache]         down; --cache: and the root file systems built for it

h1, h2, h3 hold etcd (h1 alone when there are fewer than three), at port 2379 of their addresses. STAMPEDE_LAB=NAME is another lab beside the usual one.
STAMPEDE_BINARY is the agent to install, if not the newest in target/. STAMPEDE_LAB_STATE and
STAMPEDE_LAB_CACHE are folders for the hosts' disks (/var/lib/stampede-lab) and for what they share
(/var/cache/stampede-lab). Only root can use it.
"""


def up(lab, options):
    # Before the lock and outside the lab's cgroup: nobody should cut dpkg short.
    machine.install_missing()
    machine.need_plain_file_system(STATES, "STAMPEDE_LAB_STATE")
    if options.read_only and not options.no_agent:
        raise Failure("an agent is copied into /usr: --read-only goes with --no-agent, and the agent comes as a system extension")
    the_agent, no_agent = _agent_or_reason(options.no_agent)
    with machine.locked(lab.lock_file):
        record = _decide(lab, options)
        hosts = record.hosts()
        record.save()
        network.up(lab)
        say(f"network {lab.subnet} in namespace {lab.namespace}, this machine is {lab.machine_address}")

        for host in hosts:
            if options.read_only and not host.folder.exists():
                host.folder.mkdir(parents=True)
                host.read_only_marker.touch()
            host.folder.mkdir(parents=True, exist_ok=True)
            provision.host_files(host, hosts, record.members())
            if the_agent:
                agent.write_files(host, the_agent, provision.etcd_endpoints(record.members()))
        starting = [host for host in hosts if not host.kept()]
        for host in starting:
            host.power_on()
        if starting:
            say(f"starting {' '.join(host.name for host in starting)} ({record.release})")

        def bring(host):
            services = ready.host_ready(record, host)
            say(f"{host.name} is up at {host.address}: {host.system_state()}, {services}")
            if the_agent:
                agent.activate(host, the_agent)
                agent.start(host)
                say(f"{host.name}: {agent.SERVICE} is active")

        machine.in_threads(bring, hosts)
        say(f"no agent on the hosts: {no_agent}" if no_agent else f"agent: {the_agent.binary}")
        say(f"{len(hosts)} hosts are up; etcd: {','.join(provision.etcd_endpoints(record.members()))}")


def _agent_or_reason(unwanted):
    if unwanted:
        return None, "--no-agent"
    try:
        return agent.find(), None
    except Failure as failure:
        say(f"WITHOUT THE AGENT: {failure}")
        return None, failure


def _decide(lab, options):
    """What the lab shall be: what it is already, and more hosts if more are asked for."""
    record = Record.load(lab)
    if record is None:
        count = options.count or 3
        release = options.release or RELEASES[0]
        network.choose(lab)
        members = provision.ETCD_MEMBERS if count >= provision.ETCD_MEMBERS else 1
        return Record(lab, release, rootfs.ensure(lab, release), count, members)
    if not record.entry.exists():
        raise Failure(f"{record.entry}, below the hosts' disks, is gone: `scripts/lab down` and `up` make a new lab")
    if options.release and options.release != record.release:
        raise Failure(f"this lab is {record.release}: `scripts/lab down` first, or another name in STAMPEDE_LAB")
    if options.count and options.count < record.count:
        say(f"there are {record.count} hosts already, and they stay")
    record.count = max(record.count, options.count or 0)
    return record


def install(lab, options):
    the_agent = agent.find()
    record = Record.need(lab)
    hosts = [record.host(name) for name in options.hosts] or record.hosts()
    with machine.locked(lab.lock_file):
        def one(host):
            agent.write_files(host, the_agent, provision.etcd_endpoints(record.members()))
            if host.leader() is None:
                say(f"{host.name} is off: the files are in place, `up` does the rest")
                return
            agent.activate(host, the_agent)
            if options.restart:
                agent.restart(host, the_agent)
            say(f"{host.name}: installed{' and restarted' if options.restart else ''}")

        machine.in_threads(one, hosts)


def kill(lab, options):
    record = Record.need(lab)
    hosts = [record.host(name) for name in options.hosts]
    with machine.locked(lab.lock_file):
        machine.in_threads(lambda host: host.power_off(), hosts)


def start(lab, options):
    record = Record.need(lab)
    hosts = [record.host(name) for name in options.hosts]
    with machine.locked(lab.lock_file):
        if not lab.namespace_file.exists():
            raise Failure("the lab is down: `scripts/lab up` brings it back")
        for host in hosts:
            if not host.kept():
                host.power_on()
    machine.in_threads(lambda host: ready.host_ready(record, host), hosts)


def reboot(lab, options):
    record = Record.need(lab)
    hosts = [record.host(name) for name in options.hosts]

    def one(host):
        before = host.leader()
        # The host may be gone before systemctl has its answer.
        host.inside("systemctl", "reboot", check=False)
        machine.wait_for(f"{host.name} to go down", 120, lambda: host.leader() != before)
        ready.host_ready(record, host)

    machine.in_threads(one, hosts)


def libvirt(lab, options):
    record = Record.need(lab)
    machine.in_threads(lambda host: provision.libvirt(host), [record.host(name) for name in options.hosts])


def cut(lab, options):
    record = Record.need(lab)
    hosts = [record.host(name) for name in options.hosts]
    with machine.locked(lab.lock_file):
        for host in hosts:
            host.cut_marker.write_text("switch\n" if options.switch else "cable\n")
            network.cut(lab, host.name, options.switch)


def heal(lab, options):
    record = Record.need(lab)
    hosts = [record.host(name) for name in options.hosts]
    with machine.locked(lab.lock_file):
        for host in hosts:
            host.cut_marker.unlink(missing_ok=True)
            network.heal(lab, host.name)


def list_hosts(lab, options):
    record = Record.load(lab)
    rows = []
    for host in record.hosts() if record else []:
        seconds = host.uptime()
        state = host.system_state()
        rows.append({
            "host": host.name, "address": host.address, "state": state, "cut": host.cut_marker.exists(),
            "pid": host.leader(), "uptime": None if seconds is None else round(seconds)})
    if options.json:
        print(json.dumps(rows))
        return
    if not rows:
        print("no lab")
        return
    print(f"{'HOST':6}{'ADDRESS':16}{'STATE':16}{'PID':>8}{'UPTIME':>10}")
    for row in rows:
        state = row["state"] + (", cut" if row["cut"] else "")
        uptime = "-" if row["uptime"] is None else f"{row['uptime'] // 60}m{row['uptime'] % 60:02}s"
        print(f"{row['host']:6}{row['address']:16}{state:16}{row['pid'] or '-':>8}{uptime:>10}")


def address(lab, options):
    print(Record.need(lab).host(options.host).address)


def down(lab, options):
    teardown.down(lab, options.keep)


def clean(lab, options):
    teardown.down(lab)
    if options.cache:
        rootfs.remove_cache()


def run(lab, words):
    options = _parser().parse_args(words)
    if options.function.__name__ != "<lambda>":
        machine.need_root()
    options.function(lab, options)
    return 0


def _parser():
    parser = argparse.ArgumentParser(prog="scripts/lab", description=USAGE, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     usage="scripts/lab COMMAND …")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS)

    def command(name, function, hosts=None):
        one = commands.add_parser(name)
        one.set_defaults(function=function)
        if hosts:
            one.add_argument("hosts", metavar="HOST", nargs=hosts)
        return one

    one = command("up", up)
    one.add_argument("count", metavar="N", nargs="?", type=_count)
    one.add_argument("--release", choices=RELEASES)
    one.add_argument("--no-agent", action="store_true")
    one.add_argument("--read-only", action="store_true")
    command("install", install, "*").add_argument("--restart", action="store_true")
    command("address", address).add_argument("host", metavar="HOST")
    command("list", list_hosts).add_argument("--json", action="store_true")
    command("cut", cut, "+").add_argument("--switch", action="store_true")
    command("heal", heal, "+")
    command("kill", kill, "+")
    command("start", start, "+")
    command("reboot", reboot, "+")
    command("libvirt", libvirt, "+")
    command("down", down).add_argument("--keep", action="store_true")
    command("clean", clean).add_argument("--cache", action="store_true")
    command("help", lambda lab, options: parser.print_help())
    return parser


def _count(text):
    if not text.isdigit() or not 1 <= int(text) <= MOST_HOSTS:
        raise argparse.ArgumentTypeError(f"from 1 to {MOST_HOSTS} hosts")
    return int(text)
