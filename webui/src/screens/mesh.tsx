// The map of the mesh: hosts, the tunnels between them with their state and traffic, the instances on each.

import { useQueries } from "@tanstack/react-query";
import { useMemo } from "react";
import { useLocation } from "wouter";
import { get } from "../api/client";
import { useRows } from "../api/hooks";
import type { Host, Instance, Mesh } from "../api/types";
import { sorted } from "../logic/filter";
import { bytes, count } from "../logic/format";
import { isGone, loads, tone } from "../logic/instance";
import { circle, tunnels } from "../logic/mesh";
import { Dot, Empty, Loading, nameOf, Page, Panel, Problem } from "../parts/basics";
import { texts } from "../texts";

const EVERY_MS = 10_000;
/** Every host is asked: more would be a question each second. */
const HOSTS = 40;
const WIDTH = 900;
const HEIGHT = 560;

export default function MeshScreen() {
  const [, go] = useLocation();
  const hosts = useRows<Host>("hosts");
  const instances = useRows<Instance>("instances");
  const here = useMemo(() => sorted((hosts.data ?? []).filter((host) => !isGone(host)), { by: "name", down: false }, (host) => host.name).slice(0, HOSTS), [hosts.data]);
  const views = useQueries({
    queries: here.map((host) => ({ queryKey: ["mesh", host.id], queryFn: () => get<Mesh>(`/v1/hosts/${host.id}/mesh`), refetchInterval: EVERY_MS, staleTime: 0, retry: false })),
  });
  const told = views.map((view) => view.data).filter((view): view is Mesh => view !== undefined);
  const lines = tunnels(told);
  const load = useMemo(() => loads(instances.data ?? []), [instances.data]);
  if (hosts.isError) return <Problem error={hosts.error} retry={() => void hosts.refetch()} />;
  if (!hosts.data) return <Loading />;

  const places = circle(here.length, 200, WIDTH / 2, HEIGHT / 2);
  const at = new Map(here.map((host, index) => [nameOf(host), places[index]!]));
  const silent = here.filter((_, index) => views[index]?.isError);
  return (
    <Page title={texts.mesh.title}>
      <p className="soft" style={{ marginTop: 0 }}>{texts.mesh.intro}</p>
      <div className="stack">
        <Panel>
          <svg className="canvas" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="group" aria-label={texts.mesh.picture}>
            {lines.map((line) => {
              const [a, b] = [at.get(line.a), at.get(line.b)];
              if (!a || !b) return null;
              return (
                <g key={`${line.a} ${line.b}`} data-tone={line.tone}>
                  <line x1={a.x} y1={a.y} x2={b.x} y2={b.y} stroke="var(--tone)" strokeWidth={2 + Math.min(5, Math.log10(1 + line.bytes / 1e6))} strokeDasharray={line.tone === "good" ? undefined : "7 6"} opacity={0.75}>
                    <title>{`${line.a} – ${line.b}: ${line.states}`}</title>
                  </line>
                </g>
              );
            })}
            {here.map((host, index) => {
              const place = places[index]!;
              const its = load.get(host.id);
              return (
                <g
                  key={host.id}
                  transform={`translate(${place.x} ${place.y})`}
                  data-tone={tone(host)}
                  role="link"
                  tabIndex={0}
                  style={{ cursor: "pointer" }}
                  onClick={() => go(`/hosts/${host.id}`)}
                  onKeyDown={(event) => event.key === "Enter" && go(`/hosts/${host.id}`)}
                >
                  <rect x={-78} y={-34} width={156} height={68} rx={13} fill="var(--surface)" stroke="var(--tone)" strokeWidth={2} />
                  <circle cx={-60} cy={-12} r={5} fill="var(--tone)" />
                  <text x={-48} y={-7} fontSize={15} fontWeight={600} fill="currentColor">{nameOf(host).slice(0, 14)}</text>
                  <text x={-62} y={15} fontSize={12} fill="var(--ink-soft)">{`${count(its?.instances ?? 0, "instance")}, ${host.state ?? ""}`}</text>
                </g>
              );
            })}
          </svg>
          {silent.map((host) => <div key={host.id} className="soft">{texts.mesh.silent(nameOf(host))}</div>)}
        </Panel>
        <Panel title={texts.mesh.tunnels} flush>
          {lines.length === 0 ? (
            <Empty title={texts.hosts.meshNone} />
          ) : (
            <table className="table">
              <thead>
                <tr>
                  <th scope="col">{texts.mesh.from}</th>
                  <th scope="col">{texts.mesh.to}</th>
                  <th scope="col">{texts.common.state}</th>
                  <th scope="col">{texts.mesh.bytes}</th>
                </tr>
              </thead>
              <tbody>
                {lines.map((line) => (
                  <tr key={`${line.a} ${line.b}`}>
                    <td>{line.a}</td>
                    <td>{line.b}</td>
                    <td className="wrap"><span className="state" data-tone={line.tone}><Dot tone={line.tone} />{line.states}</span>{line.reasons.map((reason) => <div key={reason} className="soft">{reason}</div>)}</td>
                    <td>{line.bytes > 0 ? bytes(line.bytes) : ""}</td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </Panel>
      </div>
    </Page>
  );
}
