"""The pictures of docs/ui.md: each screen of the web UI in both themes, of a lab with something on it.

    STAMPEDE_LAB=NAME scripts/lab up 3 && STAMPEDE_LAB=NAME /usr/bin/python3 -B scripts/lib/pictures.py [FOLDER]
"""

import sys
from pathlib import Path

from api import ApiError
from browser import PHONE, TREE, Browser
from hosts import Lab, wait_for

SPEAKER = 'n=0; while sleep 0.4; do n=$((n+1)); echo "GET /cart/$n 200"; [ $((n%7)) = 0 ] && echo "slow: /cart/$n" >&2; done'


def fill(api):
    """A shop: what is there already is taken."""
    there = {row["name"]: row for row in api.list("/v1/containers", removed_null="")}

    def made(name, **fields):
        if name not in there:
            body = {"imageUuid": "docker:busybox", "name": name, "command": "httpd", "commandArgs": ["-f", "-p", "80"]} | fields
            there[name] = api.wait(api.post("/v1/containers", body), "running", 60)
        return there[name]["id"]

    database, standby = made("db", ports=["5432"], labels={"app": "db"}), made("db-standby", ports=["5432"], labels={"app": "db"})
    cache = made("cache", ports=["6379"], memoryLimitMb=512)
    web = made(
        "web", command="sh", commandArgs=["-c", SPEAKER], ports=["8080:80"], instanceLinks={"db": database, "cache": cache}, onHostLoss="move",
        environment={"COLOUR": "green"}, memoryLimitMb=1024, description="The shop's front")
    made("worker", instanceLinks={"db": database, "queue": None}, onHostLoss="move", memoryLimitMb=2048)
    made("reports", instanceLinks={"db": standby}, memoryLimitMb=4096)
    if "wants-gpu" not in there:
        api.post("/v1/containers", {"imageUuid": "docker:busybox", "name": "wants-gpu", "constraints": ["gpu=yes"]})
    for path, body in (
            ("/v1/subnetippools", {"networkAddress": "198.18.200.0", "cidrSize": 24, "name": "Public"}),
            ("/v1/sshkeys", {"name": "ann@laptop", "publicValue": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDOqJYyzFcTXAQ6dHCvJf7kJ7vXz0wKx0X8Q0wJ1x2Yp ann@laptop"}),
            ("/v1/accounts", {"name": "shop", "kind": "user", "quotaInstances": 20, "quotaMemoryMb": 8192})):
        try:
            if not any(row["name"] == body["name"] for row in api.list(path, removed_null="")):
                api.post(path, body)
        except ApiError as error:
            print(error)
    api.put(f"/v1/hosts/{api.list('/v1/hosts')[0]['id']}", {"labels": {"zone": "eu", "disk": "ssd"}})
    return web


def screens(api, web):
    host = min(api.list("/v1/hosts"), key=lambda row: row["name"])["id"]
    names = ["hosts", "overview", "instances", "events", "links", "networks", "floating", "mesh", "images", "ssh-keys", "api-keys", "accounts", "handlers",
             "settings", "new/container", f"hosts/{host}"]
    return {name.split("/")[0] + ("-one" if name.startswith("hosts/") else ""): name for name in names} | {
        f"instance-{tab}": f"instances/{web}/{tab}" for tab in ("summary", "network", "logs", "terminal", "figures", "history")}


def main(folder):
    lab = Lab()
    hosts = lab.hosts()
    lab.make_key("pictures")
    api = hosts[0].api()
    web = fill(api)
    folder.mkdir(parents=True, exist_ok=True)
    browser = Browser()
    for scheme in ("light", "dark"):
        person = browser.person(f"http://{hosts[0].api_address}", scheme=scheme)
        person.open()
        person.page.get_by_label("Access key").wait_for()
        person.picture(folder / f"sign-in-{scheme}.webp")
        person.sign_in(*lab.key)
        for name, path in screens(api, web).items():
            person.open(path)
            person.settled()
            if name == "events":
                # Something to be seen happening.
                row = api.container(api.list("/v1/containers", name="cache", removed_null="")[0]["id"])
                api.act(row, "restart")
                wait_for("it to be seen", 15, lambda: person.page.get_by_text("restarting").count())
            person.page.wait_for_timeout(6000 if name == "instance-figures" else 1500)
            person.picture(folder / f"{name}-{scheme}.webp")
        person.close()
    person = browser.person(f"http://{hosts[0].api_address}", size=PHONE).sign_in(*lab.key)
    person.settled()
    person.page.wait_for_timeout(500)
    person.picture(folder / "phone-light.webp")
    browser.close()
    whole = sum(file.stat().st_size for file in folder.glob("*.webp"))
    print(f"{len(list(folder.glob('*.webp')))} pictures, {whole / 1000:.0f} KB, in {folder}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else TREE / "docs/ui")
