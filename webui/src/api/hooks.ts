// How screens get at rows.

import { useQuery, type UseQueryResult } from "@tanstack/react-query";
import { useSyncExternalStore } from "react";
import { freshness, get } from "./client";
import { lists, type ListName } from "./lists";
import type { LiveState } from "./live";
import { journal, live, loadAll, partsKey, queries, rowKey, rowsKey } from "./store";
import type { Collection, Row, Schema, Session } from "./types";
import type { Entry } from "../logic/journal";

/** A list, kept as it is now. */
export function useRows<T extends Row>(list: ListName, enabled = true): UseQueryResult<readonly T[]> {
  return useQuery({ queryKey: rowsKey(list), queryFn: () => loadAll<T>(list), enabled, structuralSharing: false });
}

/** One row, kept as it is now; from the list where that is held. */
export function useRow<T extends Row>(list: ListName, id: string): UseQueryResult<T> {
  return useQuery({
    queryKey: rowKey(list, id),
    queryFn: () => get<T>(`${lists[list]}/${encodeURIComponent(id)}`),
    initialData: () => queries.getQueryData<readonly T[]>(rowsKey(list))?.find((row) => row.id === id),
    structuralSharing: false,
  });
}

/** What a link of a row leads to; asked for anew when the row changes. */
export function useParts<T>(row: Row | undefined, link: string, enabled = true): UseQueryResult<readonly T[]> {
  const address = row?.links[link];
  return useQuery({
    queryKey: partsKey(row?.id ?? "", link),
    queryFn: async () => (await get<Collection<T>>(`${address}?limit=1000`)).data,
    enabled: enabled && address !== undefined,
  });
}

/** A collection of parts over all rows; asked for anew when anything changes. */
export function useAllParts<T>(address: string, enabled = true): UseQueryResult<readonly T[]> {
  return useQuery({ queryKey: ["parts", "*", address], queryFn: async () => (await get<Collection<T>>(address)).data, enabled });
}

/** All types as this account sees them. */
export function useSchemas(): UseQueryResult<Map<string, Schema>> {
  return useQuery({
    queryKey: ["schema"],
    queryFn: async () => new Map((await get<Collection<Schema>>("/v1/schemas?limit=1000")).data.map((one) => [one.id, one])),
  });
}

export function useSchema(type: string): Schema | undefined {
  return useSchemas().data?.get(type);
}

export function useSession(): UseQueryResult<Session> {
  return useQuery({ queryKey: ["session"], queryFn: () => get<Session>("/session"), retry: (count, error) => count < 2 && (error as { status?: number }).status !== 401 });
}

export function useLive(): LiveState {
  return useSyncExternalStore(live.watch, live.snapshot);
}

export function useJournal(): readonly Entry[] {
  return useSyncExternalStore(journal.watch, journal.snapshot);
}

/** The stream says nothing of the store: it is asked for, this often. */
const STALE_MS = 15_000;

/** Whether the cluster's store is away: what is shown may be old. */
export function useStale(): boolean {
  useQuery({ queryKey: ["stale"], queryFn: () => get("/v1/hosts?limit=1"), refetchInterval: STALE_MS, staleTime: 0, retry: false, structuralSharing: false });
  return useSyncExternalStore(
    (listener) => {
      freshness.listeners.add(listener);
      return () => freshness.listeners.delete(listener);
    },
    () => freshness.stale,
  );
}
