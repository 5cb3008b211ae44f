// Events into rows: pure, so that it can be tried without a server.

import type { Row } from "../api/types";

export interface Change {
  type: string;
  id: string;
  row: Row;
  revision: number;
  /** When it came here, milliseconds. */
  at: number;
}

const GONE = new Set(["purged"]);

/** The rows as they are after the changes, in the order in which they were; new ones come last. The same array where nothing changed. */
export function merge<T extends Row>(rows: readonly T[], changes: readonly Change[]): readonly T[] {
  if (changes.length === 0) return rows;
  const latest = new Map<string, Row>();
  for (const change of changes) latest.set(change.id, change.row);
  const merged: T[] = [];
  for (const row of rows) {
    const changed = latest.get(row.id);
    latest.delete(row.id);
    const now = changed ?? row;
    if (!GONE.has(now.state ?? "")) merged.push(now as T);
  }
  for (const row of latest.values()) {
    if (!GONE.has(row.state ?? "")) merged.push(row as T);
  }
  return merged;
}

/** How long to wait before the next try: longer each time, never the same for all who wait. */
export function backoff(attempt: number, random: () => number = Math.random): number {
  const most = Math.min(10_000, 500 * 2 ** attempt);
  return most / 2 + (random() * most) / 2;
}
