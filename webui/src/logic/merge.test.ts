import { describe, expect, it } from "vitest";
import type { Row } from "../api/types";
import { backoff, merge, type Change } from "./merge";

const row = (id: string, state: string): Row => ({ id, type: "container", links: {}, actions: {}, state });
const change = (id: string, state: string, revision = 1): Change => ({ type: "container", id, row: row(id, state), revision, at: 0 });

describe("merge", () => {
  it("keeps the order, changes what changed, adds what is new, forgets what is purged", () => {
    const rows = [row("1i1", "running"), row("1i2", "running"), row("1i3", "removed")];
    const merged = merge(rows, [change("1i2", "stopping"), change("1i3", "purged"), change("1i4", "creating"), change("1i2", "stopped", 2)]);
    expect(merged.map(({ id, state }) => `${id} ${state}`)).toEqual(["1i1 running", "1i2 stopped", "1i4 creating"]);
    expect(merged[0]).toBe(rows[0]);
  });

  it("gives the same array back where nothing was told", () => {
    const rows = [row("1i1", "running")];
    expect(merge(rows, [])).toBe(rows);
  });

  it("does not bring back what came and went", () => {
    expect(merge([], [change("1i1", "creating"), change("1i1", "purged", 2)])).toEqual([]);
  });

  it("does it for thousands at once", () => {
    const rows = Array.from({ length: 5000 }, (_, index) => row(`1i${index}`, "running"));
    const begun = performance.now();
    for (let round = 0; round < 10; round += 1) merge(rows, rows.slice(0, 200).map(({ id }) => change(id, "stopping")));
    expect((performance.now() - begun) / 10).toBeLessThan(50);
  });
});

describe("backoff", () => {
  it("grows, is spread, and has an end", () => {
    expect(backoff(0, () => 0)).toBe(250);
    expect(backoff(0, () => 1)).toBe(500);
    expect(backoff(3, () => 0)).toBe(2000);
    expect(backoff(50, () => 1)).toBe(10_000);
  });
});
