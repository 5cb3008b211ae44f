// Tunnels between hosts, of what each host says of each other.

import type { Mesh, Peer, PeerState } from "../api/types";
import type { Tone } from "./instance";

export function peerTone(state: PeerState): Tone {
  return ({ up: "good", plain: "idle", waiting: "busy", silent: "bad", refused: "bad" } as const)[state];
}

export interface Tunnel {
  a: string;
  b: string;
  /** The worse of both sides' words. */
  tone: Tone;
  states: string;
  bytes: number;
  reasons: string[];
}

const WORSE: Tone[] = ["good", "idle", "gone", "busy", "bad"];

/** One for each two hosts of which at least one speaks. */
export function tunnels(views: readonly Mesh[]): Tunnel[] {
  const found = new Map<string, Tunnel>();
  for (const view of views) {
    for (const peer of view.peers) {
      const [a, b] = [view.host, peer.host].sort() as [string, string];
      const key = `${a}\n${b}`;
      found.set(key, join(found.get(key), { a, b }, peer, view.host));
    }
  }
  return [...found.values()];
}

function join(held: Tunnel | undefined, ends: { a: string; b: string }, peer: Peer, teller: string): Tunnel {
  const tone = peerTone(peer.state);
  const word = `${teller}: ${peer.state}`;
  if (!held) return { ...ends, tone, states: word, bytes: peer.bytesIn + peer.bytesOut, reasons: peer.reason ? [peer.reason] : [] };
  return {
    ...held,
    tone: WORSE.indexOf(tone) > WORSE.indexOf(held.tone) ? tone : held.tone,
    states: `${held.states}, ${word}`,
    // Each side counts the same traffic.
    bytes: Math.max(held.bytes, peer.bytesIn + peer.bytesOut),
    reasons: peer.reason ? [...held.reasons, peer.reason] : held.reasons,
  };
}

/** Places on a circle, the first at the top. */
export function circle(count: number, radius: number, cx: number, cy: number): { x: number; y: number }[] {
  if (count === 1) return [{ x: cx, y: cy }];
  return Array.from({ length: count }, (_, index) => {
    const angle = (2 * Math.PI * index) / count - Math.PI / 2;
    return { x: cx + radius * Math.cos(angle), y: cy + radius * Math.sin(angle) };
  });
}
