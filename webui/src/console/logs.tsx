// What an instance said, and says.

import { Button, Switch } from "@mantine/core";
import { useEffect, useLayoutEffect, useRef, useState } from "react";
import type { Instance } from "../api/types";
import { Lines, type Line } from "../logic/ansi";
import { Empty, nameOf, Panel } from "../parts/basics";
import { texts } from "../texts";
import { ERRORS, InstanceStream, OUTPUT } from "./stream";

const KEPT = 3000;
const FLUSH_MS = 120;

export default function Logs({ row }: { row: Instance }) {
  const address = row.links.logs;
  const [lines, setLines] = useState<readonly Line[]>([]);
  const [end, setEnd] = useState<string | null>(null);
  const [follow, setFollow] = useState(true);
  const [wrap, setWrap] = useState(true);
  const [round, setRound] = useState(0);
  const pane = useRef<HTMLPreElement>(null);
  const running = row.state === "running";

  useEffect(() => {
    if (!address) return;
    setLines([]);
    setEnd(null);
    let pending: Line[] = [];
    const readers: Record<number, Lines> = { [OUTPUT]: new Lines(false), [ERRORS]: new Lines(true) };
    const flush = () => {
      if (pending.length === 0) return;
      const fresh = pending;
      pending = [];
      setLines((was) => [...was, ...fresh].slice(-KEPT));
    };
    const timer = setInterval(flush, FLUSH_MS);
    const stream = new InstanceStream(address, [["follow", "true"], ["tail", String(KEPT)]], {
      piece: (channel, bytes) => {
        const reader = readers[channel];
        if (reader) pending.push(...reader.take(bytes));
        if (pending.length > KEPT) pending = pending.slice(-KEPT);
      },
      end: (last) => {
        for (const reader of Object.values(readers)) pending.push(...reader.end());
        flush();
        setEnd(last ? last.message : texts.terminal.lost);
      },
    });
    return () => {
      clearInterval(timer);
      stream.close();
    };
    // Output that is followed ends with the run: it is asked for again when it runs again.
  }, [address, running, round]);

  useLayoutEffect(() => {
    if (follow && pane.current) pane.current.scrollTop = pane.current.scrollHeight;
  }, [lines, follow]);

  function save() {
    const url = URL.createObjectURL(new Blob([lines.map((line) => line.text).join("\n")], { type: "text/plain" }));
    const anchor = document.createElement("a");
    anchor.href = url;
    anchor.download = `${row.id}.log`;
    anchor.click();
    URL.revokeObjectURL(url);
  }

  if (!address) return <Empty title={texts.logs.none} />;
  return (
    <Panel
      flush
      title={texts.instance.tabs.logs}
      tools={
        <>
          <Switch size="xs" label={texts.logs.wrap} checked={wrap} onChange={(event) => setWrap(event.currentTarget.checked)} />
          <Switch size="xs" label={texts.logs.follow} checked={follow} onChange={(event) => setFollow(event.currentTarget.checked)} />
          <Button size="compact-xs" variant="default" onClick={save} disabled={lines.length === 0}>{texts.logs.download}</Button>
          {end !== null && <Button size="compact-xs" variant="default" onClick={() => setRound((was) => was + 1)}>{texts.logs.again}</Button>}
        </>
      }
    >
      <pre
        className="log"
        ref={pane}
        tabIndex={0}
        role="log"
        aria-label={`${texts.logs.label}: ${nameOf(row).slice(0, 80)}`}
        style={wrap ? undefined : { whiteSpace: "pre", overflowWrap: "normal" }}
        onScroll={(event) => {
          const { scrollTop, scrollHeight, clientHeight } = event.currentTarget;
          setFollow(scrollHeight - scrollTop - clientHeight < 24);
        }}
      >
        {lines.map((line, index) => <div key={index} className={line.error ? "error-line" : undefined}>{line.text || " "}</div>)}
        {lines.length === 0 && end !== null && <div>{texts.logs.empty}</div>}
        {end !== null && <div style={{ opacity: 0.65 }}>{texts.logs.ended(end)}</div>}
      </pre>
    </Panel>
  );
}
