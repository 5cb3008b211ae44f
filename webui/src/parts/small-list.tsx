// A list of a type of which there are few: its rows, what can be done with each, and making one.

import { Button, Group, TextInput } from "@mantine/core";
import { useMemo, useState, type ReactNode } from "react";
import { useRows, useSchema } from "../api/hooks";
import type { ListName } from "../api/lists";
import type { Row } from "../api/types";
import { idNumber, matches } from "../logic/filter";
import { isGone } from "../logic/instance";
import { texts } from "../texts";
import { useActing } from "./acting";
import { Empty, Loading, Message, nameOf, Problem, Progress, StateBadge, MenuTool } from "./basics";
import { FormDialog, type FormLook } from "./form-dialog";
import { PlusIcon, SearchIcon } from "./icons";

export interface Column<T> {
  title: string;
  show: (row: T) => ReactNode;
  /** For finding. */
  text?: (row: T) => string;
}

interface Props<T extends Row> {
  list: ListName;
  type: string;
  columns: readonly Column<T>[];
  look: FormLook;
  add?: string;
  hint?: string;
  made?: (row: T) => void;
  only?: (row: T) => boolean;
  /** Besides what the API offers. */
  extra?: (row: T) => ReactNode;
}

const MOST = 500;

export function SmallList<T extends Row>({ list, type, columns, look, add, hint, made, only, extra }: Props<T>) {
  const query = useRows<T>(list);
  const schema = useSchema(type);
  const [search, setSearch] = useState("");
  const [form, setForm] = useState<{ row?: T } | null>(null);
  const rows = useMemo(
    () =>
      (query.data ?? [])
        .filter((row) => !isGone(row) && (!only || only(row)))
        .filter((row) => matches(search, { name: row.name, id: row.id, state: row.state, ...Object.fromEntries(columns.map((column) => [column.title.toLowerCase(), column.text?.(row)])) }))
        .sort((a, b) => idNumber(a.id) - idNumber(b.id)),
    [query.data, search, only, columns],
  );
  const mayAdd = add !== undefined && schema?.collectionMethods.includes("POST");
  return (
    <>
      <Group mb="sm" justify="space-between" wrap="wrap">
        <TextInput aria-label={texts.common.search} placeholder={texts.common.search} leftSection={<SearchIcon size={15} aria-hidden />} value={search} onChange={(event) => setSearch(event.currentTarget.value)} type="search" style={{ flex: "0 1 280px" }} />
        {mayAdd && <Button size="xs" leftSection={<PlusIcon size={14} aria-hidden />} onClick={() => setForm({})}>{add}</Button>}
      </Group>
      {query.isError && <Problem error={query.error} retry={() => void query.refetch()} />}
      {query.isPending && !query.isError && <Loading />}
      {query.data && (
        <div className="panel scroll-x">
          {rows.length === 0 ? (
            <Empty title={search ? texts.common.noMatch : texts.common.nothing} hint={search ? undefined : hint} />
          ) : (
            <table className="table">
              <thead>
                <tr>
                  <th scope="col">{texts.common.name}</th>
                  {columns.map((column) => <th key={column.title} scope="col">{column.title}</th>)}
                  <th scope="col">{texts.common.state}</th>
                  <th scope="col"><span className="sr-only">{texts.common.actions}</span></th>
                </tr>
              </thead>
              <tbody>
                {rows.slice(0, MOST).map((row) => (
                  <tr key={row.id}>
                    <td style={{ maxWidth: 260 }}>
                      <div className="cut" title={nameOf(row)}><strong>{nameOf(row)}</strong> {row.name && <span className="soft mono">{row.id}</span>}</div>
                      {row.description && <div className="soft cut" title={row.description}>{row.description}</div>}
                    </td>
                    {columns.map((column) => <td key={column.title} className="wrap">{column.show(row)}</td>)}
                    <td><StateBadge row={row} /><Progress row={row} /><Message row={row} /></td>
                    <td style={{ textAlign: "right", whiteSpace: "nowrap" }}>{extra?.(row)}<RowMenu row={row} edit={() => setForm({ row })} /></td>
                  </tr>
                ))}
              </tbody>
            </table>
          )}
        </div>
      )}
      {form && <FormDialog type={form.row?.type ?? type} title={form.row ? texts.common.edit : (add ?? texts.common.create)} row={form.row} look={look} close={() => setForm(null)} done={form.row ? undefined : (row) => made?.(row as T)} />}
    </>
  );
}

const ORDER = ["activate", "deactivate", "restore", "remove", "purge"];

export function RowMenu({ row, edit, without = [] }: { row: Row; edit?: () => void; without?: readonly string[] }) {
  const { act, actCarefully } = useActing();
  const actions = Object.keys(row.actions).filter((action) => action !== "update" && action !== "create" && !without.includes(action) && (ORDER.includes(action) || texts.verbs[action]));
  if (actions.length === 0 && !("update" in row.actions)) return null;
  const entries = () => [
    ...(edit && "update" in row.actions ? [{ label: `${texts.common.edit}…`, act: edit }] : []),
    ...actions
      .sort((a, b) => ORDER.indexOf(a) - ORDER.indexOf(b))
      .map((action) => ({ label: texts.verbs[action] ?? action, grave: action === "remove" || action === "purge", act: () => (action === "remove" || action === "purge" ? actCarefully(row, action) : void act(row, action)) })),
  ];
  return <MenuTool label={`${texts.common.actions}: ${nameOf(row).slice(0, 60)}`} entries={entries} />;
}
