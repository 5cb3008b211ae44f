// Editors for what a single input cannot hold.

import { ActionIcon, Button, Group, Input, Select, TextInput } from "@mantine/core";
import { useState } from "react";
import { useRows } from "../api/hooks";
import type { Instance } from "../api/types";
import { isGone } from "../logic/instance";
import { texts } from "../texts";
import { nameOf } from "./basics";
import { CloseIcon, PlusIcon } from "./icons";

interface Pair<V> {
  key: string;
  value: V;
}

function usePairs<V>(value: Record<string, V>, onChange: (value: Record<string, V>) => void, blank: V) {
  // Kept in order, and with names that are not typed to their end yet.
  const [pairs, setPairs] = useState<Pair<V>[]>(() => Object.entries(value).map(([key, its]) => ({ key, value: its })));
  const set = (next: Pair<V>[]) => {
    setPairs(next);
    onChange(Object.fromEntries(next.filter((pair) => pair.key !== "").map((pair) => [pair.key, pair.value])));
  };
  return {
    pairs,
    add: () => set([...pairs, { key: "", value: blank }]),
    edit: (index: number, change: Partial<Pair<V>>) => set(pairs.map((pair, at) => (at === index ? { ...pair, ...change } : pair))),
    drop: (index: number) => set(pairs.filter((_, at) => at !== index)),
  };
}

interface EditorProps<V> {
  label: string;
  description?: string;
  error?: string | null;
  value: Record<string, V>;
  onChange: (value: Record<string, V>) => void;
}

/** Names and values. */
export function MapEditor({ label, description, error, value, onChange }: EditorProps<string>) {
  const { pairs, add, edit, drop } = usePairs(value, onChange, "");
  return (
    <Input.Wrapper label={label} description={description} error={error} labelElement="div" role="group" aria-label={label}>
      {pairs.map((pair, index) => (
        <Group key={index} gap={6} mt={6} wrap="nowrap">
          <TextInput aria-label={`${label}: ${texts.form.entryName}`} placeholder={texts.form.entryName} value={pair.key} onChange={(event) => edit(index, { key: event.currentTarget.value })} style={{ flex: 1 }} autoFocus={pair.key === "" && pair.value === ""} />
          <TextInput aria-label={`${label}: ${texts.form.entryValue}`} placeholder={texts.form.entryValue} value={pair.value} onChange={(event) => edit(index, { value: event.currentTarget.value })} style={{ flex: 1.4 }} />
          <ActionIcon variant="subtle" color="gray" aria-label={texts.form.removeEntry(pair.key)} onClick={() => drop(index)}><CloseIcon size={15} /></ActionIcon>
        </Group>
      ))}
      <div style={{ marginTop: 6 }}>
        <Button size="compact-sm" variant="default" leftSection={<PlusIcon size={13} aria-hidden />} onClick={add} aria-label={`${texts.form.addEntry}: ${label}`}>{texts.form.addEntry}</Button>
      </div>
    </Input.Wrapper>
  );
}

/** Names, and an instance for each, or nobody yet. */
export function LinksEditor({ label, description, error, value, onChange }: EditorProps<string | null>) {
  const { pairs, add, edit, drop } = usePairs<string | null>(value, onChange, null);
  const instances = useRows<Instance>("instances");
  const data = (instances.data ?? []).filter((row) => !isGone(row)).map((row) => ({ value: row.id, label: `${nameOf(row)} (${row.id})` }));
  return (
    <Input.Wrapper label={label} description={description} error={error} labelElement="div" role="group" aria-label={label}>
      {pairs.map((pair, index) => (
        <Group key={index} gap={6} mt={6} wrap="nowrap">
          <TextInput aria-label={texts.instance.linkName} placeholder={texts.instance.linkName} value={pair.key} onChange={(event) => edit(index, { key: event.currentTarget.value })} style={{ flex: 1 }} />
          <Select aria-label={texts.instance.target} placeholder={texts.form.nobodyYet} data={data} value={pair.value} onChange={(its) => edit(index, { value: its })} searchable clearable limit={50} style={{ flex: 1.4 }} comboboxProps={{ withinPortal: true }} />
          <ActionIcon variant="subtle" color="gray" aria-label={texts.form.removeEntry(pair.key)} onClick={() => drop(index)}><CloseIcon size={15} /></ActionIcon>
        </Group>
      ))}
      <div style={{ marginTop: 6 }}>
        <Button size="compact-sm" variant="default" leftSection={<PlusIcon size={13} aria-hidden />} onClick={add}>{texts.form.addLink}</Button>
      </div>
    </Input.Wrapper>
  );
}
