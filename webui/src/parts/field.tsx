// One field of a form, as its schema describes it.

import { JsonInput, MultiSelect, NumberInput, PasswordInput, Select, Switch, TagsInput, Textarea, TextInput } from "@mantine/core";
import { useRows } from "../api/hooks";
import { listOf, type ListName } from "../api/lists";
import type { Field, Row } from "../api/types";
import { words } from "../logic/format";
import { isJson, outer } from "../logic/form";
import { isGone } from "../logic/instance";
import { LinksEditor, MapEditor } from "./editors";
import { nameOf } from "./basics";

export interface FieldProps {
  name: string;
  field: Field;
  value: unknown;
  error?: string | null;
  onChange: (value: unknown) => void;
  label?: string;
  hint?: string;
  placeholder?: string;
  /** Suggestions for a text. */
  suggestions?: string[];
  long?: boolean;
  autoFocus?: boolean;
}

/** Which list a reference's choices come from; some are known by another type than they are declared with. */
const REFERRED: Record<string, ListName> = { credential: "sshKeys", ipPool: "pools" };

export function SchemaField(props: FieldProps) {
  const { name, field, value, error, onChange, hint } = props;
  const label = props.label ?? words(name);
  const [kind, inner] = outer(field.type);
  const shared = { label, description: hint, error: error ?? undefined, withAsterisk: field.required && field.default == null, "data-field": name, autoFocus: props.autoFocus } as const;
  const text = value === null || value === undefined ? "" : String(value);

  if (kind === "map" && inner === "string") return <MapEditor label={label} description={hint} error={error} value={(value as Record<string, string>) ?? {}} onChange={onChange} />;
  if (kind === "map" && inner === "reference[instance]") return <LinksEditor label={label} description={hint} error={error} value={(value as Record<string, string | null>) ?? {}} onChange={onChange} />;
  if (isJson(field)) return <JsonInput {...shared} value={typeof value === "string" ? value : value == null ? "" : JSON.stringify(value, null, 2)} onChange={onChange} autosize minRows={2} maxRows={12} formatOnBlur />;
  if (kind === "reference" || (kind === "array" && inner?.startsWith("reference["))) return <Reference {...props} label={label} />;
  if (kind === "array") return <TagsInput {...shared} value={((value as unknown[]) ?? []).map(String)} onChange={onChange} placeholder={props.placeholder} splitChars={name === "ports" ? [",", " "] : []} acceptValueOnBlur clearable data={props.suggestions} />;
  switch (field.type) {
    case "boolean":
      return <Switch label={label} description={hint} error={error ?? undefined} checked={value === undefined ? field.default === true : value === true} onChange={(event) => onChange(event.currentTarget.checked)} mt={4} />;
    case "enum":
      return <Select {...shared} data={field.options ?? []} value={text || null} placeholder={field.default != null ? String(field.default) : undefined} onChange={(its) => onChange(its ?? undefined)} clearable={!field.required} />;
    case "int":
    case "float":
      return <NumberInput {...shared} value={text} onChange={(its) => onChange(its === "" ? undefined : its)} min={field.min ?? undefined} max={field.max ?? undefined} allowDecimal={field.type === "float"} placeholder={props.placeholder ?? (field.default != null ? String(field.default) : undefined)} />;
    case "password":
      return <PasswordInput {...shared} value={text} onChange={(event) => onChange(event.currentTarget.value)} autoComplete="new-password" />;
    default:
      if (props.long || field.type === "blob" || (field.maxLength ?? 0) > 2000) return <Textarea {...shared} value={text} onChange={(event) => onChange(event.currentTarget.value)} autosize minRows={2} maxRows={14} placeholder={props.placeholder} spellCheck={false} />;
      return <TextInput {...shared} value={text} onChange={(event) => onChange(event.currentTarget.value)} placeholder={props.placeholder} autoComplete="off" spellCheck={false} />;
  }
}

function Reference({ field, value, error, onChange, label, hint, placeholder, name }: FieldProps) {
  const [kind, inner] = outer(field.type);
  const many = kind === "array";
  const type = many ? outer(inner ?? "")[1] : inner;
  const list = REFERRED[type ?? ""] ?? listOf(type ?? "");
  const rows = useRows<Row>(list ?? "hosts", list !== undefined);
  const shared = { label, description: hint, error: error ?? undefined, placeholder, withAsterisk: field.required, "data-field": name } as const;
  if (!list) return <TextInput {...shared} value={String(value ?? "")} onChange={(event) => onChange(many ? event.currentTarget.value.split(/[\s,]+/).filter(Boolean) : event.currentTarget.value)} />;
  const data = (rows.data ?? []).filter((row) => !isGone(row)).map((row) => ({ value: row.id, label: `${nameOf(row)} (${row.id})` }));
  if (many) return <MultiSelect {...shared} data={data} value={(value as string[]) ?? []} onChange={onChange} searchable clearable limit={50} />;
  return <Select {...shared} data={data} value={value ? String(value) : null} onChange={(its) => onChange(its ?? undefined)} searchable clearable limit={50} />;
}
