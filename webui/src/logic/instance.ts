// What an instance's row means for people.

import type { Host, Instance, Row } from "../api/types";

export type Tone = "good" | "busy" | "bad" | "idle" | "gone";

const BUSY = new Set([
  "requested", "creating", "starting", "stopping", "restarting", "migrating", "restoring", "removing", "purging", "updating-running",
  "updating-stopped", "registering", "activating", "deactivating", "updating-active", "updating-inactive", "associating", "disassociating",
  "draining",
]);
const GOOD = new Set(["running", "active", "associated"]);
const GONE = new Set(["removed", "purged", "purging", "removing"]);

export function tone(row: Pick<Row, "state" | "transitioning">): Tone {
  const state = row.state ?? "";
  if (row.transitioning === "error" || state === "disconnected") return "bad";
  if (GONE.has(state)) return state === "removing" || state === "purging" ? "busy" : "gone";
  if (BUSY.has(state) || row.transitioning === "yes") return "busy";
  return GOOD.has(state) ? "good" : "idle";
}

/** Removed: shown only where that is asked for. */
export function isGone(row: Pick<Row, "state">): boolean {
  return row.state === "removed" || row.state === "purged" || row.state === "purging";
}

export function isInstance(row: Pick<Row, "type">): boolean {
  return row.type === "container" || isVm(row);
}

export function isVm(row: Pick<Row, "type">): boolean {
  return row.type === "virtualMachine";
}

/** What placement counts an instance's memory as, MB: docs/api.md says so. */
export function reservedMb(row: Instance): number {
  if (isVm(row)) return row.memoryMb ?? 64;
  return row.memoryReservationMb ?? row.memoryLimitMb ?? 64;
}

export interface Load {
  instances: number;
  running: number;
  memoryMb: number;
  compute: number;
}

/** What is promised of each host, by its id. */
export function loads(instances: readonly Instance[]): Map<string, Load> {
  const found = new Map<string, Load>();
  for (const row of instances) {
    if (!row.hostId || isGone(row)) continue;
    const load = found.get(row.hostId) ?? { instances: 0, running: 0, memoryMb: 0, compute: 0 };
    load.instances += 1;
    load.running += row.state === "running" ? 1 : 0;
    load.memoryMb += reservedMb(row);
    load.compute += row.compute ?? 0;
    found.set(row.hostId, load);
  }
  return found;
}

/** Instances by their host; those without one under "". */
export function byHost(instances: readonly Instance[]): Map<string, Instance[]> {
  const found = new Map<string, Instance[]>();
  for (const row of instances) {
    const key = row.hostId ?? "";
    const its = found.get(key);
    if (its) its.push(row);
    else found.set(key, [row]);
  }
  return found;
}

/** Where a person finds the UI of another host. */
export function uiAddress(host: Host, path: string, protocol: string): string | null {
  return host.agentAddress ? `${protocol}//${host.agentAddress}/ui${path}` : null;
}

export function imageName(row: Pick<Instance, "imageUuid">): string {
  return (row.imageUuid ?? "").replace(/^docker:/, "");
}
