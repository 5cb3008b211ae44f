// How the cluster is: whether it is well, what it holds, what needs somebody, what just happened.

import { useMemo } from "react";
import { useQuery } from "@tanstack/react-query";
import { Link } from "wouter";
import { get } from "../api/client";
import { useJournal, useRows } from "../api/hooks";
import type { Collection, Host, Instance, ProcessInstance } from "../api/types";
import { sorted } from "../logic/filter";
import { memory } from "../logic/format";
import { isGone, isVm, loads, tone } from "../logic/instance";
import { Dot, Empty, Loading, Message, nameOf, Page, Panel, Problem } from "../parts/basics";
import { Processes } from "../parts/history";
import { WarningIcon } from "../parts/icons";
import { JournalTable } from "../parts/journal-table";
import { texts } from "../texts";
import { Gauges } from "./hosts";

const SHOWN = 12;

export default function Overview() {
  const hosts = useRows<Host>("hosts");
  const instances = useRows<Instance>("instances");
  const journal = useJournal();
  const all = useMemo(() => (instances.data ?? []).filter((row) => !isGone(row)), [instances.data]);
  const load = useMemo(() => loads(all), [all]);
  const here = useMemo(() => sorted((hosts.data ?? []).filter((host) => !isGone(host)), { by: "name", down: false }, (host) => host.name), [hosts.data]);
  if (hosts.isError) return <Problem error={hosts.error} retry={() => void hosts.refetch()} />;
  if (!hosts.data || !instances.data) return <Loading />;

  const containers = all.filter((row) => !isVm(row));
  const vms = all.filter(isVm);
  const running = (rows: readonly Instance[]) => rows.filter((row) => row.state === "running").length;
  const whole = here.reduce((sum, host) => sum + (host.memoryMb ?? 0), 0);
  const promised = [...load.values()].reduce((sum, one) => sum + one.memoryMb, 0);
  const active = here.filter((host) => host.state === "active").length;
  return (
    <Page title={texts.overview.title}>
      <div className="stack">
        <div className="tiles">
          <Tile to="/hosts" label={texts.overview.hosts} value={here.length} note={texts.overview.active(active)} />
          <Tile to="/instances?kind=container" label={texts.overview.containers} value={containers.length} note={texts.overview.running(running(containers))} />
          <Tile to="/instances?kind=vm" label={texts.overview.vms} value={vms.length} note={texts.overview.running(running(vms))} />
          <Tile to="/hosts" label={texts.overview.memory} value={memory(promised)} note={texts.overview.ofMemory(memory(Math.max(0, whole - promised)))} />
        </div>
        <div className="two">
          <Attention hosts={here} instances={all} />
          <Panel title={texts.overview.capacity}>
            <div className="stack">
              {here.slice(0, 20).map((host) => (
                <div key={host.id}>
                  <Link to={`/hosts/${host.id}`} className="link strong"><Dot tone={tone(host)} /> {nameOf(host)}</Link>
                  <Gauges host={host} load={load.get(host.id) ?? { instances: 0, running: 0, memoryMb: 0, compute: 0 }} />
                </div>
              ))}
            </div>
          </Panel>
        </div>
        <Panel title={texts.overview.recent} flush>
          {journal.length === 0 ? <Empty title={texts.overview.nothingYet} /> : <JournalTable entries={journal.slice(0, SHOWN)} />}
        </Panel>
        <Last instances={all} hosts={here} />
      </div>
    </Page>
  );
}

function Tile({ to, label, value, note }: { to: string; label: string; value: string | number; note: string }) {
  return (
    <Link to={to} className="tile">
      <span className="soft">{label}</span>
      <strong>{typeof value === "number" ? value.toLocaleString("en") : value}</strong>
      <span className="soft">{note}</span>
    </Link>
  );
}

function Attention({ hosts, instances }: { hosts: readonly Host[]; instances: readonly Instance[] }) {
  const troubled = hosts.filter((host) => host.state !== "active" || host.transitioning === "error");
  const failing = instances.filter((row) => row.transitioning === "error");
  const word = (host: Host) => (host.state === "disconnected" ? texts.overview.disconnected(nameOf(host)) : host.state === "draining" ? texts.overview.draining(nameOf(host)) : texts.overview.inactive(nameOf(host)));
  return (
    <Panel title={texts.overview.attention}>
      {troubled.length + failing.length === 0 ? (
        <span className="state" data-tone="good"><Dot tone="good" />{texts.overview.fine}</span>
      ) : (
        <ul style={{ listStyle: "none", margin: 0, padding: 0, display: "grid", gap: 10 }}>
          {troubled.map((host) => (
            <li key={host.id} data-tone={host.state === "disconnected" ? "bad" : "busy"} style={{ display: "flex", gap: 8 }}>
              <WarningIcon size={17} aria-hidden style={{ flex: "none", color: "var(--tone)" }} />
              <span className="wrap"><Link to={`/hosts/${host.id}`}>{word(host)}</Link> <Message row={host} /></span>
            </li>
          ))}
          {failing.slice(0, SHOWN).map((row) => (
            <li key={row.id} data-tone="bad" style={{ display: "flex", gap: 8 }}>
              <WarningIcon size={17} aria-hidden style={{ flex: "none", color: "var(--tone)" }} />
              <span className="wrap"><Link to={`/instances/${row.id}`}>{nameOf(row).slice(0, 80)}</Link> <Message row={row} /></span>
            </li>
          ))}
        </ul>
      )}
    </Panel>
  );
}

function Last({ instances, hosts }: { instances: readonly Instance[]; hosts: readonly Host[] }) {
  const query = useQuery({
    queryKey: ["parts", "*", "last"],
    queryFn: async () => (await get<Collection<ProcessInstance>>(`/v1/processinstances?sort=startTime&order=desc&limit=${SHOWN}`)).data,
  });
  const find = (process: ProcessInstance) => [...instances, ...hosts].find((row) => row.id === process.resourceId);
  return (
    <Panel title={texts.overview.history} flush>
      <Processes
        rows={query.data}
        error={query.error}
        retry={() => void query.refetch()}
        named={(process) => {
          const row = find(process);
          return row ? <Link to={row.type === "host" ? `/hosts/${row.id}` : `/instances/${row.id}/history`} className="link strong">{nameOf(row)}</Link> : `${process.resourceType ?? ""} ${process.resourceId ?? ""}`;
        }}
      />
    </Panel>
  );
}
