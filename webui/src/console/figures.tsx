// What an instance uses, a row a second while this is looked at.

import { useEffect, useState } from "react";
import type { Figures as Told, Instance } from "../api/types";
import { bytes } from "../logic/format";
import { niceMost, path, rate } from "../logic/graph";
import { Empty, Loading, Panel } from "../parts/basics";
import { texts } from "../texts";
import { InstanceStream } from "./stream";

const SLOTS = 120;

interface Moment {
  at: number;
  cpu: number | null;
  memory: number | null;
  received: number | null;
  sent: number | null;
  read: number | null;
  written: number | null;
  processes: number | null;
}

export default function Figures({ row }: { row: Instance }) {
  const address = row.links.stats;
  const running = row.state === "running";
  const [moments, setMoments] = useState<readonly Moment[]>([]);
  const [problem, setProblem] = useState<string | null>(null);

  useEffect(() => {
    if (!address || !running) return;
    setMoments([]);
    setProblem(null);
    let before: { at: number; told: Told } | null = null;
    const stream = new InstanceStream(address, [], {
      text: (text) => {
        const told = JSON.parse(text) as Told;
        const now = { at: Date.parse(told.time), told };
        const moment = read(before, now);
        before = now;
        setMoments((was) => [...was, moment].slice(-SLOTS));
      },
      end: (end) => setProblem(end?.message ?? texts.terminal.lost),
    });
    return () => stream.close();
  }, [address, running]);

  if (!running) return <Empty title={texts.figures.stopped} />;
  if (problem) return <Empty title={problem} />;
  if (moments.length === 0) return <Loading />;
  const last = moments.at(-1)!;
  return (
    <div className="two">
      <Graph title={texts.figures.cpu} lines={[{ label: texts.figures.cpu, values: moments.map((one) => one.cpu) }]} words={(value) => `${value.toFixed(1)} %`} least={10} />
      <Graph title={texts.figures.memory} lines={[{ label: texts.figures.memory, values: moments.map((one) => one.memory) }]} words={bytes} least={1_000_000} />
      <Graph title={`${texts.figures.received} / ${texts.figures.sent}`} lines={[{ label: texts.figures.received, values: moments.map((one) => one.received) }, { label: texts.figures.sent, values: moments.map((one) => one.sent) }]} words={(value) => `${bytes(value)}/s`} least={1000} />
      <Graph title={`${texts.figures.read} / ${texts.figures.written}`} lines={[{ label: texts.figures.read, values: moments.map((one) => one.read) }, { label: texts.figures.written, values: moments.map((one) => one.written) }]} words={(value) => `${bytes(value)}/s`} least={1000} />
      {last.processes !== null && <Panel title={texts.figures.processes}><strong style={{ fontSize: "1.4rem" }}>{last.processes}</strong></Panel>}
    </div>
  );
}

function read(before: { at: number; told: Told } | null, now: { at: number; told: Told }): Moment {
  const sum = (told: Told, field: "receivedBytes" | "sentBytes") => (told.network ? Object.values(told.network).reduce((total, one) => total + one[field], 0) : null);
  const grown = (total: (told: Told) => number | null | undefined) => {
    const [was, is] = [before ? total(before.told) : null, total(now.told)];
    return is == null || was == null || !before ? null : rate({ at: before.at, total: was }, { at: now.at, total: is });
  };
  return {
    at: now.at,
    cpu: now.told.cpu?.percent ?? null,
    memory: now.told.memory?.usedBytes ?? null,
    received: grown((told) => sum(told, "receivedBytes")),
    sent: grown((told) => sum(told, "sentBytes")),
    read: grown((told) => told.blkio?.readBytes),
    written: grown((told) => told.blkio?.writtenBytes),
    processes: now.told.processes ?? null,
  };
}

interface Line {
  label: string;
  values: readonly (number | null)[];
}

function Graph({ title, lines, words, least }: { title: string; lines: readonly Line[]; words: (value: number) => string; least: number }) {
  const known = lines.flatMap((line) => line.values).filter((value): value is number => value !== null);
  if (known.length === 0) return <Panel title={title}><span className="soft">{texts.figures.absent}</span></Panel>;
  const most = niceMost(Math.max(...known), least);
  const now = lines.map((line) => `${line.label} ${words(line.values.findLast((value) => value !== null) ?? 0)}`).join(", ");
  return (
    <Panel title={title} tools={<span className="soft" style={{ fontSize: "0.85rem" }}>{now}</span>}>
      <svg className="graph" viewBox="0 0 400 100" preserveAspectRatio="none" role="img" aria-label={texts.figures.graph(title, now)}>
        {[0.25, 0.5, 0.75, 1].map((part) => <line key={part} x1="0" x2="400" y1={100 - part * 100} y2={100 - part * 100} stroke="var(--line)" vectorEffect="non-scaling-stroke" />)}
        {lines.map((line, index) => <path key={line.label} d={path(line.values, SLOTS, most, 400, 100)} fill="none" strokeWidth="1.8" strokeLinejoin="round" vectorEffect="non-scaling-stroke" stroke={index === 0 ? "var(--mantine-primary-color-filled)" : "#e8590c"} />)}
      </svg>
      <div className="soft" style={{ fontSize: "0.75rem", display: "flex", justifyContent: "space-between" }}>
        <span>{words(most)}</span>
        <span>{texts.figures.span}</span>
      </div>
    </Panel>
  );
}
