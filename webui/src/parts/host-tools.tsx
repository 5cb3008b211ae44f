// What can be done to a host: cordon, drain, back again, labels, and the operator's word about one that is gone.

import { Button, Group, Menu, Modal, NumberInput, Stack, Switch, Text } from "@mantine/core";
import { useState } from "react";
import type { Host } from "../api/types";
import { texts } from "../texts";
import { useActing } from "./acting";
import { nameOf, Tool } from "./basics";
import { MapEditor } from "./editors";
import { MoreIcon } from "./icons";

export function HostTools({ host }: { host: Host }) {
  const { act, ask } = useActing();
  const [drain, setDrain] = useState(false);
  const [labels, setLabels] = useState(false);
  const can = (action: string) => action in host.actions;
  if (Object.keys(host.actions).length === 0) return null;
  return (
    <>
      <Menu position="bottom-end" withinPortal>
        <Menu.Target>
          <Tool icon={MoreIcon} label={`${texts.common.actions}: ${nameOf(host)}`} />
        </Menu.Target>
        <Menu.Dropdown>
          {can("activate") && <Menu.Item onClick={() => void act(host, "activate")}>{texts.hosts.uncordon}</Menu.Item>}
          {can("deactivate") && <Menu.Item onClick={() => void act(host, "deactivate")}>{texts.hosts.cordon}</Menu.Item>}
          {can("drain") && <Menu.Item onClick={() => setDrain(true)}>{texts.hosts.drain}…</Menu.Item>}
          {can("update") && <Menu.Item onClick={() => setLabels(true)}>{texts.hosts.editLabels}…</Menu.Item>}
          {can("failover") && <Menu.Item color="red" onClick={() => ask({ title: texts.confirm.title(texts.verbs.failover!, nameOf(host)), text: texts.confirm.failover, typed: nameOf(host), verb: texts.verbs.failover!, go: () => void act(host, "failover") })}>{texts.verbs.failover}</Menu.Item>}
          {can("remove") && <Menu.Item color="red" onClick={() => ask({ title: texts.confirm.title(texts.hosts.forceRemove, nameOf(host)), text: texts.confirm.forceRemove, typed: nameOf(host), verb: texts.hosts.forceRemove, go: () => void act(host, "remove", host.state === "disconnected" ? { force: true } : undefined) })}>{texts.hosts.forceRemove}</Menu.Item>}
        </Menu.Dropdown>
      </Menu>
      <DrainDialog host={host} opened={drain} close={() => setDrain(false)} />
      {labels && <LabelsDialog host={host} close={() => setLabels(false)} />}
    </>
  );
}

function DrainDialog({ host, opened, close }: { host: Host; opened: boolean; close: () => void }) {
  const { act } = useActing();
  const [atOnce, setAtOnce] = useState<number | string>(4);
  const [stopStaying, setStopStaying] = useState(false);
  return (
    <Modal opened={opened} onClose={close} title={texts.confirm.title(texts.hosts.drain, nameOf(host))} centered closeButtonProps={{ "aria-label": texts.common.close }}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          close();
          void act(host, "drain", { atOnce: Number(atOnce) || 4, stopStaying });
        }}
      >
        <Stack gap="sm">
          <Text size="sm">{texts.hosts.drainIntro}</Text>
          <NumberInput label={texts.hosts.atOnce} value={atOnce} onChange={setAtOnce} min={1} max={100} />
          <Switch label={texts.hosts.stopStaying} checked={stopStaying} onChange={(event) => setStopStaying(event.currentTarget.checked)} />
          <Group justify="flex-end">
            <Button variant="default" onClick={close}>{texts.common.cancel}</Button>
            <Button type="submit">{texts.hosts.drain}</Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}

function LabelsDialog({ host, close }: { host: Host; close: () => void }) {
  const { change } = useActing();
  const [labels, setLabels] = useState<Record<string, string>>(host.labels ?? {});
  return (
    <Modal opened onClose={close} title={texts.confirm.title(texts.hosts.editLabels, nameOf(host))} centered closeButtonProps={{ "aria-label": texts.common.close }}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          void change(host, { labels }).then((done) => done && close());
        }}
      >
        <Stack gap="sm">
          <MapEditor label={texts.hosts.labels} description={texts.hosts.labelsHint} value={labels} onChange={setLabels} />
          <Group justify="flex-end">
            <Button variant="default" onClick={close}>{texts.common.cancel}</Button>
            <Button type="submit">{texts.common.save}</Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
