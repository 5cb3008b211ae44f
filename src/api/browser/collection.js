// A list: a table with filters, order and pages as its schema has them.

import { changed, local } from "./client.js";
import { button, folded, make } from "./element.js";
import { fill } from "./form.js";
import { inner, link, schemaOf, show } from "./value.js";

/** Shown unless the reader chose others, as far as the type has them. */
const COLUMNS = ["id", "name", "state", "type", "imageUuid", "primaryIpAddress", "hostId", "publicValue", "accountId", "created"];
const FEWEST = 4;
const NEVER = ["links", "actions", "transitioning", "transitioningMessage", "transitioningProgress"];
/** Those that take no value. */
const ALONE = ["null", "notnull"];
const LIMITS = [25, 100, 500, 1000];

/** The list on the page; `done` is called with an answer to be shown. */
export function collection(data, act) {
  const schema = schemaOf(data.resourceType);
  return [
    make("div", { className: "bar" }, creators(data, schema, act), chosenColumns(data, schema)),
    filters(data, schema),
    table(data, schema),
    pages(data),
  ];
}

/** A button for each type that can be made here. */
function creators(data, schema, act) {
  const types = Object.entries(data.createTypes ?? {});
  if (types.length === 0 && schema?.collectionMethods?.includes("POST")) {
    types.push([data.resourceType, local(data.links?.self ?? location.href)]);
  }
  return types.map(([type, address]) => button(`Create ${type}`, () => fill({
    title: `Create ${type}`,
    word: "Create",
    schema: schemaOf(type),
    use: "create",
    known: data.createDefaults,
    send: (input) => act("POST", address, { ...data.createDefaults, ...input }),
  }), "main"));
}

function fieldsOf(data, schema) {
  const declared = Object.keys(schema?.resourceFields ?? {});
  const found = declared.length > 0 ? declared : Object.keys(data.data?.[0] ?? {});
  return ["id", ...found.filter((name) => name !== "id" && !NEVER.includes(name))];
}

function storageKey(data) {
  return `columns:${data.resourceType}`;
}

function columnsOf(data, schema) {
  const fields = fieldsOf(data, schema);
  const stored = localStorage.getItem(storageKey(data))?.split(",").filter((name) => fields.includes(name));
  if (stored?.length) return stored;
  const mixed = new Set((data.data ?? []).map((row) => row.type)).size > 1;
  const usual = COLUMNS.filter((name) => (name === "type" ? mixed : fields.includes(name)));
  const holds = (name) => data.data?.some((row) => row[name] !== null && row[name] !== undefined && typeof row[name] !== "object");
  const more = fields.filter((name) => !usual.includes(name) && name !== "type" && name !== "uuid" && holds(name));
  return usual.length >= FEWEST ? usual : [...usual, ...more.slice(0, FEWEST)];
}

function chosenColumns(data, schema) {
  const chosen = new Set(columnsOf(data, schema));
  const boxes = fieldsOf(data, schema).map((name) => {
    const box = make("input", { type: "checkbox", checked: chosen.has(name), onchange: () => {
      if (box.checked) chosen.add(name);
      else chosen.delete(name);
      localStorage.setItem(storageKey(data), [...chosen].join(","));
      document.querySelector("main .table")?.replaceWith(table(data, schema));
    } });
    return make("label", {}, box, name);
  });
  const usual = button("Usual ones", () => { localStorage.removeItem(storageKey(data)); location.reload(); });
  const choice = folded("Columns", make("div", { className: "choice" }, boxes, usual));
  choice.className = "menu";
  return choice;
}

function table(data, schema) {
  const columns = columnsOf(data, schema);
  const rows = (data.data ?? []).map((row) => make("tr", {}, columns.map((name) =>
    make("td", {}, show(row[name], schemaOf(row.type)?.resourceFields?.[name]?.type, row, name)))));
  const empty = make("tr", {}, make("td", { colSpan: columns.length, className: "nothing" }, "Nothing here."));
  return make("div", { className: "table", tabIndex: 0, role: "region", "aria-label": "Rows" }, make("table", {},
    make("thead", {}, make("tr", {}, columns.map((name) => heading(data, name)))),
    make("tbody", {}, rows.length ? rows : empty)));
}

/** A column's name, by which the list can be put in order. */
function heading(data, name) {
  const sorted = data.sort?.name === name ? data.sort.order : null;
  const address = sorted ? data.sort.reverse : data.sortLinks?.[name];
  const arrow = { asc: " ▲", desc: " ▼" }[sorted] ?? "";
  const order = { asc: "ascending", desc: "descending" }[sorted];
  return make("th", { scope: "col", "aria-sort": order }, address ? link(address, name + arrow) : name);
}

/** The filters there are, and one more. */
function filters(data, schema) {
  const able = Object.entries(schema?.collectionFilters ?? {}).sort(([one], [other]) => one.localeCompare(other));
  if (able.length === 0) return null;
  const given = Object.entries(data.filters ?? {}).flatMap(([name, conditions]) =>
    (conditions ?? []).map((condition) => chip(name, condition)));
  return make("div", { className: "bar filters" }, given, another(able, schema));
}

function parameter(name, modifier) {
  return modifier === "eq" ? name : `${name}_${modifier}`;
}

function chip(name, { modifier, value }) {
  const text = [name, modifier, ALONE.includes(modifier) ? null : value].filter((part) => part !== null).join(" ");
  const without = new URL(location.href);
  for (const key of new Set([parameter(name, modifier), `${name}_${modifier}`])) {
    const others = without.searchParams.getAll(key).filter((one) => one !== String(value ?? ""));
    without.searchParams.delete(key);
    others.forEach((one) => without.searchParams.append(key, one));
  }
  without.searchParams.delete("marker");
  return make("a", { className: "chip", href: without.pathname + without.search, "aria-label": `Take out the filter ${text}` }, text, " ✕");
}

function another(able, schema) {
  const field = make("select", { "aria-label": "Field" }, able.map(([name]) => make("option", { value: name }, name)));
  const modifier = make("select", { "aria-label": "Comparison" });
  const values = make("datalist", { id: "filter-values" });
  const value = make("input", { type: "text", "aria-label": "Value", list: values.id, placeholder: "value" });
  const adapt = () => {
    const declared = schema.resourceFields?.[field.value] ?? {};
    const modifiers = schema.collectionFilters[field.value]?.modifiers ?? ["eq"];
    modifier.replaceChildren(...modifiers.map((name) => make("option", { value: name }, name)));
    const options = declared.type === "boolean" ? ["true", "false"] : declared.options ?? [];
    values.replaceChildren(...options.map((option) => make("option", { value: option })));
    guide();
  };
  const guide = () => {
    const refers = inner(schema.resourceFields?.[field.value]?.type, "reference");
    value.hidden = ALONE.includes(modifier.value);
    value.placeholder = modifier.value.endsWith("like") ? "with % for any text" : refers ? "id" : "value";
  };
  field.addEventListener("change", adapt);
  modifier.addEventListener("change", guide);
  field.value = able.some(([name]) => name === "name") ? "name" : able[0][0];
  adapt();
  const form = make("form", { className: "bar" }, field, modifier, value, values, make("button", { type: "submit" }, "Filter"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const url = new URL(location.href);
    url.searchParams.append(parameter(field.value, modifier.value), value.hidden ? "" : value.value);
    url.searchParams.delete("marker");
    location.assign(url);
  });
  return form;
}

function pages(data) {
  const { first, previous, next, limit } = data.pagination ?? {};
  const step = (address, text) => (address ? link(address, text) : make("span", { className: "nothing" }, text));
  const sizes = LIMITS.includes(limit) || !limit ? LIMITS : [...LIMITS, limit].sort((one, other) => one - other);
  const size = make("select", { "aria-label": "Rows a page", onchange: () => {
    location.assign(changed(location.href, { limit: size.value, marker: null }));
  } }, sizes.map((count) => make("option", { value: count }, `${count} a page`)));
  size.value = limit ?? LIMITS[1];
  const count = data.data?.length ?? 0;
  return make("nav", { className: "bar pages", "aria-label": "Pages" },
    make("span", {}, `${count} ${count === 1 ? "row" : "rows"}${data.pagination?.partial ? " of more" : ""}`),
    data.pagination && [step(first, "First"), step(previous, "Previous"), step(next, "Next"), size]);
}
