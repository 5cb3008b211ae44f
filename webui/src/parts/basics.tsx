// Small parts that every screen has.

import { Alert, Button, Center, Group, Loader } from "@mantine/core";
import { useClipboard } from "@mantine/hooks";
import type { LucideIcon } from "lucide-react";
import { useEffect, useSyncExternalStore, type ButtonHTMLAttributes, type MouseEvent, type ReactNode } from "react";
import { Link } from "wouter";
import type { Row } from "../api/types";
import { ago, date, percent } from "../logic/format";
import { tone, type Tone } from "../logic/instance";
import { texts } from "../texts";
import { CheckIcon, CopyIcon, MoreIcon } from "./icons";
import { useMenu, type MenuEntry } from "./menu";

/** One timer for all that show a time, by how often they want it told. */
const tickers = new Map<number, { now: number; watchers: Set<() => void>; timer: number }>();

function watch(everyMs: number, watcher: () => void): () => void {
  let ticker = tickers.get(everyMs);
  if (!ticker) {
    const made = { now: Date.now(), watchers: new Set<() => void>(), timer: 0 };
    made.timer = window.setInterval(() => {
      made.now = Date.now();
      for (const one of made.watchers) one();
    }, everyMs);
    tickers.set(everyMs, made);
    ticker = made;
  }
  const { watchers, timer } = ticker;
  watchers.add(watcher);
  return () => {
    watchers.delete(watcher);
    if (watchers.size > 0) return;
    clearInterval(timer);
    tickers.delete(everyMs);
  };
}

const SLOW = { subscribe: (watcher: () => void) => watch(10_000, watcher), snapshot: () => tickers.get(10_000)?.now ?? Math.floor(Date.now() / 10_000) * 10_000 };
const QUICK = { subscribe: (watcher: () => void) => watch(1000, watcher), snapshot: () => tickers.get(1000)?.now ?? Math.floor(Date.now() / 1000) * 1000 };

/** The time, told anew every ten seconds, or each. */
export function useNow(each?: "second"): number {
  const ticker = each ? QUICK : SLOW;
  return useSyncExternalStore(ticker.subscribe, ticker.snapshot);
}

export function Dot({ tone: shown }: { tone: Tone }) {
  return <span className="dot" data-tone={shown} aria-hidden />;
}

export function StateBadge({ row }: { row: Row }) {
  return (
    <span className="state" data-tone={tone(row)}>
      <Dot tone={tone(row)} />
      {row.state ?? ""}
    </span>
  );
}

/** While something is under way; how far, where that is known. */
export function Progress({ row }: { row: Row }) {
  if (row.transitioning !== "yes") return null;
  const known = typeof row.transitioningProgress === "number" ? row.transitioningProgress : null;
  return (
    <div className="progress" role="progressbar" aria-label={row.state ?? ""} aria-valuenow={known ?? undefined} aria-valuemin={0} aria-valuemax={100} data-unknown={known === null || undefined}>
      <div style={known === null ? undefined : { width: `${known}%` }} />
    </div>
  );
}

/** Why the last step failed, or how far the present one is. */
export function Message({ row, className }: { row: Row; className?: string }) {
  if (!row.transitioningMessage || row.transitioning === "no" || !row.transitioning) return null;
  return (
    <span className={`wrap ${className ?? ""}`} style={{ color: row.transitioning === "error" ? "var(--tone-bad)" : "var(--ink-soft)" }}>
      {row.transitioningMessage}
    </span>
  );
}

export function Gauge({ label, part, whole, words }: { label: string; part: number; whole: number; words: string }) {
  const filled = percent(part, whole);
  return (
    <div>
      <div className="gauge-label">
        <span>{label}</span>
        <span>{words}</span>
      </div>
      <div className="gauge-bar" role="meter" aria-label={label} aria-valuenow={Math.round(filled)} aria-valuemin={0} aria-valuemax={100} aria-valuetext={words}>
        <div data-full={filled >= 95 || undefined} style={{ width: `${filled}%` }} />
      </div>
    </div>
  );
}

export function Ago({ at }: { at: number | null | undefined }) {
  const now = useNow();
  if (!at) return null;
  return <time dateTime={new Date(at).toISOString()} title={date(at)}>{ago(at, now)}</time>;
}

interface ToolProps extends Pick<ButtonHTMLAttributes<HTMLButtonElement>, "disabled" | "aria-haspopup"> {
  label: string;
  icon: LucideIcon;
  onClick?: (event: MouseEvent<HTMLButtonElement>) => void;
  href?: string;
  to?: string;
  small?: boolean;
}

/** A button that is an icon: its words are for the pointer and for screen readers. Plain, as there are hundreds. */
export function Tool({ label, icon: Icon, onClick, href, to, small, ...rest }: ToolProps) {
  const inner = <Icon size={small ? 15 : 17} aria-hidden />;
  const shared = { "aria-label": label, title: label, className: small ? "tool small" : "tool" };
  if (to) return <Link to={to} {...shared}>{inner}</Link>;
  if (href) return <a href={href} target="_blank" rel="noreferrer" {...shared}>{inner}</a>;
  return <button type="button" onClick={onClick} {...shared} {...rest}>{inner}</button>;
}

/** Opens the page's menu with what its row can be asked for now. */
export function MenuTool({ label, entries, small }: { label: string; entries: () => MenuEntry[]; small?: boolean }) {
  const open = useMenu();
  return <Tool icon={MoreIcon} label={label} small={small} aria-haspopup="menu" onClick={(event) => open(event.currentTarget, label, entries())} />;
}

export function Copy({ text, label }: { text: string; label?: string }) {
  const clipboard = useClipboard({ timeout: 1500 });
  return <Tool small label={clipboard.copied ? texts.common.copied : (label ?? texts.common.copy)} icon={clipboard.copied ? CheckIcon : CopyIcon} onClick={() => clipboard.copy(text)} />;
}

export function Empty({ title, hint, children }: { title: string; hint?: string; children?: ReactNode }) {
  return (
    <Center p="xl" style={{ textAlign: "center" }}>
      <div>
        <div>{title}</div>
        {hint && <div className="soft" style={{ marginTop: 4, maxWidth: 460 }}>{hint}</div>}
        {children && <Group justify="center" mt="md">{children}</Group>}
      </div>
    </Center>
  );
}

export function Loading() {
  return (
    <Center p="xl">
      <Loader size="sm" aria-label={texts.common.loading} role="status" />
    </Center>
  );
}

export function Problem({ error, retry }: { error: unknown; retry?: () => void }) {
  return (
    <Alert color="red" variant="light" title={texts.errors.title} my="sm" role="alert">
      <div className="wrap">{error instanceof Error ? error.message : String(error)}</div>
      {retry && <Button mt="sm" size="xs" variant="default" onClick={retry}>{texts.errors.retry}</Button>}
    </Alert>
  );
}

export function Page({ title, tools, children }: { title: ReactNode; tools?: ReactNode; children: ReactNode }) {
  useEffect(() => {
    if (typeof title === "string") document.title = `${title} · ${texts.product}`;
  }, [title]);
  return (
    <>
      <Group justify="space-between" mb="md" gap="sm" wrap="wrap">
        {typeof title === "string" ? <h1 style={{ margin: 0, fontSize: "1.35rem" }}>{title}</h1> : title}
        {tools && <Group gap="xs">{tools}</Group>}
      </Group>
      {children}
    </>
  );
}

export function Panel({ title, tools, children, flush }: { title?: ReactNode; tools?: ReactNode; children: ReactNode; flush?: boolean }) {
  return (
    <section className="panel">
      {title && (
        <div className="panel-head">
          <h2>{title}</h2>
          {tools && <Group gap="xs">{tools}</Group>}
        </div>
      )}
      <div className={flush ? "scroll-x" : "panel-body"}>{children}</div>
    </section>
  );
}

/** Names and values; what has no value is left out. */
export function Facts({ rows }: { rows: readonly (readonly [string, ReactNode])[] }) {
  return (
    <dl className="facts">
      {rows.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false).map(([name, value]) => (
        <div key={name} style={{ display: "contents" }}>
          <dt>{name}</dt>
          <dd className="wrap">{value}</dd>
        </div>
      ))}
    </dl>
  );
}

export function nameOf(row: Pick<Row, "name" | "id"> | undefined | null): string {
  return row ? row.name || row.id : "";
}
