// The networks, what of their addresses is in use, and by which hosts.

import { useQuery } from "@tanstack/react-query";
import { useMemo } from "react";
import { Link } from "wouter";
import { get } from "../api/client";
import { useParts, useRows } from "../api/hooks";
import type { Collection, Host, Instance, Network, Row, Subnet } from "../api/types";
import { count } from "../logic/format";
import { isGone } from "../logic/instance";
import { Empty, Facts, Gauge, Loading, nameOf, Page, Panel, Problem, StateBadge } from "../parts/basics";
import { texts } from "../texts";

export default function Networks() {
  const networks = useRows<Network>("networks");
  const subnets = useQuery({ queryKey: ["parts", "subnets", "all"], queryFn: async () => (await get<Collection<Subnet>>("/v1/subnets?limit=1000")).data });
  if (networks.isError) return <Problem error={networks.error} retry={() => void networks.refetch()} />;
  return (
    <Page title={texts.networks.title}>
      {networks.isPending && <Loading />}
      <div className="stack">
        {(networks.data ?? []).filter((row) => !isGone(row)).map((network) => <One key={network.id} network={network} subnets={(subnets.data ?? []).filter((subnet) => subnet.networkId === network.id)} />)}
      </div>
    </Page>
  );
}

function One({ network, subnets }: { network: Network; subnets: readonly Subnet[] }) {
  const instances = useRows<Instance>("instances");
  const hosts = useRows<Host>("hosts");
  const services = useParts<Row>(network as Row, "networkServices");
  const managed = subnets.length > 0;
  const used = useMemo(() => (managed ? (instances.data ?? []).filter((row) => !isGone(row) && subnets.some((subnet) => within(row.primaryIpAddress, subnet))) : []), [instances.data, managed, subnets]);
  const byHost = useMemo(() => {
    const found = new Map<string, number>();
    for (const row of used) found.set(row.hostId ?? "", (found.get(row.hostId ?? "") ?? 0) + 1);
    return found;
  }, [used]);
  const names = useMemo(() => new Map((hosts.data ?? []).map((host) => [host.id, nameOf(host)])), [hosts.data]);
  return (
    <Panel title={<span className="wrap">{nameOf(network)} <span className="soft mono" style={{ fontWeight: 400 }}>{network.id}</span></span>} tools={<StateBadge row={network as Row} />}>
      {!managed ? (
        <span className="soft">{network.uuid === "unmanaged" ? texts.networks.unmanaged : (network.description ?? texts.networks.noSubnet)}</span>
      ) : (
        <div className="two">
          <div className="stack">
            {subnets.map((subnet) => {
              const whole = 2 ** (32 - (subnet.cidrSize ?? 32)) - 2;
              const its = used.filter((row) => within(row.primaryIpAddress, subnet)).length;
              return (
                <div key={subnet.id} className="stack tight">
                  <Facts
                    rows={[
                      [texts.networks.subnet, <span key="subnet" className="mono">{`${subnet.networkAddress}/${subnet.cidrSize}`}</span>],
                      [texts.networks.gateway, <span key="gateway" className="mono">{subnet.gateway}</span>],
                      [texts.networks.range, <span key="range" className="mono">{`${subnet.startAddress} – ${subnet.endAddress}`}</span>],
                    ]}
                  />
                  <Gauge label={texts.networks.used} part={its} whole={whole} words={texts.hosts.promised(its.toLocaleString("en"), whole.toLocaleString("en"))} />
                </div>
              );
            })}
            {(services.data?.length ?? 0) > 0 && <Facts rows={[[texts.networks.services, services.data!.map((service) => <span key={service.id} className="chip">{service.type.replace(/Service$/, "")}</span>)]]} />}
          </div>
          <div>
            <h3 style={{ margin: "0 0 8px", fontSize: "0.9rem" }}>{texts.networks.blocks}</h3>
            {byHost.size === 0 ? <Empty title={texts.common.nothing} /> : (
              <table className="table">
                <tbody>
                  {[...byHost].map(([id, number]) => (
                    <tr key={id}>
                      <td>{id ? <Link to={`/hosts/${id}`}>{names.get(id) ?? id}</Link> : <span className="soft">{texts.instance.waiting}</span>}</td>
                      <td>{count(number, "address", "addresses")}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            )}
          </div>
        </div>
      )}
    </Panel>
  );
}

function number(address: string | null | undefined): number | null {
  const parts = (address ?? "").split(".").map(Number);
  return parts.length === 4 && parts.every((part) => part >= 0 && part < 256) ? parts.reduce((sum, part) => sum * 256 + part, 0) : null;
}

function within(address: string | null | undefined, subnet: Subnet): boolean {
  const [its, from] = [number(address), number(subnet.networkAddress)];
  if (its === null || from === null) return false;
  const size = 2 ** (32 - (subnet.cidrSize ?? 32));
  return its >= from && its < from + size;
}
