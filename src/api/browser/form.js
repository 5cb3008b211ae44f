// Forms from schemas: a field for each that may be written, and the answer's error beside the one that it names.

import { ask, complaint } from "./client.js";
import { dialog, make } from "./element.js";
import { inner, schemaOf } from "./value.js";

/** Before all others, which come by the alphabet. */
const FIRST = ["name", "description", "imageUuid", "command", "commandArgs"];

/**
 * A form in a dialog. `use` is "create" or "update"; `known` has what stands in the fields at first; `send` is given what
 * was filled in and answers as `ask` does. It stays open until that is well.
 */
export function fill({ title, word, schema, use, known = {}, send }) {
  const fields = fieldsOf(schema, use).map(([name, field]) => control(name, field, use, known[name]));
  const trouble = make("p", { className: "trouble", role: "alert", tabIndex: -1, hidden: true });
  const submit = make("button", { type: "submit", className: "main" }, word);
  const cancel = make("button", { type: "button", onclick: () => opened.close() }, "Cancel");
  const form = make("form", { noValidate: true },
    make("div", { className: "fields" }, fields.map((field) => field.row)), trouble,
    make("footer", {}, cancel, submit));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    fields.forEach(settle);
    trouble.hidden = true;
    const input = collect(fields);
    if (!input) return;
    submit.disabled = true;
    const answer = await send(input);
    submit.disabled = false;
    if (answer.ok) opened.close();
    else blame(fields, trouble, answer);
  });
  const opened = dialog(title, form);
  (fields[0]?.input ?? submit).focus();
}

function fieldsOf(schema, use) {
  const rank = ([name, field]) => (field.required ? -1 : FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length);
  return Object.entries(schema?.resourceFields ?? {})
    .filter(([, field]) => field[use])
    .sort((one, other) => rank(one) - rank(other) || one[0].localeCompare(other[0]));
}

/** What was filled in; null where something cannot be read, which is said beside it. */
function collect(fields) {
  const input = {};
  let first = null;
  for (const field of fields) {
    try {
      const value = field.value();
      if (value !== undefined) input[field.name] = value;
    } catch (fault) {
      tell(field, fault.message);
      first ??= field;
    }
  }
  if (first) lead(first);
  return first ? null : input;
}

function blame(fields, trouble, answer) {
  const field = fields.find((one) => one.name === answer.data?.fieldName);
  if (field) {
    tell(field, complaint(answer));
    lead(field);
    return;
  }
  trouble.textContent = complaint(answer);
  trouble.hidden = false;
  trouble.focus();
}

function tell(field, text) {
  field.trouble.textContent = text;
  field.trouble.hidden = false;
  field.input.setAttribute("aria-invalid", "true");
  field.input.addEventListener("input", () => settle(field), { once: true });
}

function settle(field) {
  field.input.removeAttribute("aria-invalid");
  field.trouble.hidden = true;
}

/** Takes the reader to a field. */
function lead(field) {
  field.input.focus();
  field.row.scrollIntoView({ block: "center" });
}

/** One field: its row on the page, and what is in it (undefined where that is what was there before). */
function control(name, field, use, known) {
  const id = `field-${name}`;
  const before = known ?? (use === "create" ? field.default : null);
  const { input, extra, read } = inputFor(field, before);
  input.id = id;
  input.setAttribute("aria-describedby", `${id}-hint ${id}-trouble`);
  const shown = input.value;
  const trouble = make("p", { className: "trouble", id: `${id}-trouble`, role: "alert", hidden: true });
  const mark = field.required && make("span", { className: "required", title: "required" }, " *");
  const row = make("div", { className: "field" },
    make("label", { for: id }, name, mark), input, extra,
    make("p", { className: "hint", id: `${id}-hint` }, hint(field)), trouble);
  const value = () => {
    // What a link to a parent filled in is sent though nobody touched it.
    const given = use === "create" && known !== undefined && known !== null;
    if (input.validity.badInput) throw new Error("This is no number.");
    if (input.value === shown && !given) return undefined;
    if (input.value === "") return field.nullable ? null : use === "create" ? undefined : read("");
    return read(input.value);
  };
  return { name, row, input, trouble, value };
}

function hint(field) {
  const bounds = (least, most, unit) => [
    typeof least === "number" && `at least ${least}${unit}`, typeof most === "number" && `at most ${most}${unit}`,
  ].filter(Boolean).join(", ");
  const rows = inner(field.type, "array") ? "one a line"
    : isPairs(field.type) ? "key=value, one a line"
    : isJson(field.type) ? "JSON" : null;
  return [
    field.type, rows, bounds(field.min, field.max, ""), bounds(field.minLength, field.maxLength, " characters"),
    field.validChars && `of ${field.validChars}`, field.unique && "unique",
  ].filter(Boolean).join(" · ");
}

function isPairs(type) {
  return ![null, "json"].includes(inner(type, "map"));
}

function isJson(type) {
  return ["json", "blob", "map[json]"].includes(type) || schemaOf(type) !== undefined;
}

/** The element for a type, and how its text becomes a value. */
function inputFor(field, before) {
  const { type } = field;
  if (type === "boolean") return choice(["true", "false"], before, (text) => text === "true");
  if (field.options && !inner(type, "array")) return choice(field.options, before, (text) => text);
  if (type === "int" || type === "float") {
    const step = type === "int" ? 1 : "any";
    const input = make("input", { type: "number", step, min: field.min, max: field.max, value: before ?? "" });
    return { input, read: Number };
  }
  if (inner(type, "array")) return area(asLines(before), readLines);
  if (isPairs(type)) return area(asPairs(before), readPairs);
  if (isJson(type)) {
    return area(before === null || before === undefined ? "" : JSON.stringify(before, null, 2), readJson);
  }
  const kind = type === "password" ? "password" : "text";
  const input = make("input", { type: kind, value: before ?? "", autocomplete: kind === "password" ? "new-password" : "off", spellcheck: false });
  const referred = inner(type, "reference");
  return { input, extra: referred && suggestions(input, referred), read: (text) => text };
}

function choice(options, before, read) {
  const chosen = before === null || before === undefined ? "" : String(before);
  const input = make("select", {}, ["", ...options].map((option) => make("option", { value: option }, option || "–")));
  input.value = chosen;
  return { input, read };
}

function area(text, read) {
  return { input: make("textarea", { rows: 2, value: text, spellcheck: false }), read };
}

/** What there is to refer to, asked for when the reader comes to the field. */
function suggestions(input, type) {
  const address = schemaOf(type)?.links?.collection;
  if (!address) return null;
  const list = make("datalist", { id: `list-${crypto.getRandomValues(new Uint32Array(1))[0]}` });
  input.setAttribute("list", list.id);
  input.addEventListener("focus", async () => {
    const answer = await ask("GET", `${address}?limit=100`);
    list.replaceChildren(...(answer.data?.data ?? []).map((row) =>
      make("option", { value: row.id, label: [row.name, row.state].filter(Boolean).join(" · ") || row.id })));
  }, { once: true });
  return list;
}

function plain(value) {
  return typeof value === "string" && !value.includes("\n");
}

function asLines(values) {
  if (!Array.isArray(values)) return "";
  return values.every((value) => plain(value) && !value.startsWith("[")) ? values.join("\n") : JSON.stringify(values);
}

function readLines(text) {
  if (text.trimStart().startsWith("[")) return readJson(text);
  return text.split("\n").filter((line) => line !== "");
}

function asPairs(values) {
  if (!values) return "";
  const entries = Object.entries(values);
  const simple = entries.every(([key, value]) => plain(value) && !/[={\n]/.test(key));
  return simple ? entries.map(([key, value]) => `${key}=${value}`).join("\n") : JSON.stringify(values);
}

function readPairs(text) {
  if (text.trimStart().startsWith("{")) return readJson(text);
  const pairs = text.split("\n").filter((line) => line.trim() !== "").map((line) => {
    const at = line.indexOf("=");
    if (at < 1) throw new Error(`“${line}” is not of the form key=value`);
    return [line.slice(0, at).trim(), line.slice(at + 1)];
  });
  return Object.fromEntries(pairs);
}

function readJson(text) {
  if (text.trim() === "") return null;
  try {
    return JSON.parse(text);
  } catch (fault) {
    throw new Error(`This is no JSON: ${fault.message}`);
  }
}
