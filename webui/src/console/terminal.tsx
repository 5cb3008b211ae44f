// A shell in an instance that runs.

import { Button, TextInput } from "@mantine/core";
import { FitAddon } from "@xterm/addon-fit";
import { Terminal } from "@xterm/xterm";
import "@xterm/xterm/css/xterm.css";
import { useEffect, useRef, useState } from "react";
import type { Instance } from "../api/types";
import { Empty, nameOf, Panel } from "../parts/basics";
import { texts } from "../texts";
import { ERRORS, InstanceStream, OUTPUT } from "./stream";

const SCROLLBACK = 5000;
/** A better shell where there is one. */
const BEST = ["sh", "-c", "command -v bash >/dev/null 2>&1 && exec bash -l || exec sh -l"];

export default function TerminalPane({ row }: { row: Instance }) {
  const place = useRef<HTMLDivElement>(null);
  const [program, setProgram] = useState("");
  const [command, setCommand] = useState<string[]>(BEST);
  const [round, setRound] = useState(0);
  const [ended, setEnded] = useState(false);
  const address = row.links.exec;
  const running = row.state === "running";

  useEffect(() => {
    const element = place.current;
    if (!element || !address || !running) return;
    setEnded(false);
    const terminal = new Terminal({ scrollback: SCROLLBACK, fontSize: 13, cursorBlink: true, theme: { background: "#14161a" }, fontFamily: "ui-monospace, Menlo, 'DejaVu Sans Mono', monospace", screenReaderMode: true });
    const fit = new FitAddon();
    terminal.loadAddon(fit);
    terminal.open(element);
    fit.fit();
    const size: [string, string][] = [["columns", String(terminal.cols)], ["rows", String(terminal.rows)]];
    const stream = new InstanceStream(
      address,
      [...command.map((part): [string, string] => ["command", part]), ["stdin", "true"], ["tty", "true"], ["environment", "TERM=xterm-256color"], ...size],
      {
        piece: (channel, bytes) => {
          if (channel === OUTPUT || channel === ERRORS) terminal.write(bytes);
        },
        end: (end) => {
          terminal.write(`\r\n\x1b[2m${texts.terminal.ended(end?.message ?? texts.terminal.lost).replace(/[^\x20-\x7e]/g, "")}\x1b[0m\r\n`);
          setEnded(true);
        },
      },
    );
    const encoder = new TextEncoder();
    const typed = terminal.onData((text) => stream.send(encoder.encode(text)));
    const resized = terminal.onResize(({ cols, rows }) => stream.resize(cols, rows));
    // Tab is the shell's: the way out by keyboard is another one.
    terminal.attachCustomKeyEventHandler((event) => {
      if (event.key === "Escape" && event.ctrlKey && event.shiftKey) {
        terminal.blur();
        document.getElementById("content")?.focus();
        return false;
      }
      return true;
    });
    const watcher = new ResizeObserver(() => fit.fit());
    watcher.observe(element);
    terminal.focus();
    return () => {
      watcher.disconnect();
      typed.dispose();
      resized.dispose();
      stream.close();
      terminal.dispose();
    };
  }, [address, running, command, round]);

  if (!address) return <Empty title={texts.terminal.notYours} />;
  if (!running) return <Empty title={texts.terminal.notRunning} />;
  return (
    <Panel
      flush
      title={texts.instance.tabs.terminal}
      tools={
        <form
          style={{ display: "flex", gap: 8 }}
          onSubmit={(event) => {
            event.preventDefault();
            setCommand(program.trim() ? program.trim().split(/\s+/) : BEST);
            setRound((was) => was + 1);
          }}
        >
          <TextInput size="xs" aria-label={texts.terminal.shell} placeholder={texts.terminal.shell} value={program} onChange={(event) => setProgram(event.currentTarget.value)} w={150} />
          <Button size="xs" type="submit" variant={ended ? "filled" : "default"}>{texts.terminal.open}</Button>
        </form>
      }
    >
      <div ref={place} className="console" role="group" aria-label={`${texts.terminal.label}: ${nameOf(row).slice(0, 80)}`} />
      <div className="soft" style={{ fontSize: "0.78rem", padding: "6px 16px" }}>{texts.terminal.hint}</div>
    </Panel>
  );
}
