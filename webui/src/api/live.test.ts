import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Live } from "./live";

class Socket {
  static all: Socket[] = [];
  onmessage: ((message: { data: string }) => void) | null = null;
  onclose: (() => void) | null = null;
  closed = false;

  constructor(readonly address: string) {
    Socket.all.push(this);
  }

  close() {
    this.closed = true;
  }

  say(told: object) {
    this.onmessage?.({ data: JSON.stringify(told) });
  }

  breaks() {
    this.onclose?.();
  }
}

const last = () => Socket.all.at(-1)!;
const event = (id: string, state: string, revision: number) => ({ name: "resource.change", revision, resourceType: "container", resourceId: id, data: { resource: { id, state, type: "container", links: {}, actions: {} } } });

describe("the stream of events", () => {
  const changed = vi.fn();
  const gap = vi.fn();
  let live: Live;

  beforeEach(() => {
    vi.useFakeTimers();
    Socket.all = [];
    changed.mockReset();
    gap.mockReset();
    live = new Live({ changed, gap }, (address) => new Socket(address) as unknown as WebSocket);
    live.start();
  });

  afterEach(() => {
    live.stop();
    vi.useRealTimers();
  });

  it("is live with the first message, and tells changes together, ten times a second at most", () => {
    expect(live.state.phase).toBe("connecting");
    last().say({ name: "ping", revision: 3 });
    expect(live.state.phase).toBe("live");
    last().say(event("1i1", "starting", 4));
    last().say(event("1i1", "running", 5));
    expect(changed).not.toHaveBeenCalled();
    vi.advanceTimersByTime(120);
    expect(changed).toHaveBeenCalledTimes(1);
    expect(changed.mock.calls[0]![0]).toHaveLength(2);
    expect(gap).not.toHaveBeenCalled();
  });

  it("goes on from where it was after it broke, and nothing is asked for again", () => {
    last().say({ name: "ping", revision: 3 });
    last().say(event("1i1", "running", 7));
    last().breaks();
    expect(live.state.phase).toBe("lost");
    vi.advanceTimersByTime(600);
    expect(Socket.all).toHaveLength(2);
    expect(last().address).toContain("since=7");
    last().say({ name: "ping", revision: 9 });
    expect(live.state).toEqual({ phase: "live", lostAt: null });
    expect(gap).not.toHaveBeenCalled();
  });

  it("begins anew where what it missed is not kept, and says that there is a gap", () => {
    last().say({ name: "ping", revision: 3 });
    last().breaks();
    vi.advanceTimersByTime(600);
    last().breaks();
    vi.advanceTimersByTime(20_000);
    const begunAnew = Socket.all.find((socket) => Socket.all.indexOf(socket) > 1 && !socket.address.includes("since"));
    expect(begunAnew).toBeDefined();
    last().say({ name: "ping", revision: 900 });
    expect(gap).toHaveBeenCalledTimes(1);
  });

  it("begins anew at once where it is told so", () => {
    last().say({ name: "ping", revision: 3 });
    last().say({ name: "error", code: "RevisionGone" });
    last().breaks();
    vi.advanceTimersByTime(600);
    expect(last().address).not.toContain("since");
  });

  it("notices a node that says nothing any more", () => {
    last().say({ name: "ping", revision: 3 });
    const first = last();
    vi.advanceTimersByTime(11_000);
    expect(live.state.phase).toBe("live");
    vi.advanceTimersByTime(1_500);
    expect(live.state.phase).toBe("lost");
    expect(first.closed).toBe(true);
    // What the old one says late is not heard.
    first.say(event("1i1", "running", 5));
    vi.advanceTimersByTime(200);
    expect(changed).not.toHaveBeenCalled();
  });

  it("keeps what came for lists that are being loaded", () => {
    last().say({ name: "ping", revision: 3 });
    const begun = Date.now();
    vi.advanceTimersByTime(10);
    last().say(event("1i1", "running", 4));
    expect(live.since(begun).map((one) => one.id)).toEqual(["1i1"]);
    expect(live.since(Date.now() + 1)).toEqual([]);
  });

  it("stops when it is told to", () => {
    last().say({ name: "ping", revision: 3 });
    live.stop();
    vi.advanceTimersByTime(60_000);
    expect(Socket.all).toHaveLength(1);
  });
});
