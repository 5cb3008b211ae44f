// One host: what it is and holds, and how it reaches the others.

import { useQuery } from "@tanstack/react-query";
import { Button } from "@mantine/core";
import { useMemo } from "react";
import { Link } from "wouter";
import { get } from "../api/client";
import { useRow, useRows } from "../api/hooks";
import type { Host, Instance, Mesh } from "../api/types";
import { bytes, words } from "../logic/format";
import { isGone, loads } from "../logic/instance";
import { Ago, Dot, Empty, Facts, Loading, Message, nameOf, Page, Panel, Problem, Progress, StateBadge } from "../parts/basics";
import { History } from "../parts/history";
import { HostTools } from "../parts/host-tools";
import { peerTone } from "../logic/mesh";
import { texts } from "../texts";
import { Blocks, Gauges } from "./hosts";

const MESH_MS = 10_000;

export default function HostScreen({ id }: { id: string }) {
  const query = useRow<Host>("hosts", id);
  const instances = useRows<Instance>("instances");
  const host = query.data;
  const its = useMemo(() => (instances.data ?? []).filter((row) => row.hostId === id && !isGone(row)), [instances.data, id]);
  const load = useMemo(() => loads(its).get(id) ?? { instances: 0, running: 0, memoryMb: 0, compute: 0 }, [its, id]);
  if (query.isError) return (query.error as { status?: number }).status === 404 ? <Empty title={texts.hosts.notFound}><Button component={Link} to="/hosts" variant="default">{texts.hosts.title}</Button></Empty> : <Problem error={query.error} retry={() => void query.refetch()} />;
  if (!host) return <Loading />;
  return (
    <Page
      title={
        <div style={{ display: "flex", gap: 12, alignItems: "center", minWidth: 0, flexWrap: "wrap" }}>
          <h1 className="wrap" style={{ margin: 0, fontSize: "1.35rem" }}>{nameOf(host)}</h1>
          <StateBadge row={host} />
          <span className="soft mono">{host.id}</span>
        </div>
      }
      tools={<HostTools host={host} />}
    >
      {host.transitioning !== "no" && (
        <div className="banner" data-tone={host.transitioning === "error" ? "bad" : "busy"} role="status">
          <div style={{ flex: 1, minWidth: 0 }}><Message row={host} /><Progress row={host} /></div>
        </div>
      )}
      <div className="two">
        <div className="stack">
          <Panel title={texts.hosts.facts}>
            <Gauges host={host} load={load} />
            <div style={{ height: 14 }} />
            <Facts
              rows={[
                [texts.common.address, <span key="address" className="mono">{host.agentAddress}</span>],
                [texts.hosts.underlay, host.underlayAddress && <span className="mono">{host.underlayAddress}</span>],
                [texts.hosts.public, host.publicAddress && <span className="mono">{host.publicAddress}</span>],
                [texts.hosts.canRun, (host.capabilities ?? []).map((one) => <span key={one} className="chip">{one}</span>)],
                [texts.hosts.labels, Object.keys(host.labels ?? {}).length > 0 && Object.entries(host.labels ?? {}).map(([key, value]) => <span key={key} className="chip">{`${key}=${String(value)}`}</span>)],
                ...Object.entries(host.versions ?? {}).map(([name, value]) => [words(name), <span key={name} className="mono">{String(value)}</span>] as const),
                [texts.common.created, <Ago key="created" at={host.createdTS} />],
              ]}
            />
          </Panel>
          <MeshOf host={host} />
          <History row={host} />
        </div>
        <article className="host-card" aria-label={texts.nav.instances}>
          <Blocks host={host} rows={its} />
        </article>
      </div>
    </Page>
  );
}

function MeshOf({ host }: { host: Host }) {
  const mesh = useQuery({ queryKey: ["mesh", host.id], queryFn: () => get<Mesh>(`/v1/hosts/${host.id}/mesh`), refetchInterval: MESH_MS, staleTime: 0, retry: false });
  return (
    <Panel title={texts.hosts.mesh} flush>
      {mesh.isError && <Empty title={texts.hosts.meshSilent} hint={mesh.error.message} />}
      {mesh.data?.peers.length === 0 && <Empty title={texts.hosts.meshNone} />}
      {mesh.data && mesh.data.problems.length > 0 && mesh.data.problems.map((problem) => <div key={problem} className="panel-body wrap" style={{ color: "var(--tone-bad)" }}>{problem}</div>)}
      {mesh.data && mesh.data.peers.length > 0 && (
        <table className="table">
          <tbody>
            {mesh.data.peers.map((peer) => (
              <tr key={peer.host}>
                <td><strong>{peer.host}</strong> <span className="soft mono">{peer.address}</span></td>
                <td><span className="state" data-tone={peerTone(peer.state)} title={texts.mesh.states[peer.state]}><Dot tone={peerTone(peer.state)} />{peer.state}</span>{peer.reason && <div className="wrap soft">{peer.reason}</div>}</td>
                <td className="soft">{peer.state === "plain" ? "" : texts.mesh.traffic(bytes(peer.bytesIn), bytes(peer.bytesOut))}</td>
                <td className="soft"><Ago at={peer.heard} /></td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Panel>
  );
}
