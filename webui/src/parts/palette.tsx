// One field that finds everything by its name: Ctrl+K, or a slash.

import { Button, Combobox, Kbd, Modal, TextInput, useCombobox, VisuallyHidden } from "@mantine/core";
import { useDisclosure, useHotkeys } from "@mantine/hooks";
import { useMemo, useState } from "react";
import { useLocation } from "wouter";
import { useRows } from "../api/hooks";
import type { Host, Instance } from "../api/types";
import { matches } from "../logic/filter";
import { isGone } from "../logic/instance";
import { texts } from "../texts";
import { nameOf } from "./basics";
import { SearchIcon } from "./icons";

interface Found {
  to: string;
  label: string;
  kind: string;
}

const MOST = 12;

export function Palette({ groups }: { groups: { label: string; entries: { to: string; label: string }[] }[] }) {
  const [opened, { open, close }] = useDisclosure(false);
  useHotkeys([["mod+K", open], ["/", open]]);
  return (
    <>
      <Button variant="default" size="xs" leftSection={<SearchIcon size={14} aria-hidden />} onClick={open} aria-haspopup="dialog">
        {texts.palette.open} <Kbd ml={8} size="xs" visibleFrom="sm">/</Kbd>
      </Button>
      {opened && (
        <Modal opened onClose={close} withCloseButton={false} size="lg" padding={8} attributes={{ content: { "aria-label": texts.palette.open } }}>
          <Search groups={groups} close={close} />
        </Modal>
      )}
    </>
  );
}

function Search({ groups, close }: { groups: { label: string; entries: { to: string; label: string }[] }[]; close: () => void }) {
  const [, go] = useLocation();
  const [word, setWord] = useState("");
  const instances = useRows<Instance>("instances");
  const hosts = useRows<Host>("hosts");
  const combobox = useCombobox({ opened: true });

  const found = useMemo(() => {
    const screens = groups.flatMap((group) => group.entries.map(({ to, label }) => ({ to, label, kind: group.label })));
    const all = function* (): Generator<Found> {
      yield* screens;
      for (const host of hosts.data ?? []) yield { to: `/hosts/${host.id}`, label: nameOf(host), kind: texts.common.host };
      for (const row of instances.data ?? []) if (!isGone(row)) yield { to: `/instances/${row.id}`, label: nameOf(row), kind: `${row.id} ${row.primaryIpAddress ?? ""}` };
    };
    const shown: Found[] = [];
    for (const one of all()) {
      if (matches(word, { label: one.label, kind: one.kind })) shown.push(one);
      if (shown.length === MOST) break;
    }
    return shown;
  }, [groups, hosts.data, instances.data, word]);

  return (
    <Combobox
      store={combobox}
      onOptionSubmit={(to) => {
        go(to);
        close();
      }}
    >
      <Combobox.EventsTarget>
        <TextInput
          data-autofocus
          size="md"
          aria-label={texts.palette.placeholder}
          placeholder={texts.palette.placeholder}
          leftSection={<SearchIcon size={16} aria-hidden />}
          value={word}
          onChange={(event) => {
            setWord(event.currentTarget.value);
            combobox.selectFirstOption();
          }}
        />
      </Combobox.EventsTarget>
      <Combobox.Options mt={8} aria-label={texts.palette.open}>
        {found.map((one) => (
          <Combobox.Option value={one.to} key={one.to}>
            <span style={{ display: "flex", justifyContent: "space-between", gap: 16 }}>
              <span className="cut">{one.label}</span>
              <span className="soft" style={{ whiteSpace: "nowrap" }}>{one.kind}</span>
            </span>
          </Combobox.Option>
        ))}
        {found.length === 0 && <Combobox.Empty>{texts.palette.none}</Combobox.Empty>}
      </Combobox.Options>
      <VisuallyHidden role="status">{found.length}</VisuallyHidden>
    </Combobox>
  );
}
