// What the page holds of the cluster: TanStack Query's cache, fed by the one stream of events.

import { QueryClient } from "@tanstack/react-query";
import { merge, type Change } from "../logic/merge";
import { Journal } from "../logic/journal";
import { ApiError, get, local } from "./client";
import { listOf, lists, type ListName } from "./lists";
import { Live } from "./live";
import type { Collection, Row } from "./types";

const PAGE = 1000;
/** A list that nobody looks at any more is forgotten then. */
const FORGET_MS = 600_000;
/** Parts of rows (ports, nics) are asked for anew when their row changes, this often at most. */
const PARTS_MS = 1000;

export const queries = new QueryClient({
  defaultOptions: {
    queries: {
      staleTime: Infinity,
      gcTime: FORGET_MS,
      refetchOnWindowFocus: false,
      refetchOnReconnect: false,
      retry: (count, error) => count < 3 && error instanceof ApiError && (error.status === 0 || error.status === 503),
      retryDelay: (count) => Math.min(8000, 500 * 2 ** count) * (0.5 + Math.random() / 2),
    },
    mutations: { retry: false },
  },
});

export const rowsKey = (list: ListName) => ["rows", list] as const;
export const rowKey = (list: ListName, id: string) => ["row", list, id] as const;
export const partsKey = (id: string, link: string) => ["parts", id, link] as const;

/** What changed since the page was opened, for people. */
export const journal = new Journal();

export const live = new Live({ changed, gap });

function changed(changes: readonly Change[]): void {
  journal.add(changes);
  const byList = new Map<ListName, Change[]>();
  for (const change of changes) {
    const list = listOf(change.type);
    if (list) byList.set(list, [...(byList.get(list) ?? []), change]);
    if (list) queries.setQueryData(rowKey(list, change.id), (held: Row | undefined) => (held ? change.row : held));
    partsChanged.add(change.id);
  }
  for (const [list, its] of byList) {
    queries.setQueryData(rowsKey(list), (held: readonly Row[] | undefined) => (held ? merge(held, its) : held));
  }
  if (!partsTimer) partsTimer = window.setTimeout(refreshParts, PARTS_MS / 4);
}

const partsChanged = new Set<string>();
let partsTimer = 0;
let partsAt = 0;

function refreshParts(): void {
  const wait = partsAt + PARTS_MS - Date.now();
  if (wait > 0) {
    partsTimer = window.setTimeout(refreshParts, wait);
    return;
  }
  partsTimer = 0;
  partsAt = Date.now();
  const ids = new Set(partsChanged);
  partsChanged.clear();
  void queries.invalidateQueries({ predicate: ({ queryKey: [kind, id] }) => kind === "parts" && (id === "*" || ids.has(String(id))) });
}

function gap(): void {
  void queries.invalidateQueries({ predicate: ({ queryKey: [kind] }) => kind !== "schema" && kind !== "session" });
}

/** All rows of a list, page by page, with what was told while they came. */
export async function loadAll<T extends Row>(list: ListName): Promise<readonly T[]> {
  const begun = Date.now();
  const rows: T[] = [];
  let next: string | null = `${lists[list]}?limit=${PAGE}`;
  while (next) {
    const page: Collection<T> = await get(next);
    rows.push(...page.data);
    next = page.pagination?.next ? local(page.pagination.next) : null;
  }
  return merge(rows, live.since(begun).filter((change) => listOf(change.type) === list));
}

/** Puts a row that an answer brought where it is looked for, before its event comes. */
export function hold(row: Row): void {
  if (!row.id || !row.type) return;
  const change: Change = { type: row.type, id: row.id, row, revision: 0, at: Date.now() };
  changed([change]);
}
