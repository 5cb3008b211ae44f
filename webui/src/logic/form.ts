// From a schema's fields to a form's values and back: pure.

import type { Field, Schema } from "../api/types";

export type Values = Record<string, unknown>;

/** `array[reference[instance]]` → ["array", "reference[instance]"]. */
export function outer(type: string): [string, string | null] {
  const found = /^(\w+)\[(.*)\]$/.exec(type);
  return found ? [found[1]!, found[2]!] : [type, null];
}

/** Fields that may be given, in the order of `first`, then as the schema has them; without those that are left out. */
export function formFields(schema: Schema, mode: "create" | "update", first: readonly string[] = [], without: readonly string[] = []): [string, Field][] {
  const may = Object.entries(schema.resourceFields).filter(([name, field]) => field[mode] && !without.includes(name));
  const rank = (name: string) => {
    const at = first.indexOf(name);
    return at < 0 ? first.length : at;
  };
  return may.sort(([a], [b]) => rank(a) - rank(b));
}

/** Nobody said anything: neither sent nor counted. */
export function isBlank(value: unknown): boolean {
  if (value === undefined || value === null || value === "") return true;
  if (Array.isArray(value)) return value.length === 0;
  return typeof value === "object" && Object.keys(value).length === 0;
}

export interface Complaint {
  required: string;
  number: string;
  json: string;
  atLeast: (least: number) => string;
  atMost: (most: number) => string;
  tooLong: (most: number) => string;
}

/** What is wrong with a value before the server is asked; the server has the last word. */
export function check(field: Field, value: unknown, words: Complaint): string | null {
  if (isBlank(value)) return field.required && field.default == null ? words.required : null;
  if (field.type === "int" || field.type === "float") {
    const number = Number(value);
    if (!Number.isFinite(number) || (field.type === "int" && !Number.isInteger(number))) return words.number;
    if (field.min != null && number < field.min) return words.atLeast(field.min);
    if (field.max != null && number > field.max) return words.atMost(field.max);
  }
  if (typeof value === "string" && field.maxLength != null && value.length > field.maxLength) return words.tooLong(field.maxLength);
  if (isJson(field) && typeof value === "string") {
    try {
      JSON.parse(value);
    } catch {
      return words.json;
    }
  }
  return null;
}

export function isJson(field: Field): boolean {
  const [kind, inner] = outer(field.type);
  return field.type === "json" || inner === "json" || (kind === "map" && inner !== "string" && !inner?.startsWith("reference"));
}

/** What is sent: only what was said, as its type wants it. */
export function body(fields: readonly [string, Field][], values: Values, clears = false): Values {
  const sent: Values = {};
  for (const [name, field] of fields) {
    const value = values[name];
    if (isBlank(value)) {
      if (clears && name in values) sent[name] = value === "" ? null : (value ?? null);
      continue;
    }
    if (isJson(field) && typeof value === "string") sent[name] = JSON.parse(value);
    else if (field.type === "int" || field.type === "float") sent[name] = Number(value);
    else sent[name] = value;
  }
  return sent;
}

/** Only what differs from the row as it was. */
export function changes(fields: readonly [string, Field][], values: Values, row: Record<string, unknown>): Values {
  const all = body(fields, values, true);
  return Object.fromEntries(
    Object.entries(all).filter(([name, value]) => {
      const was = row[name];
      return isBlank(was) !== isBlank(value) || (!isBlank(value) && JSON.stringify(was) !== JSON.stringify(value));
    }),
  );
}
