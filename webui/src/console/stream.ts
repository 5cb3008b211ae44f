// A stream of an instance over a WebSocket: docs/api.md, "Output, commands, figures".

import { socketAddress } from "../api/client";

export const OUTPUT = 1;
export const ERRORS = 2;
export const END = 3;
const INPUT = 0;
const SIZE = 4;

export interface End {
  code: string;
  message: string;
  exitCode?: number;
}

export interface StreamListener {
  piece?: (channel: number, bytes: Uint8Array) => void;
  text?: (text: string) => void;
  /** Once; `null` where the connection broke without a last word. */
  end: (end: End | null) => void;
}

export class InstanceStream {
  private readonly socket: WebSocket;
  private last: End | null = null;
  private closed = false;

  constructor(address: string, parameters: [string, string][], private readonly listener: StreamListener) {
    const query = new URLSearchParams(parameters).toString();
    this.socket = new WebSocket(socketAddress(`${address}${query ? `?${query}` : ""}`));
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = (message) => this.take(message.data as ArrayBuffer | string);
    this.socket.onclose = (event) => {
      if (this.closed) return;
      this.closed = true;
      listener.end(this.last ?? (event.reason ? { code: String(event.code), message: event.reason } : null));
    };
  }

  send(bytes: Uint8Array): void {
    this.write(INPUT, bytes);
  }

  resize(columns: number, rows: number): void {
    this.write(SIZE, new TextEncoder().encode(JSON.stringify({ columns, rows })));
  }

  close(): void {
    this.closed = true;
    this.socket.close();
  }

  private take(data: ArrayBuffer | string): void {
    if (this.closed) return;
    if (typeof data === "string") {
      this.listener.text?.(data);
      return;
    }
    const bytes = new Uint8Array(data);
    const channel = bytes[0] ?? 0;
    const rest = bytes.subarray(1);
    if (channel === END) {
      try {
        this.last = JSON.parse(new TextDecoder().decode(rest)) as End;
      } catch {
        this.last = null;
      }
      return;
    }
    this.listener.piece?.(channel, rest);
  }

  private write(channel: number, bytes: Uint8Array): void {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    const message = new Uint8Array(bytes.length + 1);
    message[0] = channel;
    message.set(bytes, 1);
    this.socket.send(message);
  }
}
