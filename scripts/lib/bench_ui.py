"""Size of the web UI, and how soon it can be used: `scripts/bench ui`.

On one agent with simulated hosts and instances, on this machine; the browser is on it too. Figures with the limits that we
set ourselves.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from api import Api, Unreachable
from browser import TREE, Browser
from hosts import wait_for

ADDRESS = "127.0.0.1:19181"
ROUNDS = 7
# What a person can do something with: the first card with its buttons.
READY = "article.host-card .tool"
SCROLL = """async () => {
  const list = document.querySelector('.grid-scroll');
  const step = list.scrollHeight / 300, frames = [];
  let last = performance.now();
  for (let frame = 0; frame < 300; frame++) {
    list.scrollTop += step;
    await new Promise((done) => requestAnimationFrame(done));
    const now = performance.now();
    frames.push(now - last);
    last = now;
  }
  frames.sort((a, b) => a - b);
  return [frames[150], frames[285], frames[299]];
}"""


def sizes():
    assets = TREE / "webui/dist/ui/assets"
    page = (TREE / "webui/dist/ui/index.html").read_text()
    first = [file for file in assets.glob("*.gz") if file.name.removesuffix(".gz") in page]
    whole = sum(file.stat().st_size for file in assets.glob("*.gz"))
    return sum(file.stat().st_size for file in first), whole


def interactive(browser, path, ready):
    """Seconds from asking for the page, with nothing kept from before, until it can be used."""
    person = browser.person(f"http://{ADDRESS}")
    begun = time.monotonic()
    person.open(path)
    person.page.locator(ready).first.wait_for()
    took = time.monotonic() - begun
    person.close()
    return took


def figures(binary, instances):
    first, whole = sizes()
    print(f"first load        {first / 1000:7.1f} KB packed (limit: 300); everything, consoles too: {whole / 1000:.1f} KB")
    with tempfile.TemporaryDirectory() as folder:
        agent = subprocess.Popen(
            [binary, "up", "--name", "bench", "--allow-simulated", "--no-network", "--no-auth", "--api-address", ADDRESS,
             "--state-directory", f"{folder}/state", "--run-directory", f"{folder}/run"],
            stdout=Path(f"{folder}/log").open("w"), stderr=subprocess.STDOUT)
        browser = Browser()
        try:
            measure(browser, Api(ADDRESS, timeout=60), instances)
        finally:
            browser.close()
            agent.terminate()
            agent.wait(20)


def measure(browser, api, instances):
    def answers():
        try:
            return api.ask("GET", "/v1/hosts").status == 200
        except Unreachable:
            return False

    wait_for("the agent", 30, answers)
    for number in range(5):
        api.post("/v1/agents", {"uri": f"sim://s{number}"})
    api.post("/v1/containers?wait=running", {"imageUuid": "sim:web", "networkIds": ["1n1"], "name": "web", "count": 20})
    interactive(browser, "hosts", READY)
    few = sorted(interactive(browser, "hosts", READY) for _ in range(ROUNDS))
    print(f"interactive       {statistics.median(few):7.2f} s with 20 instances ({few[0]:.2f} to {few[-1]:.2f}; limit: 1)")

    for number in range(instances // 100):
        api.post("/v1/containers", {"imageUuid": "sim:web", "networkIds": ["1n1"], "name": f"herd-{number}", "count": 100})
    wait_for("all to run", 60, lambda: not api.get("/v1/containers", state_ne="running", limit=1)["data"], every=0.5)
    listed = ".grid-body .grid-row a"
    many = sorted(interactive(browser, "instances", listed) for _ in range(3))
    print(f"list of {instances:6,}    {statistics.median(many):7.2f} s until it can be used ({many[0]:.2f} to {many[-1]:.2f})")

    person = browser.person(f"http://{ADDRESS}")
    person.open("instances")
    person.page.locator(listed).first.wait_for()
    middle, slow, worst = person.page.evaluate(SCROLL)
    print(f"scrolling         {middle:7.1f} ms a frame, all rows of it new (95 %: {slow:.1f}, worst: {worst:.1f})")
    row = api.list("/v1/containers", name="web")[0]
    person.page.get_by_label("Search").fill("name:web")
    person.page.get_by_role("row").nth(2).wait_for()
    api.post(api.get(f"/v1/containers/{row['id']}")["actions"]["stop"])
    begun = time.monotonic()
    person.page.get_by_role("row").filter(has_text=row["id"]).get_by_text("stopped").first.wait_for()
    print(f"a change is seen  {(time.monotonic() - begun) * 1000:7.0f} ms after the answer, in the list of {instances:,}")


if __name__ == "__main__":
    figures(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 5000)
