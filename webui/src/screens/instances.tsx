// All instances: found, ordered, chosen, acted on together. Only the rows in sight are drawn, so thousands scroll as one does.

import { Button, Checkbox, Group, Select, Switch, TextInput } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useVirtualizer } from "@tanstack/react-virtual";
import { memo, useCallback, useDeferredValue, useMemo, useRef, useState } from "react";
import { Link, useSearchParams } from "wouter";
import { useRows } from "../api/hooks";
import { hold } from "../api/store";
import type { Host, Instance } from "../api/types";
import { inTurns } from "../logic/turns";
import { idNumber, matches, sorted, type Sort } from "../logic/filter";
import { count as counted } from "../logic/format";
import { imageName, isGone, isVm, tone } from "../logic/instance";
import { complain, send, useActing } from "../parts/acting";
import { Ago, Dot, Empty, Loading, Message, nameOf, Page, Problem, Progress } from "../parts/basics";
import { ContainerIcon, DownIcon, SearchIcon, UpIcon, VmIcon } from "../parts/icons";
import { InstanceTools } from "../parts/unit";
import { texts } from "../texts";
import { AddButtons } from "./hosts";

const ROW_PX = 46;
const BULK = ["start", "stop", "restart", "remove"] as const;
const COLUMNS = [
  ["name", texts.common.name],
  ["state", texts.common.state],
  ["address", texts.common.address],
  ["image", texts.common.image],
  ["host", texts.common.host],
  ["created", texts.common.created],
] as const;

export default function Instances() {
  const instances = useRows<Instance>("instances");
  const hosts = useRows<Host>("hosts");
  const [query, setQuery] = useSearchParams();
  const search = query.get("search") ?? "";
  const state = query.get("state");
  const kind = query.get("kind");
  const removed = query.get("removed") === "yes";
  const sort: Sort = { by: query.get("sort") ?? "created", down: (query.get("order") ?? "desc") === "desc" };
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());

  const set = useCallback(
    (changes: Record<string, string | null>) =>
      setQuery(
        (was) => {
          for (const [name, value] of Object.entries(changes)) {
            if (value) was.set(name, value);
            else was.delete(name);
          }
          return was;
        },
        { replace: true },
      ),
    [setQuery],
  );

  const hostNames = useMemo(() => new Map((hosts.data ?? []).map((host) => [host.id, nameOf(host)])), [hosts.data]);
  const all = useMemo(() => (instances.data ?? []).filter((row) => removed || !isGone(row)), [instances.data, removed]);
  const words = useDeferredValue(search);
  const rows = useMemo(() => {
    const found = all.filter(
      (row) =>
        (!state || row.state === state) &&
        (!kind || (kind === "vm") === isVm(row)) &&
        matches(words, { name: row.name, id: row.id, state: row.state, address: `${row.primaryIpAddress ?? ""} ${row.primaryAssociatedIpAddress ?? ""}`, image: imageName(row), host: hostNames.get(row.hostId ?? ""), description: row.description, label: Object.entries(row.labels ?? {}).map(([key, value]) => `${key}=${value}`).join(" ") }),
    );
    return sorted(found, sort, (row, by) => {
      switch (by) {
        case "address": return addressNumber(row.primaryIpAddress);
        case "host": return hostNames.get(row.hostId ?? "");
        case "image": return imageName(row);
        case "created": return (row.createdTS ?? 0) + idNumber(row.id) / 1e9;
        default: return row[by as "name" | "state"];
      }
    });
    // eslint-disable-next-line react-hooks/exhaustive-deps -- sort is made anew each time
  }, [all, state, kind, words, hostNames, sort.by, sort.down]);

  const states = useMemo(() => [...new Set(all.map((row) => row.state ?? ""))].filter(Boolean).sort(), [all]);
  const picked = useMemo(() => rows.filter((row) => chosen.has(row.id)), [rows, chosen]);
  const toggle = useCallback((id: string) => {
    setChosen((was) => {
      const next = new Set(was);
      if (!next.delete(id)) next.add(id);
      return next;
    });
  }, []);

  return (
    <Page title={texts.instances.title} tools={<AddButtons />}>
      <Group mb="sm" gap="sm" wrap="wrap">
        <TextInput aria-label={texts.instances.search} placeholder={texts.instances.searchHint} leftSection={<SearchIcon size={15} aria-hidden />} value={search} onChange={(event) => set({ search: event.currentTarget.value })} style={{ flex: "1 1 220px" }} type="search" />
        <Select aria-label={texts.common.state} data={states} value={state} onChange={(value) => set({ state: value })} placeholder={texts.instances.anyState} clearable w={150} />
        <Select aria-label={texts.instances.kind} data={[{ value: "container", label: texts.instances.container }, { value: "vm", label: texts.instances.vm }]} value={kind} onChange={(value) => set({ kind: value })} placeholder={texts.instances.kind} clearable w={160} />
        <Switch label={texts.instances.showRemoved} checked={removed} onChange={(event) => set({ removed: event.currentTarget.checked ? "yes" : null })} />
      </Group>
      <Group mb="xs" gap="xs" mih={30}>
        <span className="soft" role="status">{picked.length > 0 ? texts.common.selected(picked.length) : texts.common.of(rows.length, all.length)}</span>
        {picked.length > 0 && <Bulk rows={picked} done={() => setChosen(new Set())} />}
      </Group>
      {instances.isError && <Problem error={instances.error} retry={() => void instances.refetch()} />}
      {instances.isPending && !instances.isError && <Loading />}
      {instances.data && all.length === 0 && <Empty title={texts.instances.empty} hint={texts.instances.emptyHint}><AddButtons /></Empty>}
      {instances.data && all.length > 0 && (
        <div className="panel" role="table" aria-label={texts.instances.title} aria-rowcount={rows.length + 1}>
          <div role="rowgroup">
            <div className="grid-row grid-head" role="row" aria-rowindex={1}>
              <span role="columnheader">
                <Checkbox size="xs" aria-label={texts.instances.selectAll} checked={picked.length > 0 && picked.length === rows.length} indeterminate={picked.length > 0 && picked.length < rows.length} onChange={() => setChosen(picked.length === rows.length ? new Set() : new Set(rows.map((row) => row.id)))} />
              </span>
              {COLUMNS.map(([by, label]) => (
                <span key={by} role="columnheader" aria-sort={sort.by === by ? (sort.down ? "descending" : "ascending") : "none"}>
                  <button type="button" className="sort-button" onClick={() => set({ sort: by, order: sort.by === by && !sort.down ? "desc" : "asc" })}>
                    {label}
                    {sort.by === by && (sort.down ? <DownIcon size={13} aria-hidden /> : <UpIcon size={13} aria-hidden />)}
                  </button>
                </span>
              ))}
              <span role="columnheader"><span className="sr-only">{texts.common.actions}</span></span>
            </div>
          </div>
          {rows.length === 0 ? <Empty title={texts.common.noMatch} /> : <Body rows={rows} chosen={chosen} toggle={toggle} hostNames={hostNames} />}
        </div>
      )}
    </Page>
  );
}

function addressNumber(address: string | null | undefined): number | null {
  const parts = address?.split(".").map(Number);
  return parts?.length === 4 ? parts.reduce((sum, part) => sum * 256 + part, 0) : null;
}

function Body({ rows, chosen, toggle, hostNames }: { rows: Instance[]; chosen: ReadonlySet<string>; toggle: (id: string) => void; hostNames: Map<string, string> }) {
  const scroller = useRef<HTMLDivElement>(null);
  const virtual = useVirtualizer({ count: rows.length, getScrollElement: () => scroller.current, estimateSize: () => ROW_PX, overscan: 12, getItemKey: (index) => rows[index]!.id });
  return (
    <div className="grid-scroll grid-body" ref={scroller} role="rowgroup" tabIndex={0} aria-label={texts.instances.title}>
      <div style={{ height: virtual.getTotalSize(), position: "relative" }} role="presentation">
        {virtual.getVirtualItems().map((item) => {
          const row = rows[item.index]!;
          return (
            <div key={item.key} role="presentation" style={{ position: "absolute", top: 0, left: 0, right: 0, height: ROW_PX, transform: `translateY(${item.start}px)` }}>
              <Line row={row} index={item.index} chosen={chosen.has(row.id)} toggle={toggle} host={hostNames.get(row.hostId ?? "")} />
            </div>
          );
        })}
      </div>
    </div>
  );
}

const Line = memo(function Line({ row, index, chosen, toggle, host }: { row: Instance; index: number; chosen: boolean; toggle: (id: string) => void; host: string | undefined }) {
  const name = nameOf(row);
  return (
    <div className="grid-row" role="row" aria-rowindex={index + 2} aria-selected={chosen} style={{ height: ROW_PX }}>
      <span role="cell"><input type="checkbox" className="check" aria-label={texts.instances.select(name)} checked={chosen} onChange={() => toggle(row.id)} /></span>
      <span role="cell" style={{ minWidth: 0, display: "flex", alignItems: "center", gap: 8 }}>
        {isVm(row) ? <VmIcon size={15} aria-label={texts.instances.kindOf.virtualMachine} style={{ flex: "none" }} /> : <ContainerIcon size={15} aria-label={texts.instances.kindOf.container} style={{ flex: "none" }} />}
        <span className="narrow"><Dot tone={tone(row)} /></span>
        <Link to={`/instances/${row.id}`} className="link strong cut" title={`${name} (${row.id})`}>{name}</Link>
        <span className="soft mono">{row.id}</span>
      </span>
      <span role="cell" className="wide" style={{ minWidth: 0 }}>
        <span className="state" data-tone={tone(row)}><Dot tone={tone(row)} />{row.state}</span>
        <Progress row={row} />
        {row.transitioning === "error" && <div className="cut" style={{ fontSize: "0.76rem" }} title={row.transitioningMessage ?? ""}><Message row={row} /></div>}
      </span>
      <span role="cell" className="wide mono cut">{row.primaryAssociatedIpAddress || row.primaryIpAddress}</span>
      <span role="cell" className="wide cut soft" title={imageName(row)}>{imageName(row)}</span>
      <span role="cell" className="wide cut">{row.hostId ? <Link to={`/hosts/${row.hostId}`} className="link">{host ?? row.hostId}</Link> : <span className="soft">–</span>}</span>
      <span role="cell" className="wide soft cut"><Ago at={row.createdTS} /></span>
      <span role="cell" style={{ textAlign: "right" }}><InstanceTools row={row} small /></span>
    </div>
  );
});

function Bulk({ rows, done }: { rows: Instance[]; done: () => void }) {
  const { ask } = useActing();
  const [progress, setProgress] = useState<number | null>(null);

  async function run(action: (typeof BULK)[number], its: Instance[]) {
    setProgress(0);
    const faults: unknown[] = [];
    await inTurns(its, 6, async (row) => {
      try {
        const answer = await send(row, action);
        if (answer?.id === row.id) hold(answer);
      } catch (error) {
        faults.push(error);
      }
      setProgress((was) => (was ?? 0) + 1);
    });
    setProgress(null);
    notifications.show({ color: faults.length > 0 ? "red" : undefined, message: texts.instances.bulkDone(texts.verbs[action]!, its.length - faults.length, faults.length) });
    if (faults.length > 0) complain(faults[0]);
    done();
  }

  const able = (action: string) => rows.filter((row) => action in row.actions || (action === "remove" && !isGone(row) && row.state !== "removing"));
  return (
    <>
      {BULK.map((action) => {
        const its = able(action);
        const verb = texts.instances.bulk[action];
        if (its.length === 0) return null;
        return (
          <Button
            key={action}
            size="compact-sm"
            variant="default"
            color={action === "remove" ? "red" : undefined}
            disabled={progress !== null}
            onClick={() => ask({ title: texts.instances.bulkTitle(verb, its.length), text: its.slice(0, 8).map(nameOf).join(", ") + (its.length > 8 ? ` … (${counted(its.length, "instance")})` : ""), verb, go: () => void run(action, its) })}
          >
            {verb} ({its.length})
          </Button>
        );
      })}
      {progress !== null && <span role="status" className="soft">{texts.instances.bulkProgress(progress, rows.length)}</span>}
    </>
  );
}
