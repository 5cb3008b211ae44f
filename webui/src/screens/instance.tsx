// One instance: what it is and where, how it is reached, what it says and uses, and how it came to be so.

import { Button, Group, Tabs } from "@mantine/core";
import { lazy, Suspense, useEffect, useState } from "react";
import { Link, useLocation } from "wouter";
import { useParts, useRow, useSchema } from "../api/hooks";
import type { Host, Instance, Row } from "../api/types";
import { memory } from "../logic/format";
import { imageName, isVm, reservedMb } from "../logic/instance";
import { Ago, Copy, Empty, Facts, Loading, Message, nameOf, Page, Panel, Problem, Progress, StateBadge } from "../parts/basics";
import { FormDialog, type FormLook } from "../parts/form-dialog";
import { History } from "../parts/history";
import { EditIcon } from "../parts/icons";
import { LinksOut, LinksIn } from "../parts/links-table";
import { Ports } from "../parts/ports";
import { InstanceTools } from "../parts/unit";
import { texts } from "../texts";

const Logs = lazy(() => import("../console/logs"));
const TerminalPane = lazy(() => import("../console/terminal"));
const Figures = lazy(() => import("../console/figures"));
const Screen = lazy(() => import("../console/screen"));

const LOOK: FormLook = {
  fields: ["name", "description", "instanceTriggeredStop", "constraints", "affinity", "antiAffinity", "spreadBy", "placementPolicy", "hostLossGraceSeconds", "userdata"],
  without: ["accountId", "labels"],
  long: ["userdata", "description"],
};

interface Volume extends Row {
  virtualSizeMb?: number | null;
  format?: string | null;
  attachedState?: string | null;
}

export default function InstanceScreen({ id, tab }: { id: string; tab: string }) {
  const [, go] = useLocation();
  const query = useRow<Instance>("instances", id);
  const [editing, setEditing] = useState(false);
  const row = query.data;
  useEffect(() => {
    if (row) document.title = `${nameOf(row)} · ${texts.product}`;
  }, [row]);

  if (query.isError) return (query.error as { status?: number }).status === 404 ? <Empty title={texts.instance.notFound}><Button component={Link} to="/instances" variant="default">{texts.instances.title}</Button></Empty> : <Problem error={query.error} retry={() => void query.refetch()} />;
  if (!row) return <Loading />;
  const vm = isVm(row);
  const names = vm ? (["summary", "network", "console", "logs", "figures", "history"] as const) : (["summary", "network", "logs", "terminal", "figures", "history"] as const);
  return (
    <Page
      title={
        <div style={{ minWidth: 0, flex: "1 1 300px" }}>
          <Group gap="sm" wrap="wrap">
            <h1 className="wrap" style={{ margin: 0, fontSize: "1.35rem" }}>{short(nameOf(row))}</h1>
            <StateBadge row={row} />
            <span className="soft mono">{row.id}</span>
          </Group>
          {row.description && <div className="soft wrap">{row.description}</div>}
        </div>
      }
      tools={
        <>
          <InstanceTools row={row} />
          {"update" in row.actions && <Button size="xs" variant="default" leftSection={<EditIcon size={14} aria-hidden />} onClick={() => setEditing(true)}>{texts.common.edit}</Button>}
        </>
      }
    >
      {row.transitioning !== "no" && (
        <div className="banner" data-tone={row.transitioning === "error" ? "bad" : "busy"} role="status">
          <div style={{ flex: 1, minWidth: 0 }}>
            <Message row={row} />
            {!row.transitioningMessage && row.state}
            <Progress row={row} />
          </div>
        </div>
      )}
      <Tabs value={names.includes(tab as never) ? tab : "summary"} onChange={(next) => go(`/instances/${id}/${next ?? "summary"}`, { replace: true })} keepMounted={false}>
        <Tabs.List mb="md">
          {names.map((name) => <Tabs.Tab key={name} value={name}>{texts.instance.tabs[name]}</Tabs.Tab>)}
        </Tabs.List>
        <Suspense fallback={<Loading />}>
          <Tabs.Panel value="summary"><Summary row={row} /></Tabs.Panel>
          <Tabs.Panel value="network"><div className="two"><Ports row={row} /><div className="stack"><LinksOut row={row} /><LinksIn row={row} /></div></div></Tabs.Panel>
          <Tabs.Panel value="logs"><Logs row={row} /></Tabs.Panel>
          {!vm && <Tabs.Panel value="terminal"><TerminalPane row={row} /></Tabs.Panel>}
          {vm && <Tabs.Panel value="console"><Screen row={row} /></Tabs.Panel>}
          <Tabs.Panel value="figures"><Figures row={row} /></Tabs.Panel>
          <Tabs.Panel value="history"><History row={row} /></Tabs.Panel>
        </Suspense>
      </Tabs>
      {editing && <FormDialog type={row.type} title={texts.common.edit} row={row} look={LOOK} close={() => setEditing(false)} />}
    </Page>
  );
}

/** A name may have 64 KB; a title need not. The whole is among the facts. */
function short(name: string): string {
  return name.length > 120 ? `${name.slice(0, 120)}…` : name;
}

function Summary({ row }: { row: Instance }) {
  const host = useRow<Host>("hosts", row.hostId ?? "");
  const volumes = useParts<Volume>(row, "volumes");
  const fields = useSchema(row.type)?.resourceFields ?? {};
  const list = (values: readonly unknown[] | null | undefined) => (values?.length ? values.map((value, index) => <span key={index} className="chip mono">{String(value)}</span>) : null);
  const pairs = (map: Record<string, unknown> | null | undefined) => (map && Object.keys(map).length > 0 ? Object.entries(map).map(([key, value]) => <div key={key} className="mono wrap">{`${key}=${String(value)}`}</div>) : null);
  return (
    <div className="two">
      <Panel title={texts.instance.facts}>
        <Facts
          rows={[
            [texts.common.name, row.name],
            [texts.instances.kind, texts.instances.kindOf[row.type] ?? row.type],
            [texts.common.image, <span key="image" className="mono wrap">{imageName(row)}</span>],
            [texts.instance.command, row.command && <span className="mono">{[row.command, ...(row.commandArgs ?? [])].join(" ")}</span>],
            [texts.instance.environment, pairs(row.environment as Record<string, unknown>)],
            [texts.instance.restartPolicy, row.instanceTriggeredStop],
            [texts.instance.onHostLoss, row.onHostLoss],
            [texts.instance.memory, `${memory(reservedMb(row))}${row.memoryLimitMb ? ` (${texts.instance.limit(memory(row.memoryLimitMb))})` : ""}`],
            [texts.instance.vcpus, "vcpu" in fields ? row.vcpu : null],
            [texts.hosts.labels, pairs(row.labels as Record<string, unknown>)],
            [texts.instance.native, row.nativeContainer ? texts.common.yes : null],
            [texts.common.created, <Ago key="created" at={row.createdTS} />],
            [texts.instance.uuid, row.uuid && <span className="mono">{row.uuid} <Copy text={row.uuid} /></span>],
          ]}
        />
      </Panel>
      <div className="stack">
        <Panel title={texts.instance.where}>
          <Facts
            rows={[
              [texts.common.host, row.hostId ? <Link key="host" to={`/hosts/${row.hostId}`}>{nameOf(host.data) || row.hostId}</Link> : <span className="soft">{texts.instance.waiting}</span>],
              [texts.instance.privateAddress, row.primaryIpAddress && <span className="mono">{row.primaryIpAddress} <Copy text={row.primaryIpAddress} /></span>],
              [texts.instance.floating, row.primaryAssociatedIpAddress && <span className="mono">{row.primaryAssociatedIpAddress} <Copy text={row.primaryAssociatedIpAddress} /></span>],
              [texts.instance.hostname, row.hostname],
              [texts.instance.rules, list([...(row.constraints ?? []), ...(row.affinity ?? []).map(texts.instance.with), ...(row.antiAffinity ?? []).map(texts.instance.notWith), ...(row.spreadBy ?? []).map(texts.instance.spread)])],
              [texts.instance.externalId, row.externalId && <span className="mono wrap">{row.externalId.slice(0, 12)} <Copy text={row.externalId} /></span>],
            ]}
          />
        </Panel>
        <Panel title={texts.instance.volumes} flush>
          {(volumes.data?.length ?? 0) === 0 ? (
            <Empty title={texts.instance.noVolumes} />
          ) : (
            <table className="table">
              <tbody>
                {volumes.data!.map((volume) => (
                  <tr key={volume.id}>
                    <td className="wrap">{nameOf(volume)}</td>
                    <td>{volume.format}</td>
                    <td>{volume.virtualSizeMb ? memory(volume.virtualSizeMb) : ""}</td>
                    <td><StateBadge row={volume} /></td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </Panel>
      </div>
    </div>
  );
}
