"""The last part of scripts/quickstart: makes containers over the API, shows how they come up, and what there is now."""

import sys
import time

from api import Api, ApiError, Unreachable
from hosts import Lab, container_name, wait_for

LIMIT = 90
DIM, BOLD, GREEN, RED, YELLOW, PLAIN = "\033[2m", "\033[1m", "\033[32m", "\033[31m", "\033[33m", "\033[0m"
COLOURS = {"running": GREEN, "stopped": RED, "removed": RED}


class Show:
    """The table of states: drawn anew in place on a terminal, a line for each change elsewhere."""

    def __init__(self):
        self.live = sys.stdout.isatty()
        self.drawn = 0
        self.started = time.monotonic()
        self.known = {}

    def rows(self, rows):
        changed = [row for row in rows if self.known.get(row["id"]) != _line(row)]
        self.known.update({row["id"]: _line(row) for row in rows})
        if not self.live:
            for row in changed:
                print(f"{time.monotonic() - self.started:6.1f} s  {_line(row)}", flush=True)
        elif changed or not self.drawn:
            if self.drawn:
                print(f"\033[{self.drawn}A", end="")
            for row in rows:
                print(f"\033[2K  {_line(row, True)}")
            self.drawn = len(rows)
            sys.stdout.flush()


def paint(text, colour):
    return f"{colour}{text}{PLAIN}" if sys.stdout.isatty() else text


def _line(row, colours=False):
    state = f"{row['state']:10}"
    if colours:
        state = f"{COLOURS.get(row['state'], YELLOW)}{state}{PLAIN}"
    message = row["transitioningMessage"] if row["transitioning"] == "error" else ""
    return f"{row['name']:10}{row['id']:8}{state}{row.get('primaryIpAddress') or '':14}{message or ''}".rstrip()


def table(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([paint(lines[0], BOLD), *lines[1:]])


def main(count):
    lab = Lab()
    hosts = lab.hosts()
    key, secret = lab.make_key("quickstart")
    apis = [Api(host.api_address, key, secret) for host in hosts]
    for host, api in zip(hosts, apis):
        wait_for(f"{host}'s API", 60, lambda api=api: api.get("/v1"))
    wait_for("all hosts to be in the cluster", 60, lambda: sum(
        host["state"] == "active" for host in apis[0].list("/v1/hosts")) >= len(hosts))

    show = Show()
    made = [apis[number % len(apis)].post("/v1/containers", {
        "imageUuid": "docker:busybox", "name": f"hello-{number + 1}", "command": "sleep", "commandArgs": ["infinity"],
    }) for number in range(count)]
    identifiers = {one["id"] for one in made}
    end = time.monotonic() + LIMIT
    while True:
        rows = sorted((row for row in apis[0].list("/v1/containers") if row["id"] in identifiers), key=lambda row: row["created"] + row["name"])
        show.rows(rows)
        if len(rows) == len(made) and all(row["state"] == "running" for row in rows):
            break
        if time.monotonic() > end or any(row["state"] == "stopped" for row in rows):
            print(f"not all are running; see: {sys.argv[0].rsplit('/', 2)[0]}/lab logs h1 stampede", file=sys.stderr)
            return 1
        time.sleep(0.1)
    seconds = time.monotonic() - show.started

    names = {host["id"]: host["name"] for host in apis[0].list("/v1/hosts")}
    print()
    print(table([("INSTANCE", "HOST", "ADDRESS", "STATE"), *(
        (f"{row['name']} ({row['id']})", names.get(row["hostId"], "?"), row["primaryIpAddress"] or "", row["state"]) for row in rows)]))
    print(f"\n{len(rows)} containers on {len({row['hostId'] for row in rows})} hosts in {seconds:.1f} s\n")
    passed = ping(lab, rows, names)
    words(lab, hosts, apis[0], key, secret, rows, names)
    return 0 if passed else 1


def ping(lab, rows, names):
    """From a container to one on another host, by its private address."""
    source = rows[0]
    target = next((row for row in rows if row["hostId"] != source["hostId"]), None)
    if target is None:
        print("all on one host: there is nobody to ping across hosts")
        return True
    print(paint(f"{source['name']} on {names[source['hostId']]} pings {target['name']} on {names[target['hostId']]}", BOLD))
    command = ["docker", "exec", container_name(source), "ping", "-c", "3", "-i", "0.2", target["primaryIpAddress"]]
    result = lab("exec", names[source["hostId"]], *command, check=False)
    print("".join(f"  {line}\n" for line in (result.stdout + result.stderr).splitlines() if line))
    return result.returncode == 0


def words(lab, hosts, api, key, secret, rows, names):
    row = rows[0]
    host = names[row["hostId"]]
    print(f"""{paint('The API', BOLD)}, the same at every host: {', '.join(f'http://{host.api_address}/v1' for host in hosts)}
  key {key}
  secret {secret}
{paint('The web UI', BOLD)}, with that key: http://{hosts[0].api_address}/

{paint('What to try next', BOLD)}
  export KEY={key}:{secret} API=http://{hosts[-1].api_address}/v1
  curl -su $KEY $API/containers | jq -r '.data[] | [.id, .name, .state, .primaryIpAddress] | @tsv'
  curl -su $KEY $API/containers -d '{{"imageUuid":"docker:busybox","command":"sleep","commandArgs":["infinity"],"count":3}}' | jq -r '.data[].id'
  curl -su $KEY -X POST "$API/containers/{row['id']}/?action=restart" | jq .state
  scripts/lab exec {host} systemctl status stampede-instance@{row['id']}
  scripts/lab kill h2 && sleep 15 && curl -su $KEY http://{hosts[0].api_address}/v1/hosts | jq -r '.data[] | [.name, .state] | @tsv'
  scripts/lab start h2
  scripts/lab exec h1 etcdctl get --prefix /stampede --keys-only
  docs/inspect.md goes on from here; scripts/quickstart --down takes it all away""")


if __name__ == "__main__":
    try:
        sys.exit(main(int(sys.argv[1])))
    except (ApiError, Unreachable, TimeoutError) as failure:
        print(f"quickstart: {failure}", file=sys.stderr)
        sys.exit(1)
