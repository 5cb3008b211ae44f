// Asking the API. Whatever comes back that is no success is thrown as an `ApiError` with words for people.

import { texts } from "../texts";

export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    /** The field of the form that is wrong. */
    readonly field: string | null = null,
  ) {
    super(message);
  }
}

/** Only the path of an address of ours: it is asked where the page came from, whatever a proxy made of the name. */
export function local(address: string): string {
  const url = new URL(address, location.origin);
  return url.pathname + url.search;
}

function cookie(name: string): string {
  const pair = document.cookie.split("; ").find((one) => one.startsWith(`${name}=`));
  return pair ? pair.slice(name.length + 1) : "";
}

/** Called when the session is over, with the first 401. */
export const unauthorized = new EventTarget();
/** What the last answers said of the store: whether it is away. */
export const freshness = { stale: false, listeners: new Set<() => void>() };

function noteFreshness(answer: Response): void {
  const stale = answer.headers.has("X-Stampede-Stale");
  if (stale === freshness.stale) return;
  freshness.stale = stale;
  for (const listener of freshness.listeners) listener();
}

export interface Answer<T> {
  body: T;
  status: number;
  etag: string | null;
}

/** Longer than the agent itself has for an answer. */
const PATIENCE_MS = 65_000;

export async function ask<T>(method: string, address: string, body?: unknown, headers: Record<string, string> = {}): Promise<Answer<T>> {
  const all: Record<string, string> = { Accept: "application/json", "X-API-No-Challenge": "true", ...headers };
  if (method !== "GET") all["X-API-CSRF"] = cookie("CSRF");
  if (body !== undefined) all["Content-Type"] = "application/json";
  let answer: Response;
  let text: string;
  try {
    answer = await fetch(local(address), {
      method,
      headers: all,
      credentials: "same-origin",
      body: body === undefined ? undefined : JSON.stringify(body),
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
    text = await answer.text();
  } catch {
    throw new ApiError(0, "NoAnswer", texts.errors.noAnswer);
  }
  noteFreshness(answer);
  const read = parse(text);
  if (!answer.ok) {
    if (answer.status === 401 && !address.endsWith("/session")) unauthorized.dispatchEvent(new Event("over"));
    throw problem(answer.status, read);
  }
  return { body: read as T, status: answer.status, etag: answer.headers.get("ETag") };
}

function parse(text: string): unknown {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return { code: "NotJson", message: text.slice(0, 300) };
  }
}

function problem(status: number, body: unknown): ApiError {
  const { code, message, detail, fieldName } = (body ?? {}) as Record<string, string | null | undefined>;
  const words = [message, detail].filter(Boolean).join(" — ");
  return new ApiError(status, code ?? `Status ${status}`, words || (code ?? texts.errors.status(status)), fieldName ?? null);
}

export const get = async <T>(address: string): Promise<T> => (await ask<T>("GET", address)).body;
export const post = async <T>(address: string, body?: unknown): Promise<T> => (await ask<T>("POST", address, body ?? {})).body;
export const put = async <T>(address: string, body: unknown): Promise<T> => (await ask<T>("PUT", address, body)).body;
export const remove = async <T>(address: string): Promise<T> => (await ask<T>("DELETE", address)).body;

/** A WebSocket's address for one of ours. */
export function socketAddress(address: string): string {
  const url = new URL(local(address), location.origin);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  return url.href;
}
