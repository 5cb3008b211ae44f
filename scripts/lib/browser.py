"""A real browser, driven by Playwright, with what a person at the web UI does: signs in, goes to a screen, looks.

Chromium is the distribution's; Playwright (a Python package that brings no browser here) lies in target/clients, where
scripts/lib/common.sh installs it.
"""

import base64
import re
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parent.parent.parent
CHROMIUM = "/usr/bin/chromium"
AXE = TREE / "webui/node_modules/axe-core/axe.min.js"
WIDE, PHONE = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
sys.path += [str(folder) for folder in sorted((TREE / "target/clients/lib").glob("python3*/site-packages"))]

from playwright.sync_api import sync_playwright  # noqa: E402 (found only then)

# Every screen that is there without an instance.
SCREENS = ["overview", "hosts", "instances", "events", "links", "networks", "floating", "mesh", "images", "ssh-keys", "api-keys", "accounts",
           "handlers", "settings", "new/container"]
# What a server that is away or refuses makes the browser say by itself; anything else in its console is a fault of ours.
USUAL = re.compile(r"Failed to load resource: (the server responded with a status of (401|403|404|409|412|422|503)|net::ERR_)|WebSocket connection to .* failed")


class Browser:
    """Chromium; each `person` has cookies of its own. Closed with `close`."""

    def __init__(self):
        self._playwright = sync_playwright().start()
        self._chromium = self._playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

    def close(self):
        self._chromium.close()
        self._playwright.stop()

    def person(self, origin, scheme="light", size=None, **options):
        return Person(self._chromium.new_context(viewport=size or WIDE, color_scheme=scheme, ignore_https_errors=True, reduced_motion="reduce", **options), origin)


class Person:
    """Somebody at a page of the UI at one node. `faults` is what the browser complained of, `elsewhere` what was asked of others."""

    def __init__(self, context, origin):
        self.context, self.origin = context, origin
        self.faults, self.elsewhere, self.dialogs = [], [], []
        self.page = context.new_page()
        self.page.set_default_timeout(15_000)
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.faults.append(f"exception: {error}"))
        self.page.on("request", self._asked)
        self.page.on("dialog", self._dialog)

    def _heard(self, message):
        if message.type == "error" and not USUAL.search(message.text):
            self.faults.append(f"{message.type}: {message.text}")

    def _asked(self, request):
        if not request.url.startswith((self.origin, "data:", "blob:")):
            self.elsewhere.append(request.url)

    def _dialog(self, dialog):
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def open(self, path=""):
        self.page.goto(f"{self.origin}/ui/{path}")

    def sign_in(self, key, secret):
        self.open()
        self.page.get_by_label("Access key").fill(key)
        self.page.get_by_label("Secret key").fill(secret)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("heading", name="Hosts", exact=True).wait_for()
        return self

    def go(self, path):
        """To another screen, without loading the page anew, as its links do."""
        self.page.evaluate("path => { history.pushState({}, '', `/ui/${path}`); }", path)

    def settled(self):
        """Nothing is being loaded any more, and the stream is live."""
        self.page.get_by_role("banner").get_by_text("Live", exact=True).wait_for()
        # Without code of the browser's own evaluation, which the page's policy refuses.
        self.page.locator("main h1, main h2").first.wait_for()
        self.page.locator("main .mantine-Loader-root").first.wait_for(state="detached")

    def axe(self):
        """What axe finds, one line each."""
        if not self.page.evaluate("typeof axe !== 'undefined'"):
            self.page.evaluate(AXE.read_text())
        found = self.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
        return [f"{one['id']}: {one['help']}: {node['target']} {node['html'][:160]}" for one in found["violations"] for node in one["nodes"]]

    def too_wide(self):
        """By how many pixels the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")

    def picture(self, path, quality=70):
        """As WebP, which Playwright itself does not write."""
        session = self.context.new_cdp_session(self.page)
        shot = session.send("Page.captureScreenshot", {"format": "webp", "quality": quality})
        Path(path).write_bytes(base64.b64decode(shot["data"]))
        session.detach()

    def close(self):
        self.context.close()
