// The screen that everyone understands: each host a card, in it a block of containers and a block of virtual machines.

import { Button, SegmentedControl } from "@mantine/core";
import { useLocalStorage } from "@mantine/hooks";
import { memo, useMemo } from "react";
import { Link } from "wouter";
import { useRows, useSchema } from "../api/hooks";
import type { Host, Instance } from "../api/types";
import { idNumber, sorted } from "../logic/filter";
import { count, memory } from "../logic/format";
import { byHost, isGone, isVm, loads, tone, type Load } from "../logic/instance";
import { Empty, Gauge, Loading, Message, nameOf, Page, Problem, Progress, StateBadge } from "../parts/basics";
import { HostTools } from "../parts/host-tools";
import { ContainerIcon, PlusIcon, VmIcon } from "../parts/icons";
import { Unit } from "../parts/unit";
import { texts } from "../texts";

/** More are on their own screen: a card is to be looked at. */
const ROWS = 60;
const NONE: readonly Instance[] = [];
const IDLE: Load = { instances: 0, running: 0, memoryMb: 0, compute: 0 };

export function Hosts() {
  const hosts = useRows<Host>("hosts");
  const instances = useRows<Instance>("instances");
  const [view, setView] = useLocalStorage({ key: "hosts", defaultValue: "cards" });
  const shown = useMemo(() => (instances.data ?? NONE).filter((row) => !isGone(row)), [instances.data]);
  const its = useMemo(() => byHost(shown), [shown]);
  const load = useMemo(() => loads(shown), [shown]);
  const ordered = useMemo(() => sorted(hosts.data ?? [], { by: "name", down: false }, (host) => host.name), [hosts.data]);
  const waiting = its.get("") ?? NONE;

  return (
    <Page
      title={texts.hosts.title}
      tools={
        <SegmentedControl size="xs" value={view} onChange={setView} aria-label={texts.hosts.view} data={[{ value: "cards", label: texts.hosts.cards }, { value: "table", label: texts.hosts.table }]} />
      }
    >
      {(hosts.isError || instances.isError) && <Problem error={hosts.error ?? instances.error} retry={() => void Promise.all([hosts.refetch(), instances.refetch()])} />}
      {(hosts.isPending || instances.isPending) && !hosts.isError && !instances.isError && <Loading />}
      {hosts.data && instances.data && ordered.length === 0 && <Empty title={texts.hosts.noHosts} hint={texts.hosts.noHostsHint} />}
      {hosts.data && instances.data && view === "table" && <HostTable hosts={ordered} load={load} />}
      {hosts.data && instances.data && view !== "table" && (
        <div className="host-grid">
          {waiting.length > 0 && <Waiting rows={waiting} />}
          {ordered.map((host) => (
            <HostCard key={host.id} host={host} rows={its.get(host.id) ?? NONE} load={load.get(host.id) ?? IDLE} />
          ))}
        </div>
      )}
    </Page>
  );
}

export function Gauges({ host, load }: { host: Host; load: Load }) {
  return (
    <div className="gauges">
      <Gauge label={texts.hosts.memory} part={load.memoryMb} whole={host.memoryMb ?? 0} words={texts.hosts.promised(memory(load.memoryMb), memory(host.memoryMb ?? 0))} />
      <Gauge label={texts.hosts.compute} part={load.compute} whole={host.computeTotal ?? 0} words={texts.hosts.promised((load.compute / 1000).toFixed(1), ((host.computeTotal ?? 0) / 1000).toFixed(0))} />
    </div>
  );
}

const HostCard = memo(function HostCard({ host, rows, load }: { host: Host; rows: readonly Instance[]; load: Load }) {
  return (
    <article className="host-card" data-tone={tone(host)} aria-label={nameOf(host)}>
      <div className="host-head">
        <div className="host-title">
          <h2 className="cut"><Link to={`/hosts/${host.id}`} className="link" title={nameOf(host)}>{nameOf(host)}</Link></h2>
          <StateBadge row={host} />
          <span style={{ flex: 1 }} />
          <HostTools host={host} />
        </div>
        <div className="unit-sub">
          <span className="mono cut">{host.agentAddress}</span>
          {Object.entries(host.labels ?? {}).slice(0, 3).map(([key, value]) => <span key={key} className="chip cut" title={`${key}=${value}`}>{`${key}=${value}`}</span>)}
        </div>
        <Progress row={host} />
        <Message row={host} />
        <Gauges host={host} load={load} />
      </div>
      <Blocks host={host} rows={rows} />
    </article>
  );
});

export function Blocks({ host, rows }: { host: Host; rows: readonly Instance[] }) {
  const vmSchema = useSchema("virtualMachine");
  const containerSchema = useSchema("container");
  const order = (some: Instance[]) => some.sort((a, b) => idNumber(a.id) - idNumber(b.id));
  const containers = order(rows.filter((row) => !isVm(row)));
  const vms = order(rows.filter(isVm));
  return (
    <>
      <Block icon={<ContainerIcon size={15} aria-hidden />} title={texts.hosts.containers} rows={containers} host={host} empty={texts.hosts.noContainers} add={containerSchema?.collectionMethods.includes("POST") ? { to: `/new/container?requestedHostId=${host.id}`, label: texts.hosts.addContainer } : null} />
      <Block icon={<VmIcon size={15} aria-hidden />} title={texts.hosts.vms} rows={vms} host={host} empty={vmSchema?.collectionMethods.includes("POST") ? texts.hosts.noVms : texts.hosts.noVmsYet} add={vmSchema?.collectionMethods.includes("POST") ? { to: `/new/virtualMachine?requestedHostId=${host.id}`, label: texts.hosts.addVm } : null} />
    </>
  );
}

function Block({ icon, title, rows, host, empty, add }: { icon: React.ReactNode; title: string; rows: readonly Instance[]; host: Host; empty: string; add: { to: string; label: string } | null }) {
  return (
    <section className="block" aria-label={`${title}, ${nameOf(host)}`}>
      <div className="block-head">
        {icon}
        {title}
        {rows.length > 0 && <span style={{ fontWeight: 400 }}>{rows.length.toLocaleString("en")}</span>}
      </div>
      {rows.length === 0 ? (
        <div className="block-empty">{empty}</div>
      ) : (
        <ul className="block-rows" tabIndex={rows.length > 8 ? 0 : undefined} aria-label={title}>
          {rows.slice(0, ROWS).map((row) => <Unit key={row.id} row={row} />)}
        </ul>
      )}
      {rows.length > ROWS && <Link className="block-add" to={`/instances?search=${encodeURIComponent(`host:${nameOf(host)}`)}`}>{texts.hosts.all(rows.length)}</Link>}
      {add && host.state === "active" && (
        <Link className="block-add" to={add.to}>
          <PlusIcon size={15} aria-hidden />
          {add.label}
        </Link>
      )}
    </section>
  );
}

function Waiting({ rows }: { rows: readonly Instance[] }) {
  return (
    <article className="host-card" aria-label={texts.hosts.waiting}>
      <div className="host-head">
        <div className="host-title"><h2>{texts.hosts.waiting}</h2></div>
        <div className="unit-sub">{texts.hosts.waitingNote}</div>
      </div>
      <section className="block">
        <ul className="block-rows" tabIndex={0} aria-label={texts.hosts.waiting}>{rows.slice(0, ROWS).map((row) => <Unit key={row.id} row={row} />)}</ul>
      </section>
    </article>
  );
}

function HostTable({ hosts, load }: { hosts: readonly Host[]; load: Map<string, Load> }) {
  return (
    <div className="panel scroll-x">
      <table className="table">
        <thead>
          <tr>
            {[texts.common.name, texts.common.state, texts.common.address, texts.nav.instances, texts.hosts.memory, texts.hosts.labels].map((word) => <th key={word} scope="col">{word}</th>)}
            <th scope="col"><span className="sr-only">{texts.common.actions}</span></th>
          </tr>
        </thead>
        <tbody>
          {hosts.map((host) => {
            const its = load.get(host.id) ?? IDLE;
            return (
              <tr key={host.id}>
                <td><Link to={`/hosts/${host.id}`} className="link strong">{nameOf(host)}</Link></td>
                <td><StateBadge row={host} /><Progress row={host} /></td>
                <td className="mono">{host.agentAddress}</td>
                <td>{count(its.instances, "instance")}</td>
                <td style={{ minWidth: 150 }}><Gauge label="" part={its.memoryMb} whole={host.memoryMb ?? 0} words={texts.hosts.promised(memory(its.memoryMb), memory(host.memoryMb ?? 0))} /></td>
                <td>{Object.entries(host.labels ?? {}).map(([key, value]) => <span key={key} className="chip">{`${key}=${value}`}</span>)}</td>
                <td style={{ textAlign: "right" }}><HostTools host={host} /></td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

export function AddButtons() {
  const vmSchema = useSchema("virtualMachine");
  const containerSchema = useSchema("container");
  return (
    <>
      {containerSchema?.collectionMethods.includes("POST") && <Button component={Link} to="/new/container" size="xs" leftSection={<PlusIcon size={14} aria-hidden />}>{texts.instances.newContainer}</Button>}
      {vmSchema?.collectionMethods.includes("POST") && <Button component={Link} to="/new/virtualMachine" size="xs" variant="light" leftSection={<PlusIcon size={14} aria-hidden />}>{texts.instances.newVm}</Button>}
    </>
  );
}
