// What happens anywhere in the cluster, as it happens.

import { Button, TextInput } from "@mantine/core";
import { useMemo, useState } from "react";
import { useJournal } from "../api/hooks";
import type { Entry } from "../logic/journal";
import { matches } from "../logic/filter";
import { Empty, Page, Panel } from "../parts/basics";
import { JournalTable } from "../parts/journal-table";
import { SearchIcon } from "../parts/icons";
import { texts } from "../texts";

export default function Events() {
  const all = useJournal();
  const [held, setHeld] = useState<readonly Entry[] | null>(null);
  const [search, setSearch] = useState("");
  const entries = held ?? all;
  const found = useMemo(() => entries.filter((entry) => matches(search, { name: entry.name, id: entry.id, type: entry.type, state: entry.to, error: entry.error })), [entries, search]);
  const missed = held ? all.length - held.length : 0;
  return (
    <Page
      title={texts.events.title}
      tools={
        <>
          <TextInput size="xs" aria-label={texts.events.filter} placeholder={texts.events.filter} leftSection={<SearchIcon size={14} aria-hidden />} value={search} onChange={(event) => setSearch(event.currentTarget.value)} type="search" />
          <Button size="xs" variant="default" onClick={() => setHeld(held ? null : all)}>{held ? texts.events.resume : texts.events.pause}</Button>
        </>
      }
    >
      <Panel title={texts.events.live} tools={missed > 0 && <span className="soft">{texts.events.paused(missed)}</span>} flush>
        {found.length === 0 ? <Empty title={search ? texts.common.noMatch : texts.events.empty} /> : <JournalTable entries={found} />}
      </Panel>
    </Page>
  );
}
