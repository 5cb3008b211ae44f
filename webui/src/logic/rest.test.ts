import { describe, expect, it } from "vitest";
import type { Host, Instance, Mesh, Peer, Row, Schema } from "../api/types";
import { matches, sorted } from "./filter";
import { body, changes, check, formFields, outer } from "./form";
import { ago, bytes, duration, memory, words } from "./format";
import { niceMost, path, rate } from "./graph";
import { loads, reservedMb, tone } from "./instance";
import { Journal } from "./journal";
import { curve, hit, layers, layout } from "./layout";
import { circle, tunnels } from "./mesh";
import { fits, meets } from "./placement";
import { inTurns } from "./turns";

describe("finding and ordering", () => {
  const row = { name: "Web-10", state: "running", host: "h2" };
  it("wants every word, in one field where it is named, or not at all", () => {
    expect(matches("web run", row)).toBe(true);
    expect(matches("web h3", row)).toBe(false);
    expect(matches("host:h2", row)).toBe(true);
    expect(matches("host:running", row)).toBe(false);
    expect(matches("-stopped web", row)).toBe(true);
    expect(matches("-state:running", row)).toBe(false);
    expect(matches("", row)).toBe(true);
    expect(matches("http://x", { name: "http://x" })).toBe(true);
  });
  it("knows numbers in names, and puts what is empty last either way", () => {
    const names = ["web-10", "web-2", null, "Web-1"];
    const order = (down: boolean) => sorted(names, { by: "it", down }, (name) => name);
    expect(order(false)).toEqual(["Web-1", "web-2", "web-10", null]);
    expect(order(true)).toEqual(["web-10", "web-2", "Web-1", null]);
  });
});

describe("numbers for people", () => {
  it("are short", () => {
    expect([bytes(0), bytes(999), bytes(1500), bytes(123_456_789)]).toEqual(["0 B", "999 B", "1.5 KB", "123 MB"]);
    expect([memory(64), memory(2048), memory(24_105)]).toEqual(["64 MB", "2.0 GB", "24 GB"]);
    expect([duration(23), duration(4810), duration(125_000)]).toEqual(["23 ms", "4.8 s", "2 min 5 s"]);
    expect([ago(0, 3000), ago(0, 59_000), ago(0, 7_200_000), ago(5000, 0)]).toEqual(["just now", "59 s ago", "2 h ago", "just now"]);
    expect([words("memoryLimitMb"), words("primaryIpAddress"), words("requestedHostId"), words("uuid")]).toEqual(["Memory limit (MB)", "Primary IP address", "Requested host", "UUID"]);
  });
});

describe("states", () => {
  it("have a tone", () => {
    expect(tone({ state: "running", transitioning: "no" })).toBe("good");
    expect(tone({ state: "stopped", transitioning: "error" })).toBe("bad");
    expect(tone({ state: "starting", transitioning: "yes" })).toBe("busy");
    expect(tone({ state: "disconnected" })).toBe("bad");
    expect(tone({ state: "removed" })).toBe("gone");
    expect(tone({ state: "stopped" })).toBe("idle");
    expect(tone({ state: "a state of tomorrow" })).toBe("idle");
  });
  it("of instances add up to a host's load", () => {
    const row = (given: Partial<Instance>) => ({ type: "container", state: "running", hostId: "1h1", ...given }) as Instance;
    const found = loads([row({}), row({ memoryLimitMb: 512 }), row({ memoryReservationMb: 100, memoryLimitMb: 512, compute: 500 }), row({ state: "removed" }), row({ hostId: null })]);
    expect(found.get("1h1")).toEqual({ instances: 3, running: 3, memoryMb: 676, compute: 500 });
    expect(found.size).toBe(1);
    expect(reservedMb(row({ type: "virtualMachine", memoryMb: 2048 }))).toBe(2048);
  });
});

describe("the journal", () => {
  const change = (id: string, state: string, message?: string) => ({ type: "container", id, revision: 1, at: 1, row: { id, type: "container", links: {}, actions: {}, name: "web", state, transitioning: message ? "error" : "no", transitioningMessage: message } as Row });
  it("tells transitions and errors once, and nothing of what stayed", () => {
    const journal = new Journal();
    journal.add([change("1i1", "starting"), change("1i1", "running"), change("1i1", "running")]);
    journal.add([change("1i1", "stopped", "no such image"), change("1i1", "stopped", "no such image")]);
    expect(journal.entries.map(({ from, to, error }) => [from, to, error])).toEqual([["running", "stopped", "no such image"], ["starting", "running", null], [null, "starting", null]]);
  });
  it("has an end", () => {
    const journal = new Journal();
    for (let number = 0; number < 900; number += 1) journal.add([change(`1i${number}`, "running")]);
    expect(journal.entries).toHaveLength(500);
  });
});

describe("forms from schemas", () => {
  const words = { required: "needed", number: "number", json: "json", atLeast: (n: number) => `>=${n}`, atMost: (n: number) => `<=${n}`, tooLong: (n: number) => `<${n}` };
  const schema = {
    resourceFields: {
      name: { type: "string", create: true, update: true, maxLength: 5 },
      count: { type: "int", create: true, min: 1, max: 100 },
      data: { type: "map[json]", create: true },
      ports: { type: "array[string]", create: true },
      state: { type: "enum" },
      url: { type: "string", create: true, required: true },
    },
  } as unknown as Schema;
  const fields = formFields(schema, "create", ["url", "name"]);
  it("have the fields that may be given, in the order asked for", () => {
    expect(fields.map(([name]) => name)).toEqual(["url", "name", "count", "data", "ports"]);
    expect(formFields(schema, "update").map(([name]) => name)).toEqual(["name"]);
    expect(outer("array[reference[instance]]")).toEqual(["array", "reference[instance]"]);
    expect(outer("string")).toEqual(["string", null]);
  });
  it("say what is wrong", () => {
    const of = (name: string, value: unknown) => check(schema.resourceFields[name]!, value, words);
    expect([of("url", ""), of("url", "x"), of("name", "abcdef"), of("count", "0"), of("count", "x"), of("count", 101), of("data", "{"), of("data", "{}"), of("count", undefined)]).toEqual(["needed", null, "<5", ">=1", "number", "<=100", "json", null, null]);
  });
  it("send only what was said, as its type wants it", () => {
    expect(body(fields, { url: "u", name: "", count: "3", data: '{"a":1}', ports: [], more: 1 })).toEqual({ url: "u", count: 3, data: { a: 1 } });
  });
  it("change only what differs, and can empty a field", () => {
    const row = { name: "web", url: "u", count: 3, ports: ["80"] };
    expect(changes(fields, { ...row }, row)).toEqual({});
    expect(changes(fields, { ...row, name: "", ports: ["80", "81"] }, row)).toEqual({ name: null, ports: ["80", "81"] });
  });
});

describe("where an instance would go", () => {
  const host = (name: string, given: Partial<Host> = {}) => ({ id: `1h${name}`, name, state: "active", capabilities: ["container"], memoryMb: 1000, labels: { zone: "eu" }, ...given }) as Host;
  it("understands rules about labels", () => {
    expect(meets("zone=eu", host("a"))).toEqual({ soft: false, holds: true });
    expect(meets("zone!=eu", host("a"))).toEqual({ soft: false, holds: false });
    expect(meets("disk!=hdd", host("a"))).toEqual({ soft: false, holds: true });
    expect(meets("cpu~=amd", host("a"))).toEqual({ soft: true, holds: false });
    expect(meets("zone~!=us", host("a"))).toEqual({ soft: true, holds: true });
    expect(meets("name=a", host("a"))).toEqual({ soft: false, holds: true });
    expect(meets("nonsense", host("a"))).toBeNull();
  });
  it("says of each host whether it fits, and why not", () => {
    const load = new Map([["1ha", { instances: 1, running: 1, memoryMb: 900, compute: 0 }]]);
    const found = fits([host("a"), host("b", { state: "inactive" }), host("c", { labels: {} }), host("d"), host("e", { capabilities: [] })], load, { memoryMb: 200, constraints: ["zone=eu"], capability: "container" });
    expect(found[0]!.host.name).toBe("d");
    expect(Object.fromEntries(found.map((fit) => [fit.host.name, fit.against]))).toEqual({
      d: null,
      a: "100 MB free, 200 MB asked for",
      b: "is inactive",
      c: "zone=eu does not hold there",
      e: "cannot run this (container)",
    });
  });
  it("prefers the emptiest host, or the fullest where that is asked, wishes before both", () => {
    const load = new Map([["1ha", { instances: 1, running: 1, memoryMb: 500, compute: 0 }]]);
    const first = (policy: string | null, constraints: string[] = []) => fits([host("a", { labels: { cpu: "amd" } }), host("b")], load, { memoryMb: 64, policy, constraints, capability: "container" })[0]!.host.name;
    expect([first(null), first("packing"), first(null, ["cpu~=amd"])]).toEqual(["b", "a", "a"]);
  });
});

describe("pictures", () => {
  const edges = [
    { id: "1", from: "web", to: "db" },
    { id: "2", from: "web", to: "cache" },
    { id: "3", from: "cache", to: "db" },
    { id: "4", from: "web", to: null },
  ];
  it("put those that others lead to on their right", () => {
    expect(layers(["db", "web", "cache"], edges)).toEqual([["web"], ["cache"], ["db"]]);
  });
  it("end where links go in circles, and where one leads to itself", () => {
    const round = [{ id: "1", from: "a", to: "b" }, { id: "2", from: "b", to: "a" }, { id: "3", from: "a", to: "a" }];
    expect(layers(["a", "b"], round).flat().sort()).toEqual(["a", "b"]);
  });
  it("find the box that something is dropped on", () => {
    const { places } = layout(["db", "web", "cache"], edges);
    const db = places.get("db")!;
    expect(hit(places, db.x + 5, db.y + 5)).toBe("db");
    expect(hit(places, -5, -5)).toBeNull();
    expect(new Set([...places.values()].map(({ x, y }) => `${x} ${y}`)).size).toBe(3);
    expect(curve(places.get("web")!, db)).toMatch(/^M[\d.]+ [\d.]+C/);
  });
  it("stand in a circle", () => {
    expect(circle(1, 10, 5, 5)).toEqual([{ x: 5, y: 5 }]);
    expect(circle(4, 10, 0, 0)[0]!.y).toBeCloseTo(-10);
  });
});

describe("tunnels", () => {
  const peer = (host: string, state: string, count = 0) => ({ host, state, bytesIn: count, bytesOut: 0, reason: state === "refused" ? "no seal" : null }) as unknown as Peer;
  const view = (host: string, peers: Peer[]) => ({ host, peers, problems: [] }) as unknown as Mesh;
  it("are one for two hosts, as bad as the worse word of both", () => {
    const found = tunnels([view("h1", [peer("h2", "up", 10), peer("h3", "up")]), view("h2", [peer("h1", "silent", 12)])]);
    expect(found.map(({ a, b, tone: its, bytes: count }) => [a, b, its, count])).toEqual([["h1", "h2", "bad", 12], ["h1", "h3", "good", 0]]);
    expect(tunnels([view("h1", [peer("h2", "refused")])])[0]!.reasons).toEqual(["no seal"]);
  });
});

describe("figures", () => {
  it("are lines that break where there is nothing", () => {
    expect(path([0, 10, null, 10], 4, 10, 30, 10)).toBe("M0.0 10.0L10.0 0.0M30.0 0.0");
    expect([niceMost(0.3), niceMost(7, 1), niceMost(1200), niceMost(0, 1000)]).toEqual([1, 10, 2000, 1000]);
  });
  it("that grow are told by the second, and not where they began anew", () => {
    expect(rate({ at: 1000, total: 100 }, { at: 3000, total: 300 })).toBe(100);
    expect(rate({ at: 1000, total: 100 }, { at: 2000, total: 10 })).toBeNull();
    expect(rate(null, { at: 1, total: 1 })).toBeNull();
  });
});

describe("doing many things", () => {
  it("does all, so many at a time", async () => {
    let under = 0;
    let most = 0;
    const done: number[] = [];
    await inTurns([1, 2, 3, 4, 5, 6, 7], 3, async (one) => {
      under += 1;
      most = Math.max(most, under);
      await new Promise((resolve) => setTimeout(resolve, 2));
      under -= 1;
      done.push(one);
    });
    expect([most, done.sort()]).toEqual([3, [1, 2, 3, 4, 5, 6, 7]]);
  });
});
