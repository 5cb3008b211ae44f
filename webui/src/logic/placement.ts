// An estimate of which hosts fit, from what the page knows. The API has no preview of its own; the cluster decides when an
// instance is made, and its message says why for each host. Rules between instances (affinity) are left to it.

import type { Host } from "../api/types";
import type { Load } from "./instance";

export interface Wish {
  memoryMb: number;
  requestedHostId?: string | null;
  validHostIds?: readonly string[] | null;
  constraints?: readonly string[] | null;
  policy?: string | null;
  /** What a host must be able to run. */
  capability: string;
}

export interface Fit {
  host: Host;
  /** Why not; null where it fits. */
  against: string | null;
  /** Wishes that it meets. */
  wishes: number;
  freeMb: number;
}

/** A label's rule: `key=value`, `key!=value`, and wishes `key~=value`, `key~!=value`. */
export function meets(rule: string, host: Host): { soft: boolean; holds: boolean } | null {
  const found = /^([^=!~]+)(~?)(!?)=(.*)$/.exec(rule.trim());
  if (!found) return null;
  const [, key, soft, not, value] = found;
  const has = key === "name" ? host.name : host.labels?.[key!];
  return { soft: soft === "~", holds: (has === value) !== (not === "!") };
}

export function fits(hosts: readonly Host[], loads: ReadonlyMap<string, Load>, wish: Wish): Fit[] {
  const found = hosts.map((host) => fit(host, loads.get(host.id), wish));
  const packing = wish.policy === "packing";
  return found.sort(
    (a, b) =>
      Number(a.against !== null) - Number(b.against !== null) ||
      b.wishes - a.wishes ||
      (packing ? a.freeMb - b.freeMb : b.freeMb - a.freeMb) ||
      String(a.host.name).localeCompare(String(b.host.name)),
  );
}

function fit(host: Host, load: Load | undefined, wish: Wish): Fit {
  const freeMb = (host.memoryMb ?? 0) - (load?.memoryMb ?? 0);
  let against: string | null = null;
  let wishes = 0;
  const no = (why: string) => (against ??= why);
  if (host.state !== "active") no(`is ${host.state ?? "not active"}`);
  if (!(host.capabilities ?? []).includes(wish.capability)) no(`cannot run this (${wish.capability})`);
  if (wish.requestedHostId && wish.requestedHostId !== host.id) no("another host is asked for");
  if (wish.validHostIds?.length && !wish.validHostIds.includes(host.id)) no("not among the hosts that are allowed");
  for (const rule of wish.constraints ?? []) {
    const result = meets(rule, host);
    if (!result) continue;
    if (result.soft) wishes += Number(result.holds);
    else if (!result.holds) no(`${rule} does not hold there`);
  }
  if (freeMb < wish.memoryMb) no(`${Math.max(0, freeMb)} MB free, ${wish.memoryMb} MB asked for`);
  return { host, against, wishes, freeMb };
}
