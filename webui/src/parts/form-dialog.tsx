// A dialog with a form from a schema: for making a row of a type, and for changing one.

import { Accordion, Alert, Button, Group, Modal, Stack } from "@mantine/core";
import { useState } from "react";
import { ApiError, ask } from "../api/client";
import { hold } from "../api/store";
import { useSchema } from "../api/hooks";
import type { Field, Row } from "../api/types";
import { body, changes, check, formFields, type Values } from "../logic/form";
import { texts } from "../texts";
import { nameOf } from "./basics";
import { SchemaField } from "./field";

export interface FormLook {
  /** Shown first, in this order; the others are under "More". */
  fields: readonly string[];
  /** Not for people. */
  without?: readonly string[];
  labels?: Record<string, string>;
  hints?: Record<string, string>;
  long?: readonly string[];
}

const NEVER = ["id", "created", "removed", "removeTime", "kind", "uuid", "state", "data", "agentId", "zoneId"];

export function FormDialog({ type, title, row, look, start, close, done }: { type: string; title: string; row?: Row; look: FormLook; start?: Values; close: () => void; done?: (row: Row) => void }) {
  const schema = useSchema(type);
  // As it was when this was opened: what somebody else changes meanwhile is not put back.
  const [before] = useState(row);
  const [values, setValues] = useState<Values>(() => (row ? { ...row } : { ...start }));
  const [errors, setErrors] = useState<Record<string, string>>({});
  const [problem, setProblem] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const fields = schema ? formFields(schema, row ? "update" : "create", look.fields, [...NEVER.filter((name) => !look.fields.includes(name)), ...(look.without ?? [])]) : [];
  const first = fields.filter(([name]) => look.fields.includes(name));
  const rest = fields.filter(([name]) => !look.fields.includes(name));

  async function submit() {
    const wrong = Object.fromEntries(fields.map(([name, field]) => [name, check(field, values[name], texts.form)] as const).filter((one): one is [string, string] => one[1] !== null));
    setErrors(wrong);
    setProblem(null);
    if (Object.keys(wrong).length > 0) return;
    setBusy(true);
    try {
      const sent = row ? changes(fields, values, before as unknown as Record<string, unknown>) : body(fields, values);
      const answer = row ? await ask<Row>("PUT", row.links.self ?? "", sent) : await ask<Row>("POST", schema?.links.collection ?? "", sent);
      hold(answer.body);
      close();
      done?.(answer.body);
    } catch (error) {
      if (error instanceof ApiError && error.field && fields.some(([name]) => name === error.field)) setErrors({ [error.field]: error.message });
      else setProblem((error as Error).message);
    } finally {
      setBusy(false);
    }
  }

  const show = ([name, field]: [string, Field]) => (
    <SchemaField key={name} name={name} field={field} value={values[name]} error={errors[name]} label={look.labels?.[name]} hint={look.hints?.[name]} long={look.long?.includes(name)} onChange={(value) => setValues((was) => ({ ...was, [name]: value }))} />
  );
  return (
    <Modal opened onClose={close} title={<span className="wrap">{row ? texts.confirm.title(title, nameOf(row)) : title}</span>} size="lg" closeButtonProps={{ "aria-label": texts.common.close }}>
      <form
        noValidate
        onSubmit={(event) => {
          event.preventDefault();
          void submit();
        }}
      >
        <Stack gap="sm">
          {first.map(show)}
          {rest.length > 0 && (
            <Accordion variant="contained">
              <Accordion.Item value="more">
                <Accordion.Control>{texts.common.optional}</Accordion.Control>
                <Accordion.Panel><Stack gap="sm">{rest.map(show)}</Stack></Accordion.Panel>
              </Accordion.Item>
            </Accordion>
          )}
          {problem && <Alert color="red" variant="light" role="alert"><span className="wrap">{problem}</span></Alert>}
          <Group justify="flex-end">
            <Button variant="default" onClick={close}>{texts.common.cancel}</Button>
            <Button type="submit" loading={busy}>{row ? texts.common.save : texts.common.create}</Button>
          </Group>
        </Stack>
      </form>
    </Modal>
  );
}
