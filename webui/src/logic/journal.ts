// What happened while somebody looked: the transitions that the stream of events told of.

import type { Row } from "../api/types";
import type { Change } from "./merge";

export interface Entry {
  at: number;
  id: string;
  type: string;
  name: string;
  from: string | null;
  to: string;
  error: string | null;
}

const MOST = 500;
const KNOWN_MOST = 20_000;

export class Journal {
  entries: readonly Entry[] = [];
  private known = new Map<string, string>();
  private watchers = new Set<() => void>();

  add(changes: readonly Change[]): void {
    const fresh: Entry[] = [];
    for (const { row, type, id, at } of changes) {
      const key = `${type}/${id}`;
      const now = phase(row);
      const before = this.known.get(key);
      if (before === now) continue;
      this.known.set(key, now);
      const from = before?.split("\n")[0] ?? null;
      const error = row.transitioning === "error" ? (row.transitioningMessage ?? null) : null;
      if (from === row.state && !error) continue;
      fresh.push({ at, id, type, name: row.name ?? id, from: from === row.state ? null : from, to: row.state ?? "", error });
    }
    if (this.known.size > KNOWN_MOST) this.known.clear();
    if (fresh.length === 0) return;
    this.entries = [...fresh.reverse(), ...this.entries].slice(0, MOST);
    for (const watcher of this.watchers) watcher();
  }

  watch = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };

  snapshot = (): readonly Entry[] => this.entries;
}

function phase(row: Row): string {
  return `${row.state ?? ""}\n${row.transitioning === "error" ? (row.transitioningMessage ?? "") : ""}`;
}
