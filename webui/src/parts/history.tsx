// The transitions of one row, or of all: begin, end, and what came of each.

import { useQuery } from "@tanstack/react-query";
import { get } from "../api/client";
import type { Collection, ProcessInstance, Row } from "../api/types";
import { duration } from "../logic/format";
import { isInstance } from "../logic/instance";
import { texts } from "../texts";
import { Ago, Empty, Loading, Panel, Problem } from "./basics";

type Process = ProcessInstance & { startTimeTS?: number; endTimeTS?: number };

/** Of one row, asked for anew when it changes. */
export function History({ row }: { row: Row }) {
  const type = isInstance(row) ? "instance" : row.type;
  const query = useQuery({
    queryKey: ["parts", row.id, `history/${type}`],
    queryFn: async () => (await get<Collection<Process>>(`/v1/processinstances?resourceType=${type}&resourceId=${row.id}&limit=100`)).data,
  });
  return (
    <Panel title={texts.instance.tabs.history} flush>
      <Processes rows={query.data} error={query.error} retry={() => void query.refetch()} />
    </Panel>
  );
}

export function Processes({ rows, error, retry, named }: { rows: readonly Process[] | undefined; error: unknown; retry: () => void; named?: (process: Process) => React.ReactNode }) {
  if (error) return <Problem error={error} retry={retry} />;
  if (!rows) return <Loading />;
  if (rows.length === 0) return <Empty title={texts.history.none} />;
  const ordered = [...rows].sort((a, b) => (b.startTimeTS ?? 0) - (a.startTimeTS ?? 0));
  return (
    <table className="table">
      <thead>
        <tr>
          {named && <th scope="col">{texts.common.name}</th>}
          <th scope="col">{texts.history.process}</th>
          <th scope="col">{texts.history.begun}</th>
          <th scope="col">{texts.history.took}</th>
          <th scope="col">{texts.history.result}</th>
        </tr>
      </thead>
      <tbody>
        {ordered.map((process) => (
          <tr key={process.id}>
            {named && <td className="cut" style={{ maxWidth: 220 }}>{named(process)}</td>}
            <td className="mono">{process.processName}</td>
            <td className="soft" style={{ whiteSpace: "nowrap" }}><Ago at={process.startTimeTS} /></td>
            <td style={{ whiteSpace: "nowrap" }}>{process.endTimeTS && process.startTimeTS ? duration(process.endTimeTS - process.startTimeTS) : texts.history.running}</td>
            <td className="wrap" data-tone={process.result === "SUCCESS" || !process.result ? undefined : "bad"} style={{ color: "var(--tone, inherit)" }}>{outcome(process)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

function outcome(process: Process): string {
  if (!process.result) return "";
  return process.result === "SUCCESS" ? texts.history.done : [texts.history.failed, process.exitReason].filter(Boolean).join(": ");
}
