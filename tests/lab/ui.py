"""The web UI, in a real browser at a real cluster: each screen, each action, and what happens when a node is lost."""

import re
import time
import unittest

import case
from api import Api
from browser import AXE, PHONE, SCREENS, Browser
from case import HOSTS, SOON, LabTest, cluster_is_whole
from hosts import TREE, at_once, wait_for

HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
PICTURES = TREE / "target/ui"
ENORMOUS = "enormous " + "name" * 60


class Ui(LabTest):
    """One browser for all; each test has somebody signed in at the first host."""

    @classmethod
    def setUpClass(cls):
        if not AXE.exists():
            raise AssertionError("the UI's packages are not there: scripts/webui brings them")
        cls.browser = Browser()
        cls.addClassCleanup(cls.browser.close)

    def setUp(self):
        super().setUp()
        self.people = []
        self.ann = self.person().sign_in(*case.LAB.key)
        self.page = self.ann.page

    def tearDown(self):
        faults = [fault for person in self.people for fault in person.faults]
        elsewhere = [address for person in self.people for address in person.elsewhere]
        dialogs = [dialog for person in self.people for dialog in person.dialogs]
        for person in self.people:
            person.close()
        super().tearDown()
        self.assertEqual((faults, elsewhere, dialogs), ([], [], []))

    def _callTestMethod(self, method):
        """What was to be seen when a test failed is kept as pictures."""
        try:
            method()
        except Exception:
            PICTURES.mkdir(parents=True, exist_ok=True)
            for number, person in enumerate(self.people):
                person.page.screenshot(path=str(PICTURES / f"{self._testMethodName}-{number}.png"))
            print(f"       what was to be seen: {PICTURES}/{self._testMethodName}-*.png", flush=True)
            raise

    def person(self, host=0, **options):
        person = self.browser.person(f"http://{HOSTS[host].api_address}", **options)
        self.people.append(person)
        return person

    def button(self, name, exact=True, page=None):
        return (page or self.page).get_by_role("button", name=name, exact=exact)

    def field(self, name, page=None):
        """A form's, by its name in the schema."""
        return (page or self.page).locator(f"[data-field={name}]")

    def state(self, row, state, limit=SOON):
        """The API's own word, at another host than the page's."""
        return wait_for(f"{row['id']} {state}", limit, lambda: self.apis[1].container(row["id"])["state"] == state)

    def named(self, collection, name):
        return next(one for one in self.api.list(f"/v1/{collection}", removed_null="") if one["name"] == name)

    def no_pool(self, network):
        """Purges the pool of that network with all that is acquired of it."""
        def step():
            pools = [one for one in self.api.list("/v1/subnetippools") if one["networkAddress"] == network and one["state"] != "purged"]
            for pool in pools:
                for address in self.api.list("/v1/ipaddresses", ipPoolId=pool["id"]):
                    possible = next((action for action in ("purge", "remove", "disassociate") if action in address["actions"]), None)
                    if possible:
                        self.api.ask("POST", address["actions"][possible], {})
                if "purge" in pool["actions"]:
                    self.api.ask("POST", pool["actions"]["purge"], {})
                else:
                    self.api.ask("DELETE", f"/v1/subnetippools/{pool['id']}")
            return not pools

        wait_for("the pool to go", 30, step, every=0.3)

    def card(self, host):
        return self.page.get_by_role("article", name=host.name, exact=True)

    def seen(self, locator, text, limit=SOON):
        """Whether the page shows it in time."""
        wait_for(f"the page shows {text}", limit, lambda: text in (locator.text_content() or ""), every=0.02)


class SignIn(Ui):
    def test_a_wrong_key_the_right_one_and_the_end(self):
        bob = self.person()
        bob.open("instances")
        page = bob.page
        page.get_by_label("Access key").fill(case.LAB.key[0])
        page.get_by_label("Secret key").fill("wrong")
        self.button("Sign in", page=page).click()
        page.get_by_role("alert").get_by_text("does not open").wait_for()
        page.get_by_label("Secret key").fill(case.LAB.key[1])
        # Failed ones are slowed down.
        wait_for("the sign-in", 30, lambda: self.tried(page), every=0.5)
        # On the screen that was asked for.
        page.get_by_role("heading", name="Instances").wait_for()

        kept = page.evaluate("JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href])")
        self.assertNotIn(case.LAB.key[1], kept)
        self.assertNotIn(case.LAB.key[0], kept)
        self.assertNotIn("stampede=", kept, "scripts cannot read the session")

        # A session is over everywhere when it is ended at one node: of this one the cookie is used by hand.
        cookie = next(one for one in bob.context.cookies() if one["name"] == "stampede")
        csrf = next(one for one in bob.context.cookies() if one["name"] == "CSRF")
        nobody = Api(HOSTS[2].api_address)
        headers = {"Cookie": f"stampede={cookie['value']}; CSRF={csrf['value']}", "X-API-CSRF": csrf["value"]}
        self.assertEqual(nobody.ask("GET", "/session", headers=headers).body["role"], "admin")
        self.assertEqual(nobody.ask("DELETE", "/session", headers=headers).status, 204)
        page.get_by_role("link", name="Images").click()
        page.get_by_text("Your session is over").wait_for()
        self.assertEqual(page.get_by_role("table").count(), 0)
        page.get_by_label("Access key").fill(case.LAB.key[0])
        page.get_by_label("Secret key").fill(case.LAB.key[1])
        self.button("Sign in", page=page).click()
        page.get_by_role("heading", name="Images").wait_for()
        bob.settled()

    def tried(self, page):
        if page.get_by_role("heading", name="Instances").count():
            return True
        if self.button("Sign in", page=page).is_enabled():
            self.button("Sign in", page=page).click()
        return False

    def test_signing_out_leaves_nothing_to_be_seen(self):
        self.button("Account").click()
        self.page.get_by_role("menuitem", name="Sign out").click()
        self.page.get_by_label("Access key").wait_for()
        self.page.go_back()
        self.page.wait_for_timeout(300)
        self.assertEqual(self.page.get_by_role("article").count(), 0)

    def test_by_keyboard_alone(self):
        bob = self.person(host=1)
        bob.open("hosts")
        page = bob.page
        page.get_by_label("Access key").wait_for()
        page.keyboard.type(case.LAB.key[0])
        page.keyboard.press("Tab")
        page.keyboard.type(case.LAB.key[1])
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Hosts", exact=True).wait_for()
        page.keyboard.press("/")
        page.get_by_label("An instance, a host, a screen").wait_for()
        page.keyboard.type("float")
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Floating addresses").wait_for()

    def test_what_an_account_may_not_is_not_offered(self):
        account = self.api.post("/v1/accounts", {"name": "readers", "kind": "user"})
        key = self.api.post("/v1/apikeys", {"accountId": account["id"]})
        self.addCleanup(lambda: self.api.delete(f"/v1/accounts/{account['id']}"))
        row = self.make(name="not-theirs")
        bob = self.person().sign_in(key["publicValue"], key["secretValue"])
        bob.page.get_by_role("link", name="Instances").click()
        bob.page.get_by_text("No instances yet").wait_for()
        bob.open(f"instances/{row['id']}")
        bob.page.get_by_text("There is no such instance").wait_for()
        bob.open("settings")
        bob.page.get_by_role("heading", name="Settings").wait_for()
        self.assertEqual(bob.page.get_by_text("Join tokens").count(), 0)


class Screens(Ui):
    def screens(self):
        target = self.make(name="db", ports=["5432"], command="httpd", commandArgs=["-f", "-p", "5432"])
        row = self.make(name="web", ports=["80"], instanceLinks={"db": target["id"]}, description="Of the shop")
        self.make(name=HOSTILE, wait=False)
        self.make(name=ENORMOUS, description=ENORMOUS, wait=False)
        names = ["summary", "network", "logs", "terminal", "figures", "history"]
        return [*SCREENS, f"hosts/{self.host_id(HOSTS[0])}", *(f"instances/{row['id']}/{name}" for name in names)]

    def test_axe_finds_nothing_and_the_policy_holds(self):
        screens = self.screens()
        found = []
        for scheme in ("light", "dark"):
            person = self.ann if scheme == "light" else self.person(scheme=scheme).sign_in(*case.LAB.key)
            for screen in screens:
                person.go(screen)
                person.settled()
                person.page.wait_for_timeout(200)
                found += [f"{scheme} {screen}: {one}" for one in person.axe()]
        self.assertEqual(found, [])

    def test_nothing_is_wider_than_a_phone(self):
        bob = self.person(size=PHONE).sign_in(*case.LAB.key)
        wide = []
        for screen in self.screens():
            bob.go(screen)
            bob.settled()
            bob.page.wait_for_timeout(150)
            if bob.too_wide() > 0:
                wide.append(f"{screen}: {bob.too_wide()} px")
        self.assertEqual(wide, [])
        self.button("Open the menu", page=bob.page).first.click()
        bob.page.get_by_role("link", name="Overview", exact=True).click()
        bob.page.get_by_role("heading", name="Overview").wait_for()

    def test_names_are_text_whatever_they_hold(self):
        row = self.make(name=HOSTILE, description=HOSTILE)
        for screen in ("hosts", "instances", "overview", "events", f"instances/{row['id']}", "links"):
            self.ann.open(screen)
            self.ann.settled()
            self.page.wait_for_timeout(200)
        self.ann.open("instances")
        self.page.get_by_role("link", name=HOSTILE, exact=True).wait_for()
        self.assertEqual(self.page.locator("img[src=x]").count(), 0)

    def test_the_page_itself(self):
        answer = Api(HOSTS[0].api_address).ask("GET", "/ui/hosts", headers={"Accept": "text/html"})
        policy = answer.headers["Content-Security-Policy"]
        self.assertNotIn("unsafe", policy)
        self.assertIn("default-src 'none'", policy)
        self.assertEqual((answer.status, answer.headers["Cache-Control"]), (200, "no-store"))
        self.assertEqual(Api(HOSTS[0].api_address).ask("GET", "/ui/assets/nothing.js").status, 404)
        again = Api(HOSTS[0].api_address).ask("GET", "/ui/hosts", headers={"Accept": "text/html"})
        self.assertNotEqual(policy, again.headers["Content-Security-Policy"], "a nonce is used once")


class Alive(Ui):
    def test_what_changes_elsewhere_shows_within_a_second(self):
        row = self.make(api=self.apis[1], name="watched")
        unit = self.page.get_by_role("listitem").filter(has_text="watched")
        unit.wait_for()
        self.page.evaluate("window.unchanged = true")
        slowest = 0
        for action, state in (("stop", "stopped"), ("start", "running"), ("stop", "stopped")):
            self.apis[2].act(self.apis[2].container(row["id"]), action)
            self.apis[1].wait(row, state)
            begun = time.monotonic()
            self.seen(unit, state)
            slowest = max(slowest, time.monotonic() - begun)
        self.assertLess(slowest, 1)
        self.assertTrue(self.page.evaluate("window.unchanged"), "the page was loaded anew")
        print(f"       a change was seen {slowest * 1000:.0f} ms after another host's API had it, at the latest", flush=True)

    def test_a_node_is_lost_and_the_page_goes_on(self):
        row = self.make(name="meanwhile", requestedHostId=self.host_id(HOSTS[1]))
        unit = self.page.get_by_role("listitem").filter(has_text="meanwhile")
        unit.wait_for()
        self.page.evaluate("window.unchanged = true")
        HOSTS[0].run("systemctl", "stop", "stampede.service")
        banner = self.page.get_by_role("alert").filter(has_text="Connection lost")
        banner.wait_for()
        other = banner.get_by_role("link", name=HOSTS[1].name, exact=True)
        self.assertEqual(other.get_attribute("href"), f"http://{HOSTS[1].api_address}/ui/hosts")
        self.apis[1].act(self.apis[1].container(row["id"]), "stop")
        self.state(row, "stopped")
        HOSTS[0].run("systemctl", "start", "stampede.service")
        self.seen(unit, "stopped", 30)
        banner.wait_for(state="detached")
        self.assertTrue(self.page.evaluate("window.unchanged"))

    def test_a_cable_is_pulled(self):
        """Nothing says that the connection is gone: the silence does."""
        try:
            case.LAB("cut", HOSTS[0].name)
            self.page.get_by_role("alert").filter(has_text="Connection lost").wait_for(timeout=25_000)
        finally:
            case.LAB("heal", HOSTS[0].name)
        self.page.get_by_role("banner").get_by_text("Live", exact=True).wait_for(timeout=60_000)
        cluster_is_whole()

    def test_the_store_is_away(self):
        row = self.make(name="kept")
        unit = self.page.get_by_role("listitem").filter(has_text="kept")
        unit.wait_for()
        try:
            at_once(lambda host: host.run("systemctl", "stop", "etcd.service"), HOSTS)
            self.page.get_by_role("alert").filter(has_text="store cannot be reached").wait_for(timeout=40_000)
            self.button("Stop: kept").click()
            self.page.get_by_text("That did not work").wait_for(timeout=40_000)
        finally:
            at_once(lambda host: host.run("systemctl", "start", "etcd.service", timeout=60), HOSTS)
        self.page.get_by_role("alert").filter(has_text="store cannot be reached").wait_for(state="detached", timeout=60_000)
        cluster_is_whole()
        self.assertEqual(self.api.container(row["id"])["state"], "running")
        self.seen(unit, "running", 30)

    def test_two_people(self):
        row = self.make(name="shared")
        bob = self.person(host=1).sign_in(*case.LAB.key)
        for person in (self.ann, bob):
            person.open(f"instances/{row['id']}")
            self.button("Edit", page=person.page).click()
        self.field("description").fill("as Ann says")
        self.button("Save").click()
        self.page.get_by_text("as Ann says").first.wait_for()
        # What Bob does not change is not put back to what it was when he began.
        self.field("name", bob.page).fill("of both")
        self.button("Save", page=bob.page).click()
        for person in (self.ann, bob):
            person.page.get_by_role("heading", name="of both").wait_for()
            person.page.get_by_text("as Ann says").first.wait_for()

    def test_a_slow_network(self):
        bob = self.person()
        session = bob.context.new_cdp_session(bob.page)
        session.send("Network.enable")
        session.send("Network.emulateNetworkConditions", {"offline": False, "latency": 400, "downloadThroughput": 100_000, "uploadThroughput": 50_000})
        bob.page.set_default_timeout(30_000)
        bob.sign_in(*case.LAB.key)
        bob.settled()


class Acts(Ui):
    def test_a_container_from_the_form_to_its_end(self):
        target = self.make(name="target", command="httpd", commandArgs=["-f", "-p", "80"], ports=["80"])
        self.card(HOSTS[1]).get_by_role("link", name="Add a container").click()
        self.field("imageUuid").fill("busybox")
        self.page.keyboard.press("Escape")
        self.field("name").fill("made by hand")
        self.field("command").fill("sleep")
        self.field("commandArgs").fill("infinity")
        self.page.keyboard.press("Enter")
        self.field("ports").fill("8099:80")
        self.page.keyboard.press("Enter")
        self.button("Add a link").click()
        self.page.get_by_label("Link", exact=True).fill("backend")
        self.page.get_by_label("Leads to", exact=True).first.click()
        self.page.get_by_role("option", name=f"target ({target['id']})").click()
        self.page.get_by_text(f"would likely go to {HOSTS[1].name}").wait_for()
        self.button("Create").click()
        self.page.get_by_role("heading", name="made by hand").wait_for()
        identifier = self.page.url.rsplit("/", 1)[1]
        self.made.append(identifier)
        row = self.api.wait({"id": identifier, **self.api.container(identifier)}, "running")
        self.assertEqual(row["hostId"], self.host_id(HOSTS[1]))
        self.assertEqual((row["command"], row["commandArgs"]), ("sleep", ["infinity"]))

        # Its port moves while it runs.
        self.page.get_by_role("tab", name="Ports and links").click()
        self.page.get_by_role("cell", name="8099", exact=True).wait_for()
        self.page.get_by_text("backend").wait_for()
        self.button("Move: 8099").click()
        self.page.get_by_label("Public port").fill("8098")
        self.button("Move").click()
        self.page.get_by_role("cell", name="8098", exact=True).wait_for()
        self.assertEqual([port["publicPort"] for port in self.api.list(f"/v1/containers/{identifier}/ports")], [8098])

        # Stopped, and the stop undone.
        self.button("Stop: made by hand").click()
        self.state(row, "stopped", 30)
        self.button("Undo").first.click()
        self.state(row, "running", 30)

        # Removed, and restored; then gone for good, by its name.
        self.button("More actions: made by hand").click()
        self.page.get_by_role("menuitem", name="Remove").click()
        self.page.get_by_role("dialog").get_by_role("button", name="Remove").click()
        self.state(row, "removed", 30)
        self.button("Restore: made by hand").click()
        self.state(row, "stopped", 30)
        self.button("More actions: made by hand").click()
        self.page.get_by_role("menuitem", name="Remove").click()
        self.page.get_by_role("dialog").get_by_role("button", name="Remove").click()
        self.state(row, "removed", 30)
        self.button("More actions: made by hand").click()
        self.page.get_by_role("menuitem", name="Purge").click()
        dialog = self.page.get_by_role("dialog")
        self.assertTrue(dialog.get_by_role("button", name="Purge").is_disabled())
        dialog.get_by_label("Name", exact=True).fill("made by hand")
        dialog.get_by_role("button", name="Purge").click()
        wait_for("it to be purged", SOON, lambda: self.api.container(identifier)["state"] == "purged")

    def test_what_the_server_refuses_is_said_at_its_field(self):
        self.ann.open("new/container")
        self.button("Create").click()
        self.page.get_by_text("This is needed.").wait_for()
        self.field("imageUuid").fill("busybox")
        self.page.keyboard.press("Escape")
        self.field("ports").fill("99999:80")
        self.page.keyboard.press("Enter")
        self.button("Create").click()
        field = self.page.locator(".mantine-InputWrapper-root").filter(has=self.field("ports"))
        field.locator(".mantine-InputWrapper-error").wait_for()

    def test_many_at_once(self):
        rows = [self.make(name=f"herd-{number}", wait=False) for number in range(5)]
        for row in rows:
            self.api.wait(row, "running")
        self.page.get_by_role("link", name="Instances").click()
        self.page.get_by_label("Search").fill("herd -herd-3")
        self.page.get_by_text("4 of").wait_for()
        self.page.get_by_label("Select all that are shown").check()
        self.button("Stop (4)").click()
        self.page.get_by_role("dialog").get_by_role("button", name="Stop").click()
        for row in rows:
            self.state(row, "running" if row["name"] == "herd-3" else "stopped", 30)

    def test_links_are_led_elsewhere_by_dragging_and_by_choosing(self):
        first, second = (self.make(name=name, command="httpd", commandArgs=["-f", "-p", "80"], ports=["80"]) for name in ("first", "second"))
        source = self.make(name="source", instanceLinks={"backend": first["id"], "spare": second["id"]})
        link = next(one for one in self.api.list(f"/v1/containers/{source['id']}/instancelinks") if one["linkName"] == "backend")
        leads_to = lambda: self.apis[1].get(f"/v1/instancelinks/{link['id']}")["targetInstanceId"]  # noqa: E731
        self.page.get_by_role("link", name="Links", exact=True).click()
        grip = self.page.locator("circle[data-link=backend]")
        grip.wait_for()
        self.page.wait_for_timeout(300)
        grip.hover()
        self.page.mouse.down()
        box = self.page.locator("g").filter(has=self.page.locator("title", has_text=f"second ({second['id']})")).last.bounding_box()
        self.page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=8)
        self.page.mouse.up()
        wait_for("the link to lead there", SOON, lambda: leads_to() == second["id"])
        # And by the table, to nobody.
        self.page.get_by_label("Leads to: backend").first.wait_for()
        self.page.get_by_label("Leads to: backend").first.click()
        self.page.get_by_role("option", name="nobody").click()
        wait_for("the link to lead to nobody", SOON, lambda: leads_to() is None)

    def test_a_host_is_cordoned_labelled_drained_and_back(self):
        host = HOSTS[2]
        moving = self.make(name="moving", onHostLoss="move", constraints=[f"name~={host.name}"])
        self.assertEqual(moving["hostId"], self.host_id(host))
        staying = self.make(name="staying", requestedHostId=self.host_id(host))
        menu = self.card(host).get_by_role("button", name=f"Actions: {host.name}")
        read = lambda: self.apis[1].get(f"/v1/hosts/{self.host_id(host)}")  # noqa: E731
        self.addCleanup(lambda: read()["state"] == "active" or self.api.post(read()["actions"]["activate"]))

        menu.click()
        self.page.get_by_role("menuitem", name="Labels").click()
        before = read().get("labels") or {}
        self.addCleanup(lambda: self.api.put(f"/v1/hosts/{self.host_id(host)}", {"labels": before}))
        self.button("Add: Labels").click()
        self.page.get_by_label("Labels: Name").last.fill("shelf")
        self.page.get_by_label("Labels: Value").last.fill("7")
        self.button("Save").click()
        self.card(host).get_by_text("shelf=7").wait_for()

        menu.click()
        self.page.get_by_role("menuitem", name="Cordon").click()
        self.card(host).get_by_text("inactive").wait_for()
        self.assertEqual(self.card(host).get_by_role("link", name="Add a container").count(), 0)
        menu.click()
        self.page.get_by_role("menuitem", name="Activate").click()
        self.card(host).get_by_text("active", exact=True).first.wait_for()

        menu.click()
        self.page.get_by_role("menuitem", name="Drain").click()
        self.page.get_by_role("dialog").get_by_role("button", name="Drain").click()
        wait_for("it to be drained", 60, lambda: read()["state"] == "inactive" and self.apis[1].container(moving["id"])["state"] == "running")
        self.assertNotEqual(self.apis[1].container(moving["id"])["hostId"], self.host_id(host))
        self.assertEqual(self.apis[1].container(staying["id"])["hostId"], self.host_id(host))
        self.card(host).get_by_text("inactive").wait_for()
        self.assertEqual(self.card(host).get_by_text("moving", exact=True).count(), 0)
        menu.click()
        self.page.get_by_role("menuitem", name="Activate").click()
        wait_for("it to be back", SOON, lambda: read()["state"] == "active")

    def test_keys_accounts_pools_and_floating_addresses(self):
        team = f"team {time.time_ns()}"
        self.ann.open("accounts")
        self.button("New account").click()
        self.field("name").fill(team)
        self.field("kind").fill("user")
        self.field("quotaInstances").fill("3")
        self.button("Create").click()
        self.page.get_by_role("row").filter(has_text=team).get_by_text("0 of 3").wait_for()
        account = self.named("accounts", team)
        self.assertEqual((account["kind"], account["quotaInstances"]), ("user", 3))
        self.addCleanup(lambda: self.api.delete(f"/v1/accounts/{account['id']}"))

        self.page.get_by_role("link", name="API keys").click()
        self.button("New key").click()
        self.field("name").fill(f"of {team}")
        self.field("accountId").click()
        self.page.get_by_role("option", name=team).click()
        self.button("Create").click()
        secret = self.page.get_by_test_id("secret").text_content().strip()
        key = self.named("apikeys", f"of {team}")
        theirs = Api(HOSTS[1].api_address, key["publicValue"], secret)
        wait_for("the key to open", SOON, lambda: [one["id"] for one in theirs.list("/v1/accounts")] == [account["id"]])
        self.page.get_by_role("dialog").get_by_role("button", name="Close").last.click()
        self.assertEqual(self.page.get_by_text(secret).count(), 0, "it is shown once")

        self.addCleanup(self.no_pool, "198.18.201.0")
        row = self.make(name="floats")
        self.page.get_by_role("link", name="Floating addresses").click()
        self.button("New pool").click()
        self.field("name").fill("of the UI")
        self.field("networkAddress").fill("198.18.201.0")
        self.field("cidrSize").fill("24")
        self.button("Create").click()
        self.page.get_by_text("198.18.201.0/24").wait_for()
        self.page.locator("tr").filter(has_text="198.18.201.0/24").get_by_role("button", name="Acquire").click()
        # The pool's row has such addresses too: its gateway's.
        acquired = self.page.locator("tr").filter(has=self.button("Lead to an instance"))
        cell = acquired.get_by_role("cell", name=re.compile(r"^198\.18\.201\.\d+$"))
        cell.first.wait_for()
        address = cell.first.text_content()
        self.button("Lead to an instance").click()
        self.page.get_by_role("dialog").get_by_label("Lead to an instance").first.click()
        self.page.get_by_role("option", name="floats").click()
        self.button("Lead there").click()
        self.page.get_by_role("link", name="floats").wait_for()
        self.page.get_by_text("associated").wait_for()
        self.assertEqual(self.api.container(row["id"])["primaryAssociatedIpAddress"], address)


class Consoles(Ui):
    def test_a_terminal_echoes_and_takes_its_size(self):
        row = self.make(name="shell", requestedHostId=self.host_id(HOSTS[1]))
        self.ann.open(f"instances/{row['id']}/terminal")
        screen = self.page.locator(".xterm-rows")
        self.seen(screen, "#")
        self.page.locator(".xterm-helper-textarea").focus()
        self.page.keyboard.type("echo $((6*7)) of $(hostname); stty size")
        self.page.keyboard.press("Enter")
        self.seen(screen, f"42 of {self.api.container(row['id'])['hostname'] or ''}".strip())
        self.page.keyboard.type("exit 3")
        self.page.keyboard.press("Enter")
        self.seen(screen, "exit code 3")

    def test_output_that_would_steer_a_terminal_is_text(self):
        words = "printf '\\033]0;title\\007\\033[31mred\\033[0m \\033[2J<b>bold</b>\\n'; echo wrong >&2; exec sleep infinity"
        row = self.make(name="hostile", command="sh", commandArgs=["-c", words], requestedHostId=self.host_id(HOSTS[2]))
        self.ann.open(f"instances/{row['id']}/logs")
        log = self.page.get_by_role("log")
        self.seen(log, "red <b>bold</b>")
        self.seen(log, "wrong")
        self.assertEqual((log.locator("b").count(), log.locator(".error-line").count()), (0, 1))
        self.assertIn("hostile", self.page.title())
        self.api.act(row, "stop")
        self.seen(log, "End of the output")

    def test_figures_come_each_second(self):
        row = self.make(name="busy", command="sh", commandArgs=["-c", "while :; do ping -c1 -w1 10.42.0.1; done"])
        self.ann.open(f"instances/{row['id']}/figures")
        self.page.get_by_role("img", name="Received").wait_for()
        drawn = lambda: self.page.locator("svg.graph path").first.get_attribute("d")  # noqa: E731
        before = drawn()
        wait_for("the graph to move", SOON, lambda: drawn() != before)


if __name__ == "__main__":
    unittest.main()
