// A virtual machine's screen: VNC over the API's own WebSocket. noVNC is loaded when it is asked for.

import { Button } from "@mantine/core";
import { useEffect, useRef, useState } from "react";
import { post, socketAddress } from "../api/client";
import type { Instance } from "../api/types";
import { Empty, nameOf, Panel, Problem } from "../parts/basics";
import { texts } from "../texts";
import type RFB from "@novnc/novnc";

interface Access {
  url: string;
  password?: string | null;
  kind?: string;
}

export default function Screen({ row }: { row: Instance }) {
  const place = useRef<HTMLDivElement>(null);
  const rfb = useRef<RFB | null>(null);
  const [round, setRound] = useState(0);
  const [state, setState] = useState<"connecting" | "there" | "lost">("connecting");
  const [problem, setProblem] = useState<unknown>(null);
  const address = row.actions.console;

  useEffect(() => {
    const element = place.current;
    if (!element || !address) return;
    let over = false;
    setState("connecting");
    setProblem(null);
    void (async () => {
      try {
        const [{ default: Remote }, access] = await Promise.all([import("@novnc/novnc"), post<Access>(address, {})]);
        if (over) return;
        const remote = new Remote(element, socketAddress(access.url), { credentials: { password: access.password ?? undefined } });
        remote.scaleViewport = true;
        remote.background = "#14161a";
        remote.addEventListener("connect", () => setState("there"));
        remote.addEventListener("disconnect", () => !over && setState("lost"));
        rfb.current = remote;
      } catch (error) {
        if (!over) setProblem(error);
      }
    })();
    return () => {
      over = true;
      rfb.current?.disconnect();
      rfb.current = null;
    };
  }, [address, round]);

  if (!address) return <Empty title={texts.console.notRunning} />;
  return (
    <Panel
      flush
      title={texts.instance.tabs.console}
      tools={
        <>
          <span className="soft" role="status">{state === "connecting" ? texts.console.connecting : state === "lost" ? texts.console.lost : ""}</span>
          <Button size="compact-xs" variant="default" disabled={state !== "there"} onClick={() => rfb.current?.sendCtrlAltDel()}>{texts.console.keys}</Button>
          {state === "lost" && <Button size="compact-xs" onClick={() => setRound((was) => was + 1)}>{texts.console.open}</Button>}
        </>
      }
    >
      {problem != null && <Problem error={problem} retry={() => setRound((was) => was + 1)} />}
      <div ref={place} className="console" role="application" aria-label={`${texts.instance.tabs.console}: ${nameOf(row).slice(0, 80)}`} />
    </Panel>
  );
}
