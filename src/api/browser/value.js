// How a value looks, by its field's type.

import { changed, local } from "./client.js";
import { make } from "./element.js";

let schemas = new Map();

/** What the schemas say is known from here on, by type. */
export function learn(list) {
  schemas = new Map(list.map((schema) => [schema.id, schema]));
}

export function schemaOf(type) {
  return schemas.get(type);
}

export function allSchemas() {
  return [...schemas.values()];
}

/** The type in `reference[type]`, `array[type]` and `map[type]`. */
export function inner(form, outer) {
  return form?.startsWith(`${outer}[`) ? form.slice(outer.length + 1, -1) : null;
}

/** The address of what a reference names, where its type has a list. */
function addressOf(type, id) {
  const list = schemas.get(type)?.links?.collection;
  return list ? `${local(list)}/${encodeURIComponent(id)}` : null;
}

/** A link within the API. */
export function link(address, text) {
  return make("a", { href: local(address) }, text);
}

/** A state, coloured by what it means. */
export function badge(resource) {
  const { state, transitioning, transitioningMessage, transitioningProgress } = resource;
  if (!state) return "";
  const mood = transitioning === "error" ? "bad"
    : transitioning === "yes" ? "busy"
    : ["running", "active", "associated"].includes(state) ? "good" : "idle";
  const why = transitioning === "no" ? null : [transitioningMessage, transitioningProgress && `${transitioningProgress} %`];
  return make("span", { className: `badge ${mood}`, title: why?.filter(Boolean).join(" ") }, state);
}

/** A field's value. */
export function show(value, form, resource = {}, name = "") {
  if (value === null || value === undefined) return make("span", { className: "nothing" }, "–");
  if (name === "state") return badge(resource);
  if (name === "id" && resource.links?.self) return link(resource.links.self, value);
  const referred = inner(form, "reference");
  if (referred) {
    const address = addressOf(referred, value);
    return address ? link(address, value) : String(value);
  }
  if (Array.isArray(value)) return list(value, inner(form, "array"));
  if (typeof value === "object") return pairs(value, inner(form, "map"));
  if (form === "date") return date(value);
  return String(value);
}

function date(value) {
  const moment = new Date(value);
  if (Number.isNaN(moment.getTime())) return String(value);
  return make("time", { dateTime: value, title: value }, moment.toLocaleString());
}

function list(values, form) {
  if (values.length === 0) return make("span", { className: "nothing" }, "none");
  return make("ul", { className: "values" }, values.map((value) => make("li", {}, show(value, form))));
}

function pairs(values, form) {
  // What is inlined or stored as it came is a tree of any depth: as JSON.
  const entries = Object.entries(values);
  if (entries.length === 0) return make("span", { className: "nothing" }, "none");
  if (entries.some(([, value]) => value !== null && typeof value === "object")) return json(values);
  return make("ul", { className: "values" }, entries.map(([key, value]) =>
    make("li", {}, make("span", { className: "key" }, key), " = ", show(value, form))));
}

export function json(value) {
  return make("pre", { tabIndex: 0 }, JSON.stringify(value, null, 2));
}

/** The way here, each step a link. */
export function trail() {
  const steps = location.pathname.split("/").filter(Boolean);
  return steps.map((step, at) => {
    const last = at === steps.length - 1;
    const address = changed(`/${steps.slice(0, at + 1).join("/")}`, {});
    const here = make("a", { href: address, "aria-current": last ? "page" : null }, decodeURIComponent(step));
    return make("li", {}, here);
  });
}
