// The page: what the answer holds in the middle, all types beside it, below what was asked for and how.

import { ask, changed, complaint, curl, local } from "./client.js";
import { collection } from "./collection.js";
import { button, folded, make } from "./element.js";
import { resource, title } from "./resource.js";
import { allSchemas, json, learn, link, schemaOf, trail } from "./value.js";

/** How often something on its way is looked at, in milliseconds, and how long. */
const PERIOD = 1000;
const LONGEST = 120;

const here = location.pathname + location.search;
const said = make("div", { className: "said", role: "status", "aria-live": "polite" });
const history = make("ol", { className: "history" });
const main = make("main", { id: "main", tabIndex: -1 });
let data = window.data;

start();

async function start() {
  if (data?.status === 401 && data.type === "error") {
    // A link from another site brings no session along; the page itself may use it.
    const again = await ask("GET", here);
    if (!again.ok) return signIn();
    data = again.data;
    window.user = null;
  }
  const schemas = await ask("GET", window.schemas);
  learn(schemas.data?.data ?? []);
  frame();
  render();
  note("GET", here);
  follow();
}

function frame() {
  const leave = button("Sign out", async () => {
    const answer = await ask("DELETE", "/session");
    if (answer.ok) location.reload();
    else tell(complaint(answer), true);
  }, "quiet");
  document.body.replaceChildren(
    make("a", { className: "skip", href: "#main" }, "To the content"),
    make("header", { className: "top" },
      make("a", { className: "brand", href: "/v1" }, "Stampede"), make("span", { className: "what" }, "API"),
      make("nav", { "aria-label": "The way here" }, make("ol", {}, trail())),
      window.user && make("span", { className: "who" }, window.user), leave),
    make("div", { className: "body" }, types(), main),
    make("footer", { className: "bottom" }, make("h2", {}, "As curl"), history));
}

/** All lists, to be found by a part of their name. */
function types() {
  const lists = allSchemas().filter((schema) => schema.links?.collection && schema.id !== "collection")
    .sort((one, other) => one.pluralName.localeCompare(other.pluralName));
  const current = local(location.pathname).split("/")[2];
  const items = lists.map((schema) => {
    const address = local(schema.links.collection);
    const anchor = link(address, schema.pluralName);
    if (address.split("/")[2] === current) anchor.setAttribute("aria-current", "true");
    return make("li", {}, anchor);
  });
  const search = make("input", { type: "search", placeholder: "Types ( / )", "aria-label": "Find a type", oninput: () => {
    items.forEach((item) => { item.hidden = !item.textContent.toLowerCase().includes(search.value.toLowerCase()); });
  } });
  document.addEventListener("keydown", (event) => {
    const writing = event.target.closest?.("input, textarea, select, dialog");
    if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      search.focus();
    }
  });
  return make("nav", { className: "types", "aria-label": "Types" }, search, make("ul", {}, items));
}

function render() {
  const list = data?.type === "collection";
  const failed = data?.type === "error";
  const heading = list ? schemaOf(data.resourceType)?.pluralName ?? data.resourceType : failed ? `${data.status} ${data.code}` : title(data ?? {}) || location.pathname;
  document.title = `${heading} – Stampede API`;
  main.replaceChildren(...[
    make("div", { className: "bar head" }, make("h1", {}, heading), button("Refresh", refresh, "quiet")),
    said,
    ...(failed ? error(data) : list ? collection(data, act) : known(data) ? resource(data, act) : [json(data)]),
    folded("JSON", json(data)),
  ].filter(Boolean));
}

function known(value) {
  return value !== null && typeof value === "object" && typeof value.type === "string" && "links" in value;
}

function error({ message, detail, fieldName, id }) {
  const lines = [message, detail, fieldName && `Field: ${fieldName}`].filter(Boolean);
  return [
    make("div", { className: "trouble" }, lines.map((line) => make("p", {}, line))),
    make("p", { className: "nothing" }, `Request ${id}`),
  ];
}

/** Does something, says what came of it and how to do it with curl, and shows how things are then. */
async function act(method, address, body) {
  note(method, address, body);
  const answer = await ask(method, address, body);
  if (answer.status === 401) {
    signIn("Your session is over. Sign in, and do it again.");
    return answer;
  }
  if (!answer.ok) {
    // A form says it beside the field.
    if (!document.querySelector("dialog")) tell(complaint(answer), true);
    return answer;
  }
  const made = answer.data;
  if (data.type === "collection" || made?.type === "collection") await refresh();
  else if (made?.id === data.id) {
    data = made;
    render();
  }
  outcome(method, made);
  follow();
  return answer;
}

function outcome(method, made) {
  const word = { POST: "Done", PUT: "Saved", DELETE: made?.removed ? "Deleted" : "Being deleted" }[method];
  const many = made?.type === "collection" ? made.data ?? [] : made?.id && made.links?.self ? [made] : [];
  tell([`${word}: `, many.map((row, at) => [at > 0 && ", ", link(row.links.self, title(row))])].flat(3), false);
  // An API key's secret is told this once.
  if (made?.secretValue) said.append(make("p", {}, "The secret, shown this once: ", make("code", {}, made.secretValue)));
}

function tell(what, bad) {
  said.replaceChildren(make("p", { className: bad ? "trouble" : "well" }, ...[what].flat().filter(Boolean)));
}

async function refresh() {
  const answer = await ask("GET", here);
  if (answer.status === 401) return signIn("Your session is over.");
  if (answer.ok) data = answer.data;
  else if (answer.status === 404) data = answer.data;
  render();
  if (!answer.ok) tell(complaint(answer), true);
  else if (answer.stale !== null) tell(`The cluster's store does not answer: this is what was known ${answer.stale} s ago.`, true);
}

let following = false;

/** Looks again while something that is shown is on its way, and the reader does nothing that it would disturb. */
async function follow() {
  if (following) return;
  following = true;
  const moves = () => [data, ...(Array.isArray(data?.data) ? data.data : [])].some((row) => row?.transitioning === "yes");
  for (let looked = 0; looked < LONGEST && moves(); looked += 1) {
    await new Promise((resolve) => setTimeout(resolve, PERIOD));
    const busy = document.hidden || document.querySelector("dialog, details[open], main :is(input, select):focus");
    if (busy) continue;
    const answer = await ask("GET", here);
    if (!answer.ok) break;
    if (JSON.stringify(answer.data) === JSON.stringify(data)) continue;
    const focused = [...main.querySelectorAll("a, button")].indexOf(document.activeElement);
    data = answer.data;
    render();
    if (focused >= 0) [...main.querySelectorAll("a, button")][focused]?.focus();
  }
  following = false;
}

function note(method, address, body) {
  const line = curl(method, address, body);
  const copy = button("Copy", () => navigator.clipboard?.writeText(line), "quiet");
  history.prepend(make("li", {}, make("code", {}, line), navigator.clipboard && copy));
}

/** The sign-in page, also where a session ends while something is shown. */
function signIn(why) {
  document.querySelectorAll("dialog").forEach((open) => open.close());
  document.title = "Sign in – Stampede API";
  const access = make("input", { id: "access", type: "text", autocomplete: "username", required: true, spellcheck: false });
  const secret = make("input", { id: "secret", type: "password", autocomplete: "current-password", required: true });
  const trouble = make("p", { className: "trouble", role: "alert", hidden: !why }, why ?? "");
  const submit = make("button", { type: "submit", className: "main" }, "Sign in");
  const form = make("form", {},
    make("label", { for: access.id }, "Access key (publicValue)"), access,
    make("label", { for: secret.id }, "Secret key (secretValue)"), secret,
    trouble, submit);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    submit.disabled = true;
    const answer = await ask("POST", "/session", { publicValue: access.value.trim(), secretValue: secret.value });
    submit.disabled = false;
    if (answer.ok) {
      location.replace(changed(here, {}));
      return;
    }
    trouble.textContent = complaint(answer);
    trouble.hidden = false;
    secret.select();
  });
  document.body.replaceChildren(make("main", { className: "signin" },
    make("h1", {}, make("span", { className: "brand" }, "Stampede"), " API"), form,
    make("p", { className: "nothing" }, "On a host of the cluster, root makes an API key with ", make("code", {}, "stampede api-key create"), ".")));
  access.focus();
}
