// Finding and ordering rows, in the page: all of them are there.

export interface Sort {
  by: string;
  down: boolean;
}

/** Every word must be in one of the texts. `key:word` looks at one field only, `-word` must not be there. */
export function matches(search: string, fields: Record<string, string | null | undefined>): boolean {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return true;
  const all = Object.values(fields).map((text) => (text ?? "").toLowerCase());
  return words.every((given) => {
    const not = given.startsWith("-") && given.length > 1;
    const word = not ? given.slice(1) : given;
    const colon = word.indexOf(":");
    const key = colon > 0 ? Object.keys(fields).find((name) => name.toLowerCase() === word.slice(0, colon)) : undefined;
    const found = key ? (fields[key] ?? "").toLowerCase().includes(word.slice(colon + 1)) : all.some((text) => text.includes(word));
    return found !== not;
  });
}

const collator = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

/** By a field, names with numbers in them in the order of the numbers; what is empty comes last either way. */
export function sorted<T>(rows: readonly T[], sort: Sort, value: (row: T, by: string) => string | number | null | undefined): T[] {
  const keyed = rows.map((row) => ({ row, key: value(row, sort.by) }));
  const empty = (key: unknown) => key === null || key === undefined || key === "";
  keyed.sort((a, b) => {
    if (empty(a.key) || empty(b.key)) return Number(empty(a.key)) - Number(empty(b.key));
    const order = typeof a.key === "number" && typeof b.key === "number" ? a.key - b.key : collator.compare(String(a.key), String(b.key));
    return sort.down ? -order : order;
  });
  return keyed.map(({ row }) => row);
}

/** A number in an id (`1i54` → 54), for an order that people expect. */
export function idNumber(id: string): number {
  return Number(/(\d+)$/.exec(id)?.[1] ?? 0);
}
