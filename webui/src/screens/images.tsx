import { useMemo } from "react";
import { Link } from "wouter";
import { useRows } from "../api/hooks";
import type { Image, Instance } from "../api/types";
import { count, memory } from "../logic/format";
import { isGone } from "../logic/instance";
import { Page } from "../parts/basics";
import type { FormLook } from "../parts/form-dialog";
import { SmallList, type Column } from "../parts/small-list";
import { texts } from "../texts";

const LOOK: FormLook = { fields: ["name", "url", "checksum", "instanceKind", "isPublic", "description"], without: ["accountId"] };

export default function Images() {
  const instances = useRows<Instance>("instances");
  const columns = useMemo<Column<Image>[]>(() => {
    const used = new Map<string, number>();
    for (const row of instances.data ?? []) if (!isGone(row) && row.imageId) used.set(row.imageId, (used.get(row.imageId) ?? 0) + 1);
    return [
      { title: texts.images.kind, text: (row) => row.instanceKind ?? "", show: (row) => texts.instances.kindOf[row.instanceKind ?? ""] ?? row.instanceKind },
      { title: texts.images.url, text: (row) => row.url ?? "", show: (row) => <span className="mono">{row.url}</span> },
      { title: texts.images.size, show: (row) => (row.virtualSizeMb ? memory(row.virtualSizeMb) : "") },
      { title: texts.images.used, show: (row) => (used.get(row.id) ? <Link to={`/instances?search=${encodeURIComponent(`image:${(row.name ?? "").replace(/^docker:/, "")}`)}`}>{count(used.get(row.id)!, "instance")}</Link> : "") },
    ];
  }, [instances.data]);
  return (
    <Page title={texts.images.title}>
      <SmallList<Image> list="images" type="image" columns={columns} look={LOOK} add={texts.images.add} />
    </Page>
  );
}
