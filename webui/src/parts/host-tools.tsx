// What can be done to a host: cordon, drain, back again, labels, and the operator's word about one that is gone.

import { Button, Group, Modal, NumberInput, Stack, Switch, Text } from "@mantine/core";
import { useState } from "react";
import type { Host } from "../api/types";
import { texts } from "../texts";
import { useActing } from "./acting";
import { MenuTool, nameOf } from "./basics";
import { MapEditor } from "./editors";

export function HostTools({ host }: { host: Host }) {
  const { act, ask } = useActing();
  const [drain, setDrain] = useState(false);
  const [labels, setLabels] = useState(false);
  const can = (action: string) => action in host.actions;
  const grave = (action: string, verb: string, text: string, input?: unknown) => ({
    label: verb,
    grave: true,
    act: () => ask({ title: texts.confirm.title(verb, nameOf(host)), text, typed: nameOf(host), verb, go: () => void act(host, action, input) }),
  });
  const entries = () => [
    ...(can("activate") ? [{ label: texts.hosts.uncordon, act: () => void act(host, "activate") }] : []),
    ...(can("deactivate") ? [{ label: texts.hosts.cordon, act: () => void act(host, "deactivate") }] : []),
    ...(can("drain") ? [{ label: `${texts.hosts.drain}…`, act: () => setDrain(true) }] : []),
    ...(can("update") ? [{ label: `${texts.hosts.editLabels}…`, act: () => setLabels(true) }] : []),
    ...(can("failover") ? [grave("failover", texts.verbs.failover!, texts.confirm.failover)] : []),
    ...(can("remove") ? [grave("remove", texts.hosts.forceRemove, texts.confirm.forceRemove, host.state === "disconnected" ? { force: true } : undefined)] : []),
  ];
  if (Object.keys(host.actions).length === 0) return null;
  return (
    <>
      <MenuTool label={`${texts.common.actions}: ${nameOf(host)}`} entries={entries} />
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
