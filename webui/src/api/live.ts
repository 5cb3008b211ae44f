// The one stream of events that everything on the page lives from.
//
//   connecting ──first message──► live ──closed, or silent for 12 s──► lost ──tries again, backing off──► connecting
//
// After a loss the stream goes on from the last revision that was heard, so nothing is missed; where the server does not
// keep that any more, or a second try fails, it begins anew and everything that is held is asked for again.

import { backoff, type Change } from "../logic/merge";
import { socketAddress } from "./client";
import type { Row } from "./types";

export interface LiveState {
  phase: "connecting" | "live" | "lost";
  /** Since when it is lost, milliseconds. */
  lostAt: number | null;
}

interface Told {
  name: string;
  code?: string;
  revision?: number;
  resourceType?: string;
  resourceId?: string;
  data?: { resource?: Row };
}

export interface LiveListener {
  /** At most ten times a second. */
  changed(changes: readonly Change[]): void;
  /** What was held may be old. */
  gap(): void;
}

/** A ping comes every 5 s. */
const SILENCE_MS = 12_000;
const FLUSH_MS = 100;
/** For lists that are being loaded while events come. */
const KEPT_MS = 60_000;
const KEPT_MOST = 20_000;

export class Live {
  state: LiveState = { phase: "connecting", lostAt: null };
  private socket: WebSocket | null = null;
  private revision: number | null = null;
  private resumable = false;
  private attempt = 0;
  private stopped = true;
  private timers = { silence: 0, retry: 0, flush: 0 };
  private pending: Change[] = [];
  private kept: Change[] = [];
  private watchers = new Set<() => void>();

  constructor(
    private readonly listener: LiveListener,
    private readonly open: (address: string) => WebSocket = (address) => new WebSocket(address),
  ) {}

  start(): void {
    if (!this.stopped) return;
    this.stopped = false;
    this.connect();
  }

  stop(): void {
    this.stopped = true;
    clearTimeout(this.timers.silence);
    clearTimeout(this.timers.retry);
    this.drop();
    this.revision = null;
    this.resumable = false;
    this.kept = [];
    this.pending = [];
    this.turn({ phase: "connecting", lostAt: null });
  }

  /** Without waiting for the next try by itself. */
  tryNow(): void {
    if (this.stopped || this.state.phase === "live") return;
    clearTimeout(this.timers.retry);
    this.drop();
    this.connect();
  }

  /** What came since a moment, for whoever loaded meanwhile. */
  since(moment: number): Change[] {
    return this.kept.filter((change) => change.at >= moment);
  }

  /** For `useSyncExternalStore`. */
  watch = (watcher: () => void): (() => void) => {
    this.watchers.add(watcher);
    return () => this.watchers.delete(watcher);
  };

  snapshot = (): LiveState => this.state;

  private connect(): void {
    const since = this.resumable && this.revision !== null ? `&since=${this.revision}` : "";
    const begun = !since;
    const socket = this.open(socketAddress(`/v1/subscribe?eventNames=resource.change${since}`));
    this.socket = socket;
    this.listen();
    let heard = false;
    socket.onmessage = (message) => {
      if (socket !== this.socket) return;
      this.listen();
      if (!heard) {
        heard = true;
        this.attempt = 0;
        this.turn({ phase: "live", lostAt: null });
        if (begun && this.revision !== null) this.listener.gap();
        this.resumable = true;
      }
      this.take(JSON.parse(String(message.data)) as Told);
    };
    socket.onclose = () => {
      if (socket === this.socket) this.lose(heard);
    };
  }

  private take(told: Told): void {
    if (told.name === "error") {
      if (told.code === "RevisionGone" || told.code === "SlowReader") this.resumable = told.code === "SlowReader";
      return;
    }
    if (told.revision !== undefined) this.revision = told.revision;
    const row = told.data?.resource;
    if (told.name !== "resource.change" || !row || !told.resourceId || !told.resourceType) return;
    const change = { type: told.resourceType, id: told.resourceId, row, revision: told.revision ?? 0, at: Date.now() };
    this.pending.push(change);
    this.kept.push(change);
    if (!this.timers.flush) this.timers.flush = window.setTimeout(() => this.flush(), FLUSH_MS);
  }

  private flush(): void {
    this.timers.flush = 0;
    const oldest = Date.now() - KEPT_MS;
    const from = this.kept.findIndex((change) => change.at >= oldest);
    this.kept = this.kept.slice(Math.max(from < 0 ? this.kept.length : from, this.kept.length - KEPT_MOST));
    const changes = this.pending;
    this.pending = [];
    if (changes.length > 0) this.listener.changed(changes);
  }

  private listen(): void {
    clearTimeout(this.timers.silence);
    this.timers.silence = window.setTimeout(() => this.lose(true), SILENCE_MS);
  }

  private lose(wasLive: boolean): void {
    clearTimeout(this.timers.silence);
    this.drop();
    if (this.stopped) return;
    // A stream that could not even begin may have asked for what is not kept any more.
    if (!wasLive && this.attempt > 0) this.resumable = false;
    this.turn({ phase: "lost", lostAt: this.state.lostAt ?? Date.now() });
    this.timers.retry = window.setTimeout(() => this.connect(), backoff(this.attempt++));
  }

  private drop(): void {
    const socket = this.socket;
    this.socket = null;
    socket?.close();
  }

  private turn(state: LiveState): void {
    if (state.phase === this.state.phase && state.lostAt === this.state.lostAt) return;
    this.state = state;
    for (const watcher of this.watchers) watcher();
  }
}
