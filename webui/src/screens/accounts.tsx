import { useMemo } from "react";
import { useRows } from "../api/hooks";
import type { Account, Instance } from "../api/types";
import { memory } from "../logic/format";
import { isGone, reservedMb } from "../logic/instance";
import { Gauge, Page } from "../parts/basics";
import type { FormLook } from "../parts/form-dialog";
import { SmallList, type Column } from "../parts/small-list";
import { texts } from "../texts";

const LOOK: FormLook = {
  fields: ["name", "kind", "description", "quotaInstances", "quotaMemoryMb", "quotaAddresses"],
  without: ["externalId", "externalIdType", "defaultCredentialIds", "defaultNetworkIds"],
  labels: texts.accounts.labels,
  hints: { kind: texts.accounts.kindHint, quotaInstances: texts.accounts.quotaHint },
};

export default function Accounts() {
  const instances = useRows<Instance>("instances");
  const columns = useMemo<Column<Account>[]>(() => {
    const used = new Map<string, { instances: number; memoryMb: number; addresses: number }>();
    for (const row of instances.data ?? []) {
      if (isGone(row) || !row.accountId) continue;
      const its = used.get(row.accountId) ?? { instances: 0, memoryMb: 0, addresses: 0 };
      its.instances += 1;
      its.memoryMb += reservedMb(row);
      its.addresses += row.primaryIpAddress ? 1 : 0;
      used.set(row.accountId, its);
    }
    const gauge = (label: string, part: number, whole: number | null | undefined, words: (number: number) => string) => (whole == null ? <div className="soft">{`${label}: ${words(part)}`}</div> : <Gauge label={label} part={part} whole={whole} words={texts.hosts.promised(words(part), words(whole))} />);
    return [
      { title: texts.accounts.kind, text: (row) => row.kind ?? "", show: (row) => <span title={texts.accounts.kinds[row.kind ?? ""]}>{row.kind}</span> },
      {
        title: texts.accounts.quota,
        show: (row) => {
          const its = used.get(row.id) ?? { instances: 0, memoryMb: 0, addresses: 0 };
          return (
            <div className="stack tight" style={{ minWidth: 180 }}>
              {gauge(texts.nav.instances, its.instances, row.quotaInstances, String)}
              {gauge(texts.hosts.memory, its.memoryMb, row.quotaMemoryMb, memory)}
              {gauge(texts.floating.addresses, its.addresses, row.quotaAddresses, String)}
            </div>
          );
        },
      },
    ];
  }, [instances.data]);
  return (
    <Page title={texts.accounts.title}>
      <SmallList<Account> list="accounts" type="account" columns={columns} look={LOOK} add={texts.accounts.add} />
    </Page>
  );
}
