"""What the API answers: the contract's errors, sign-in, filters, and that a node shows at once what it wrote."""

import case
from api import Api
from case import HOSTS, LabTest
from hosts import wait_for


class SignIn(LabTest):
    def test_without_a_key_with_a_wrong_one_and_as_clients_without_keys_do(self):
        for headers in ({}, {"Authorization": "Basic eDp5"}, {"Authorization": "Basic Tm9uZTpOb25l"}, {"Authorization": "Bearer x"}):
            answer = Api(HOSTS[1].api_address).ask("GET", "/v1/containers", headers=headers)
            self.assertEqual(answer.status, 401, headers)
            self.assertIn("Basic", answer.headers["WWW-Authenticate"])
            self.assertEqual(answer.body["type"], "error")
            self.assertEqual(answer.body["status"], 401)

    def test_ping_needs_none(self):
        answer = Api(HOSTS[2].api_address).ask("GET", "/ping")
        self.assertEqual((answer.status, answer.body), (200, "pong"))

    def test_a_new_key_works_at_every_node_and_a_removed_one_at_none(self):
        made = self.api.post("/v1/apikeys", {"name": "short-lived"})
        self.assertTrue(made["secretValue"])
        self.assertNotIn(made["secretValue"], str(self.api.get(f"/v1/apikeys/{made['id']}")), "shown once only")
        nodes = [Api(host.api_address, made["publicValue"], made["secretValue"]) for host in HOSTS]
        wait_for("the key at every node", 10, lambda: all(node.ask("GET", "/v1/containers").status == 200 for node in nodes))
        self.api.delete(f"/v1/apikeys/{made['id']}")
        wait_for("the key gone at every node", 10, lambda: all(node.ask("GET", "/v1/containers").status == 401 for node in nodes))

    def test_root_on_a_host_needs_none_over_the_socket(self):
        root = Api(socket=str(HOSTS[1].path("/run/stampede/api.sock")))
        self.assertEqual(root.ask("GET", "/v1/containers").status, 200)

    def test_no_secret_lies_in_etcd(self):
        everything = HOSTS[0].out("etcdctl", "get", "--prefix", "/stampede")
        public, secret = case.LAB.key
        self.assertIn(public, everything)
        self.assertNotIn(secret, everything)


class Errors(LabTest):
    def create(self, **fields):
        return self.api.post("/v1/containers", fields)

    def test_the_contracts_errors(self):
        refused = self.refused
        refused(422, "MissingRequired", self.create, name="x", field="imageUuid")
        refused(422, "InvalidImageInstanceKind", self.create, imageUuid="cirros")
        refused(422, "InvalidFormat", self.create, imageUuid="docker:busybox", environment=7, field="environment")
        refused(422, "InvalidFormat", self.create, imageUuid="docker:busybox", count="seven", field="count")
        refused(422, "MinLimitExceeded", self.create, imageUuid="docker:busybox", count=0, field="count")
        refused(422, "InvalidOption", self.create, imageUuid="docker:busybox", instanceTriggeredStop="explode", field="instanceTriggeredStop")
        refused(422, "InvalidReference", self.create, imageUuid="docker:busybox", requestedHostId="1i1", field="requestedHostId")
        refused(422, "MaxLengthExceeded", self.create, imageUuid="docker:busybox", description="x" * 1025, field="description")
        refused(422, "NotNullable", self.create, imageUuid="docker:busybox", commandArgs=["a", None], field="commandArgs")
        refused(422, "InvalidBodyContent", self.api.call, "POST", "/v1/containers", "{rubbish")
        for path in ("/v1/containers/1i99999", "/v1/containers/42", "/v1/nothing", "/v1/containers/1h1"):
            self.assertEqual(self.api.ask("GET", path).status, 404, path)
        self.assertEqual(self.api.ask("DELETE", "/v1/containers").status, 405)
        row = self.make()
        refused(422, "ActionNotAvailable", self.api.act, row, "start")
        refused(422, "InvalidAction", self.api.act, row, "explode")

    def test_an_error_has_the_contracts_form(self):
        answer = self.api.ask("POST", "/v1/containers", {"name": "x"})
        self.assertEqual(answer.status, 422)
        self.assertLessEqual({"id", "type", "links", "actions", "status", "code", "message", "detail", "fieldName"}, set(answer.body))
        self.assertEqual(answer.body["type"], "error")

    def test_rubbish_never_is_our_fault(self):
        paths = ["/v1/containers/%00", "/v1/containers/%ff", "/v1/containers?limit=-1", "/v1/containers?limit=x", "/v1/containers?sort=nothing",
                 "/v1/containers?marker=rubbish", "/v1/containers?created_lt=yesterday", "/v1//", "/v1/containers/1i1/1i1/1i1", "/v2"]
        bodies = ["", "[]", "null", "7", '"x"', '{"imageUuid":{}}', '{"imageUuid":["docker:busybox","x"],"count":-1}', "[" * 100000, '{"name":"' + "x" * 5_000_000 + '"}']
        for path in paths:
            self.assertLess(self.api.ask("GET", path).status, 500, path)
        for body in bodies:
            self.assertIn(self.api.ask("POST", "/v1/containers", body).status, range(400, 500), body[:40])

    def test_what_clients_send_in_other_forms_is_understood(self):
        row = self.api.call("POST", "/v1/containers", '{"imageUuid":"docker:busybox","name":"forms","startOnCreate":"false","count":"1","commandArgs":"infinity","command":"sleep","id":null,"nonsense":{"a":1}}')
        self.made.append(row["id"])
        self.assertEqual((row["name"], row["commandArgs"], row["startOnCreate"] if "startOnCreate" in row else False), ("forms", ["infinity"], False))
        answer = self.api.ask("POST", "/v1/containers", "imageUuid=docker:busybox&name=form-encoded&startOnCreate=false", {"Content-Type": "application/x-www-form-urlencoded"})
        self.assertEqual(answer.status, 201, answer.body)
        self.made.append(answer.body["id"])
        whole = self.api.container(row)
        self.assertEqual(self.api.put(f"/v1/containers/{row['id']}", whole | {"description": "new"})["description"], "new")


class Reading(LabTest):
    def test_the_node_that_wrote_shows_it_at_once(self):
        for number in range(20):
            api = self.apis[number % 3]
            row = self.make(api, wait=False, startOnCreate=False, name=f"at-once-{number}")
            self.assertIn(row["id"], {one["id"] for one in api.get("/v1/containers", name=f"at-once-{number}")["data"]})
            self.assertEqual(api.put(f"/v1/containers/{row['id']}", {"description": str(number)})["description"], str(number))
            self.assertEqual([one["description"] for one in api.get("/v1/containers", name=f"at-once-{number}")["data"]], [str(number)])

    def test_filters(self):
        for name in ("red-1", "red-2", "green-1"):
            self.make(name=name, startOnCreate=False, wait=False, description=name[::-1])
        self.make(name="red-running")
        names = lambda **query: sorted(row["name"] for row in self.apis[1].get("/v1/containers", removed_null="true", **query)["data"] if row["id"] in self.made)  # noqa: E731
        wait_for("all four at another node", 10, lambda: len(names()) == 4)
        self.assertEqual(names(name="red-1"), ["red-1"])
        self.assertEqual(names(name_ne="red-1"), ["green-1", "red-2", "red-running"])
        self.assertEqual(names(name_like="red-%"), ["red-1", "red-2", "red-running"])
        self.assertEqual(names(name_notlike="red-%"), ["green-1"])
        self.assertEqual(names(name_like="red-%", state="running"), ["red-running"])
        self.assertEqual(names(description_null="true"), ["red-running"])
        self.assertEqual(names(description_notnull="true"), ["green-1", "red-1", "red-2"])
        self.assertEqual(names(hostId="rubbish"), [])
        self.assertEqual(names(unknownField="x"), ["green-1", "red-1", "red-2", "red-running"], "unknown names are ignored")

    def test_paging_goes_over_all_once(self):
        for number in range(7):
            self.make(name=f"page-{number}", startOnCreate=False, wait=False)
        seen, page = [], self.api.get("/v1/containers", limit=3, sort="name", name_like="page-%")
        while True:
            self.assertLessEqual(len(page["data"]), 3)
            seen += [row["name"] for row in page["data"] if row["id"] in self.made]
            if not page["pagination"]["next"]:
                break
            page = self.api.get(page["pagination"]["next"])
        self.assertEqual(seen, [f"page-{number}" for number in range(7)])

    def test_every_node_shows_the_same(self):
        self.make_everywhere()
        look = lambda api: {(row["id"], row["state"], row["primaryIpAddress"], row["hostId"]) for row in api.list("/v1/containers") if row["id"] in self.made}  # noqa: E731
        wait_for("the same at every node", 10, lambda: look(self.apis[0]) == look(self.apis[1]) == look(self.apis[2]))

    def test_what_there_is_says_itself(self):
        version = self.api.get("/v1")
        for collection in ("containers", "instances", "hosts", "images", "networks", "accounts", "schemas"):
            self.assertIn(collection, version["links"], collection)
            self.assertEqual(self.api.get(version["links"][collection])["type"], "collection")
        schema = self.api.get("/v1/schemas/container")
        self.assertTrue(schema["resourceFields"]["imageUuid"]["create"])
        row = self.make()
        self.assertTrue(row["links"]["self"].startswith(f"http://{HOSTS[0].api_address}/v1/containers/{row['id']}"), row["links"]["self"])
        self.assertEqual(self.api.get(row["links"]["self"])["id"], row["id"])
        self.assertEqual({"restart", "stop"} <= set(row["actions"]), True, row["actions"])
        self.assertEqual(self.api.post(row["actions"]["stop"])["state"], "stopping")
        self.assertTrue(row["created"].endswith("Z"))
        self.assertIsInstance(row["createdTS"], int)

    def test_the_schemas_header_is_on_every_answer(self):
        for path in ("/v1/containers", "/v1/nothing", "/v1/containers/1i9999"):
            self.assertIn("/v1/schemas", self.api.ask("GET", path).headers["X-API-Schemas"], path)
