// Floating addresses: pools of them, what is acquired, and to which instance each leads.

import { Button, Group, Modal, Select, Stack } from "@mantine/core";
import { useMemo, useState } from "react";
import { Link } from "wouter";
import { useAllParts, useRows } from "../api/hooks";
import type { Instance, IpAddress, IpPool, Row } from "../api/types";
import { isGone } from "../logic/instance";
import { useActing } from "../parts/acting";
import { Empty, Message, nameOf, Page, Panel, Progress, StateBadge } from "../parts/basics";
import type { FormLook } from "../parts/form-dialog";
import { RowMenu, SmallList, type Column } from "../parts/small-list";
import { texts } from "../texts";

const LOOK: FormLook = {
  fields: ["name", "networkAddress", "cidrSize", "gateway", "startAddress", "endAddress", "isPublic", "description"],
  without: ["accountId", "networkId", "ipPoolId"],
  hints: texts.floating.hints,
};

interface Association extends Row {
  ipAddressId?: string | null;
  childIpAddressId?: string | null;
}

export default function Floating() {
  return (
    <Page title={texts.floating.title}>
      <div className="stack">
        <Addresses />
        <section>
          <h2 style={{ fontSize: "1.05rem", margin: "0 0 10px" }}>{texts.floating.pools}</h2>
          <Pools />
        </section>
      </div>
    </Page>
  );
}

function Pools() {
  const { act } = useActing();
  const columns = useMemo<Column<IpPool>[]>(
    () => [
      { title: texts.networks.subnet, text: (row) => row.networkAddress ?? "", show: (row) => <span className="mono">{`${row.networkAddress}/${row.cidrSize}`}</span> },
      { title: texts.networks.range, show: (row) => <span className="mono">{`${row.startAddress} – ${row.endAddress}`}</span> },
      { title: texts.networks.gateway, show: (row) => <span className="mono">{row.gateway}</span> },
    ],
    [],
  );
  return (
    <SmallList<IpPool>
      list="pools"
      type="subnetIpPool"
      columns={columns}
      look={LOOK}
      add={texts.floating.newPool}
      hint={texts.floating.noPoolsHint}
      extra={(row) => "acquire" in row.actions && <Button size="compact-sm" variant="light" onClick={() => void act(row, "acquire")}>{texts.floating.acquire}</Button>}
    />
  );
}

function Addresses() {
  const addresses = useRows<IpAddress>("addresses");
  const associations = useAllParts<Association>("/v1/ipassociations?limit=1000");
  const instances = useRows<Instance>("instances");
  const [leading, setLeading] = useState<IpAddress | null>(null);
  const rows = (addresses.data ?? []).filter((row) => row.ipPoolId && !isGone(row as Row));
  const target = useMemo(() => {
    const byAddress = new Map((instances.data ?? []).map((row) => [row.id.replace(/^1i/, ""), row]));
    // A private address has the number of its instance: `1ia54` of `1i54`.
    return new Map((associations.data ?? []).map((one) => [one.ipAddressId ?? "", byAddress.get((one.childIpAddressId ?? "").replace(/^1ia/, ""))]));
  }, [associations.data, instances.data]);
  return (
    <Panel title={texts.floating.addresses} flush>
      {rows.length === 0 ? (
        <Empty title={texts.floating.noAddresses} />
      ) : (
        <table className="table">
          <thead>
            <tr>
              <th scope="col">{texts.common.address}</th>
              <th scope="col">{texts.floating.leadsTo}</th>
              <th scope="col">{texts.common.state}</th>
              <th scope="col"><span className="sr-only">{texts.common.actions}</span></th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => {
              const its = target.get(row.id);
              return (
                <tr key={row.id}>
                  <td className="mono"><strong>{row.address}</strong></td>
                  <td className="wrap">{its ? <Link to={`/instances/${its.id}`}>{nameOf(its)}</Link> : <span className="soft">{texts.floating.rests}</span>}</td>
                  <td><StateBadge row={row as Row} /><Progress row={row as Row} /><Message row={row as Row} /></td>
                  <td style={{ textAlign: "right", whiteSpace: "nowrap" }}>
                    {"associate" in row.actions && <Button size="compact-sm" variant="default" onClick={() => setLeading(row)}>{texts.floating.leadTo}</Button>}
                    <RowMenu row={{ ...row, name: row.address } as Row} without={["associate"]} />
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      )}
      {leading && <Lead address={leading} instances={instances.data ?? []} close={() => setLeading(null)} />}
    </Panel>
  );
}

function Lead({ address, instances, close }: { address: IpAddress; instances: readonly Instance[]; close: () => void }) {
  const { act } = useActing();
  const [id, setId] = useState<string | null>(null);
  const data = instances.filter((row) => !isGone(row) && row.primaryIpAddress).map((row) => ({ value: row.id, label: `${nameOf(row)} (${row.primaryIpAddress})` }));
  return (
    <Modal opened onClose={close} title={texts.confirm.title(texts.floating.leadTo, address.address ?? address.id)} centered closeButtonProps={{ "aria-label": texts.common.close }}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          if (!id) return;
          void act({ ...address, name: address.address } as Row, "associate", { ipAddressId: id.replace(/^1i/, "1ia") }).then((done) => done && close());
        }}
      >
        <Stack>
          <Select label={texts.floating.leadTo} data={data} value={id} onChange={setId} searchable limit={50} data-autofocus />
          <Group justify="flex-end">
            <Button variant="default" onClick={close}>{texts.common.cancel}</Button>
            <Button type="submit" disabled={!id}>{texts.floating.lead}</Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
