// What an instance publishes, and moving a public port while it runs.

import { Button, Group, Modal, NumberInput } from "@mantine/core";
import { useState } from "react";
import { useParts, useRow } from "../api/hooks";
import type { Host, Instance, Port, Row } from "../api/types";
import { texts } from "../texts";
import { useActing } from "./acting";
import { Empty, nameOf, Panel, Problem, StateBadge, Tool } from "./basics";
import { EditIcon, ExternalIcon } from "./icons";

export function Ports({ row }: { row: Instance }) {
  const ports = useParts<Port>(row, "ports");
  const host = useRow<Host>("hosts", row.hostId ?? "");
  const [moving, setMoving] = useState<Port | null>(null);
  const at = row.primaryAssociatedIpAddress || host.data?.publicAddress || host.data?.agentAddress?.replace(/:\d+$/, "");
  return (
    <Panel title={texts.instance.ports} flush>
      {ports.isError && <Problem error={ports.error} retry={() => void ports.refetch()} />}
      {ports.data?.length === 0 && <Empty title={texts.instance.noPorts} />}
      {(ports.data?.length ?? 0) > 0 && (
        <table className="table">
          <thead>
            <tr>
              <th scope="col">{texts.instance.publicPort}</th>
              <th scope="col">{texts.instance.privatePort}</th>
              <th scope="col">{texts.common.state}</th>
              <th scope="col"><span className="sr-only">{texts.common.actions}</span></th>
            </tr>
          </thead>
          <tbody>
            {ports.data!.map((port) => (
              <tr key={port.id}>
                <td className="mono">{port.publicPort ?? texts.common.none}</td>
                <td className="mono">{port.privatePort}/{port.protocol}</td>
                <td><StateBadge row={port as Row} /></td>
                <td style={{ textAlign: "right", whiteSpace: "nowrap" }}>
                  {at && port.publicPort && port.protocol === "tcp" && <Tool icon={ExternalIcon} label={texts.instance.openPort(port.publicPort)} href={`http://${at}:${port.publicPort}/`} />}
                  <Tool icon={EditIcon} label={`${texts.instance.movePort}: ${port.publicPort ?? ""}`} onClick={() => setMoving(port)} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      {moving && <MovePort port={moving} name={nameOf(row)} close={() => setMoving(null)} />}
    </Panel>
  );
}

function MovePort({ port, name, close }: { port: Port; name: string; close: () => void }) {
  const { change } = useActing();
  const [value, setValue] = useState<number | string>(port.publicPort ?? "");
  return (
    <Modal opened onClose={close} title={<span className="wrap">{texts.confirm.title(texts.instance.movePort, `${name} ${port.privatePort ?? ""}/${port.protocol ?? ""}`)}</span>} centered closeButtonProps={{ "aria-label": texts.common.close }}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void change(port as Row, { publicPort: value === "" ? null : Number(value) }, `${name}: ${value || texts.form.anyHost}`).then((done) => done && close());
        }}
      >
        <NumberInput label={texts.instance.publicPort} description={texts.instance.portHint} value={value} onChange={setValue} min={1} max={65535} allowDecimal={false} data-autofocus />
        <Group justify="flex-end" mt="md">
          <Button variant="default" onClick={close}>{texts.common.cancel}</Button>
          <Button type="submit">{texts.instance.movePort}</Button>
        </Group>
      </form>
    </Modal>
  );
}
