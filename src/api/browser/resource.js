// One resource: what it is, where it leads, what can be done with it.

import { button, folded, make, sure } from "./element.js";
import { fill } from "./form.js";
import { badge, inner, link, schemaOf, show } from "./value.js";

/** Shown elsewhere on the page, or twice. */
const ELSEWHERE = ["links", "actions"];
/** What cannot be taken back, or takes something away. */
const GRAVE = ["remove", "purge", "failover", "drain", "deactivate"];

export function resource(data, act) {
  if (data.type === "apiVersion") return version(data);
  if (data.type === "schema") return schema(data);
  return [
    make("div", { className: "bar" }, badge(data), buttons(data, act)),
    data.transitioning === "error" && make("p", { className: "trouble", role: "status" }, data.transitioningMessage),
    links(data),
    fields(data),
  ];
}

function buttons(data, act) {
  const declared = schemaOf(data.type);
  const self = data.links?.self;
  const may = (method) => self && !data.removed && declared?.resourceMethods?.includes(method);
  const actions = Object.entries(data.actions ?? {}).map(([name, address]) =>
    button(name, () => perform(data, name, address, act), GRAVE.includes(name) ? "danger" : ""));
  const edit = may("PUT") && button("Edit", () => fill({
    title: `Edit ${title(data)}`,
    word: "Save",
    schema: declared,
    use: "update",
    known: data,
    send: (input) => act("PUT", self, input),
  }), "main");
  const remove = may("DELETE") && button("Delete", async () => {
    if (await sure(`${title(data)} will be deleted.`, "Delete")) act("DELETE", self);
  }, "danger");
  return [edit, ...actions, remove];
}

async function perform(data, name, address, act) {
  const input = schemaOf(schemaOf(data.type)?.resourceActions?.[name]?.input);
  // What is only an answer, like the resource itself, asks for nothing.
  const asks = input && Object.values(input.resourceFields ?? {}).some((field) => field.create);
  if (asks) {
    fill({ title: `${name} ${title(data)}`, word: name, schema: input, use: "create", send: (filled) => act("POST", address, filled) });
  } else if (!GRAVE.includes(name) || await sure(`${name} ${title(data)}?`, name)) {
    act("POST", address);
  }
}

export function title(data) {
  return [data.type, data.name ?? data.id].filter(Boolean).join(" ");
}

function links(data) {
  const entries = Object.entries(data.links ?? {}).filter(([name]) => name !== "self");
  if (entries.length === 0) return null;
  return make("nav", { className: "bar links", "aria-label": "Links" }, entries.map(([name, address]) => link(address, name)));
}

function fields(data) {
  const declared = schemaOf(data.type)?.resourceFields ?? {};
  const names = Object.keys(data).filter((name) => !ELSEWHERE.includes(name) && !(name.endsWith("TS") && name.slice(0, -2) in data));
  const rows = (some) => make("dl", {}, some.map((name) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, show(data[name], declared[name]?.type, data, name)))));
  const empty = names.filter((name) => data[name] === null);
  const folds = empty.length > 0 && folded(`${empty.length} without a value`, rows(empty));
  return make("section", { "aria-label": "Fields" }, rows(names.filter((name) => !empty.includes(name))), folds);
}

/** All lists there are. */
function version(data) {
  const lists = Object.entries(data.links ?? {}).filter(([name]) => name !== "self");
  return [make("ul", { className: "cards" }, lists.map(([name, address]) => make("li", {}, link(address, name))))];
}

/** A type: its fields as a table. */
function schema(data) {
  const traits = ["type", "required", "create", "update", "nullable", "unique", "default", "options", "min", "max", "minLength", "maxLength", "validChars"];
  const rows = Object.entries(data.resourceFields ?? {}).map(([name, field]) => make("tr", {},
    make("th", { scope: "row" }, name), traits.map((trait) => make("td", {}, trait === "type" ? type(field.type) : mark(field[trait])))));
  const facts = Object.fromEntries(Object.entries(data).filter(([name]) => name !== "resourceFields"));
  return [
    links(data),
    make("div", { className: "table", tabIndex: 0, role: "region", "aria-label": "Fields" }, make("table", {},
      make("thead", {}, make("tr", {}, ["field", ...traits].map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, rows))),
    fields(facts),
  ];
}

function type(form) {
  let named = form;
  for (let within = form; within; within = ["reference", "array", "map"].map((outer) => inner(within, outer)).find(Boolean)) named = within;
  const known = schemaOf(named)?.links?.self;
  return known ? link(known, form) : form;
}

function mark(value) {
  if (value === true) return "✓";
  if (value === false || value === null || value === undefined) return "";
  return Array.isArray(value) ? value.join(", ") : String(value);
}
