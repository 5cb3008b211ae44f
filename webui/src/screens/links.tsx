// Who links to whom, as a picture: the end of an arrow is dragged to another instance, and the link leads there.

import { Switch } from "@mantine/core";
import { useMemo, useRef, useState, type PointerEvent } from "react";
import { useAllParts, useRows } from "../api/hooks";
import type { Instance, InstanceLink } from "../api/types";
import { isGone, tone } from "../logic/instance";
import { BOX, curve, hit, layout, type Edge, type Place } from "../logic/layout";
import { Empty, Loading, nameOf, Page, Panel, Problem } from "../parts/basics";
import { LinkRows, useLead } from "../parts/links-table";
import { texts } from "../texts";

/** A picture of more is none. */
const SHOWN = 120;
const NOWHERE = 54;

export default function Links() {
  const links = useAllParts<InstanceLink>("/v1/instancelinks?limit=1000");
  const instances = useRows<Instance>("instances");
  const [everyone, setEveryone] = useState(false);
  const rows = useMemo(() => new Map((instances.data ?? []).filter((row) => !isGone(row)).map((row) => [row.id, row])), [instances.data]);
  const its = useMemo(() => (links.data ?? []).filter((link) => rows.has(link.instanceId ?? "")), [links.data, rows]);
  const nodes = useMemo(() => {
    const linked = new Set(its.flatMap((link) => [link.instanceId ?? "", link.targetInstanceId ?? ""]).filter((id) => rows.has(id)));
    return [...(everyone ? rows.keys() : linked)].slice(0, SHOWN);
  }, [its, rows, everyone]);
  return (
    <Page title={texts.links.title}>
      {links.isError && <Problem error={links.error} retry={() => void links.refetch()} />}
      {(links.isPending || instances.isPending) && !links.isError && <Loading />}
      {links.data && instances.data && its.length === 0 && <Empty title={texts.links.empty} hint={texts.links.emptyHint} />}
      {links.data && instances.data && its.length > 0 && (
        <div className="stack">
          <Panel title={texts.links.picture} tools={<Switch size="xs" label={texts.links.everyone} checked={everyone} onChange={(event) => setEveryone(event.currentTarget.checked)} />}>
            <p className="soft" style={{ marginTop: 0, fontSize: "0.86rem" }}>{texts.links.intro}</p>
            <Picture links={its} rows={rows} nodes={nodes} />
          </Panel>
          <Panel title={texts.links.title} flush><LinkRows links={its} showSource /></Panel>
        </div>
      )}
    </Page>
  );
}

interface Drag {
  link: InstanceLink;
  x: number;
  y: number;
  over: string | null;
}

function Picture({ links, rows, nodes }: { links: readonly InstanceLink[]; rows: ReadonlyMap<string, Instance>; nodes: readonly string[] }) {
  const canvas = useRef<SVGSVGElement>(null);
  const [drag, setDrag] = useState<Drag | null>(null);
  const lead = useLead();
  const shown = useMemo(() => new Set(nodes), [nodes]);
  const edges = useMemo<Edge[]>(() => links.filter((link) => shown.has(link.instanceId ?? "")).map((link) => ({ id: link.id, from: link.instanceId ?? "", to: shown.has(link.targetInstanceId ?? "") ? (link.targetInstanceId ?? null) : null })), [links, shown]);
  // While something is dragged, boxes stay where they are.
  const held = useRef<ReturnType<typeof layout> | null>(null);
  const fresh = useMemo(() => layout(nodes, edges), [nodes, edges]);
  if (!drag) held.current = fresh;
  const { places, width, height } = held.current ?? fresh;

  function point(event: PointerEvent): Place {
    const matrix = canvas.current?.getScreenCTM();
    if (!matrix) return { x: 0, y: 0 };
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(matrix.inverse());
    return { x, y };
  }

  function move(event: PointerEvent) {
    if (!drag) return;
    const { x, y } = point(event);
    setDrag({ ...drag, x, y, over: hit(places, x, y) });
  }

  function drop() {
    if (drag?.over && drag.over !== drag.link.targetInstanceId) {
      const target = rows.get(drag.over);
      if (target) void lead(drag.link, target);
    }
    setDrag(null);
  }

  const view = { width: Math.max(width + NOWHERE, 640), height: Math.max(height, 200) };
  return (
    <div className="scroll-x">
      <svg ref={canvas} width={view.width} height={view.height} viewBox={`0 0 ${view.width} ${view.height}`} style={{ touchAction: "none", userSelect: "none", display: "block" }} role="img" aria-label={texts.links.picture} onPointerMove={move} onPointerUp={drop} onPointerCancel={() => setDrag(null)}>
        {[...places].map(([id, place]) => {
          const row = rows.get(id);
          const over = drag?.over === id;
          return (
            <g key={id} transform={`translate(${place.x} ${place.y})`} data-tone={row ? tone(row) : "gone"}>
              <title>{row ? `${nameOf(row)} (${id})` : id}</title>
              <rect width={BOX.width} height={BOX.height} rx={10} fill={over ? "var(--mantine-primary-color-light)" : "var(--surface)"} stroke={over ? "var(--mantine-primary-color-filled)" : "var(--line)"} strokeWidth={over ? 2.5 : 1.5} />
              <circle cx={17} cy={BOX.height / 2} r={5} fill="var(--tone)" />
              <text x={31} y={BOX.height / 2 + 5} fontSize={14} fontWeight={600} fill="currentColor">{cut(row ? nameOf(row) : id, 15)}</text>
            </g>
          );
        })}
        {edges.map((edge) => {
          const link = links.find((one) => one.id === edge.id);
          const from = places.get(edge.from);
          if (!link || !from) return null;
          const dragged = drag?.link.id === edge.id;
          const target = edge.to ? places.get(edge.to) : undefined;
          const nowhere = { x: from.x + BOX.width + NOWHERE, y: from.y + BOX.height / 2 + 6 };
          const to = dragged ? { x: drag.x, y: drag.y - BOX.height / 2 } : (target ?? nowhere);
          const end = { x: to.x, y: to.y + BOX.height / 2 };
          const middle = { x: (from.x + BOX.width + end.x) / 2, y: (from.y + BOX.height / 2 + end.y) / 2 };
          return (
            <g key={edge.id}>
              <path d={curve(from, to)} fill="none" stroke={dragged ? "var(--mantine-primary-color-filled)" : "var(--ink-soft)"} strokeWidth={dragged ? 2.5 : 1.6} strokeDasharray={edge.to || dragged ? undefined : "5 5"} />
              <path d={`M${end.x - 9} ${end.y - 5}L${end.x} ${end.y}L${end.x - 9} ${end.y + 5}`} fill="none" stroke="var(--ink-soft)" strokeWidth={1.8} />
              <text x={middle.x} y={middle.y - 6} fontSize={12} textAnchor="middle" fill="var(--ink-soft)" stroke="var(--surface)" strokeWidth={4} paintOrder="stroke">{cut(link.linkName ?? "", 16)}</text>
              <circle
                cx={end.x - 4}
                cy={end.y}
                r={11}
                fill="transparent"
                data-link={link.linkName ?? link.id}
                style={{ cursor: "grab", pointerEvents: "all" }}
                onPointerDown={(event) => {
                  event.preventDefault();
                  canvas.current?.setPointerCapture(event.pointerId);
                  setDrag({ link, ...point(event), over: null });
                }}
              />
            </g>
          );
        })}
      </svg>
    </div>
  );
}

function cut(text: string, letters: number): string {
  return text.length > letters ? `${text.slice(0, letters - 1)}…` : text;
}
