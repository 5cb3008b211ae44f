// Links of an instance to others, and of others to it. Where one leads can be changed in its row.

import { Select } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useMemo } from "react";
import { Link } from "wouter";
import { useParts, useRows } from "../api/hooks";
import { queries } from "../api/store";
import type { Instance, InstanceLink, Row } from "../api/types";
import { isGone } from "../logic/instance";
import { texts } from "../texts";
import { useActing } from "./acting";
import { Empty, nameOf, Panel, Problem } from "./basics";

const NOBODY = "nobody";

/** Leads a link elsewhere, at once. */
export function useLead() {
  const { change } = useActing();
  return async (link: InstanceLink, target: Instance | null) => {
    const done = await change(link as unknown as Row, { targetInstanceId: target?.id ?? null });
    if (!done) return false;
    const before = link.targetInstanceId;
    void queries.invalidateQueries({ queryKey: ["parts"] });
    notifications.show({
      autoClose: 10_000,
      message: (
        <span className="wrap">
          {texts.links.moved(link.linkName ?? "", target ? nameOf(target) : texts.common.nobody)}{" "}
          <button type="button" className="text-button" onClick={() => void change(link as unknown as Row, { targetInstanceId: before ?? null }, texts.common.undone).then(() => queries.invalidateQueries({ queryKey: ["parts"] }))}>{texts.common.undo}</button>
        </span>
      ),
    });
    return true;
  };
}

export function LinkRows({ links, showSource }: { links: readonly InstanceLink[]; showSource?: boolean }) {
  const instances = useRows<Instance>("instances");
  const lead = useLead();
  const rows = useMemo(() => new Map((instances.data ?? []).map((row) => [row.id, row])), [instances.data]);
  const data = useMemo(() => [{ value: NOBODY, label: texts.common.nobody }, ...(instances.data ?? []).filter((row) => !isGone(row)).map((row) => ({ value: row.id, label: `${nameOf(row)} (${row.id})` }))], [instances.data]);
  return (
    <table className="table">
      <thead>
        <tr>
          {showSource && <th scope="col">{texts.links.from}</th>}
          <th scope="col">{texts.links.link}</th>
          <th scope="col">{texts.links.to}</th>
          <th scope="col">{texts.links.ports}</th>
        </tr>
      </thead>
      <tbody>
        {links.map((link) => (
          <tr key={link.id}>
            {showSource && <td className="cut" style={{ maxWidth: 200 }}><Link to={`/instances/${link.instanceId ?? ""}/network`} className="link strong">{nameOf(rows.get(link.instanceId ?? "")) || link.instanceId}</Link></td>}
            <td className="cut" style={{ maxWidth: 160 }} title={link.linkName ?? ""}><strong>{link.linkName}</strong></td>
            <td style={{ minWidth: 190 }}>
              <Select size="xs" aria-label={`${texts.instance.target}: ${link.linkName ?? ""}`} data={data} value={link.targetInstanceId ?? NOBODY} searchable allowDeselect={false} limit={50} onChange={(id) => void lead(link, (id && rows.get(id)) || null)} />
            </td>
            <td className="mono">{(link.ports ?? []).map((port) => <div key={`${port.protocol}${port.privatePort}`}>{`${port.ipAddress}:${port.publicPort} → ${port.privatePort}/${port.protocol}`}</div>)}</td>
          </tr>
        ))}
      </tbody>
    </table>
  );
}

export function LinksOut({ row }: { row: Instance }) {
  const links = useParts<InstanceLink>(row, "instanceLinks");
  return (
    <Panel title={texts.instance.links} flush>
      {links.isError && <Problem error={links.error} retry={() => void links.refetch()} />}
      {links.data?.length === 0 && <Empty title={texts.instance.noLinks} />}
      {(links.data?.length ?? 0) > 0 && <LinkRows links={links.data!} />}
    </Panel>
  );
}

export function LinksIn({ row }: { row: Instance }) {
  const links = useParts<InstanceLink>(row, "targetInstanceLinks");
  const instances = useRows<Instance>("instances");
  const rows = useMemo(() => new Map((instances.data ?? []).map((one) => [one.id, one])), [instances.data]);
  return (
    <Panel title={texts.instance.linkedBy} flush>
      {links.data?.length === 0 && <Empty title={texts.instance.notLinked} />}
      {(links.data?.length ?? 0) > 0 && (
        <table className="table">
          <tbody>
            {links.data!.map((link) => (
              <tr key={link.id}>
                <td className="wrap"><Link to={`/instances/${link.instanceId ?? ""}/network`} className="link strong">{nameOf(rows.get(link.instanceId ?? "")) || link.instanceId}</Link></td>
                <td className="wrap">{link.linkName}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </Panel>
  );
}
