// Making an instance: the fields that the server's schema offers, in the order in which people think of them.

import { Alert, Autocomplete, Button, Group, Select, Stack } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { useMemo, useState, type ReactNode } from "react";
import { Link, useLocation, useSearch } from "wouter";
import { ApiError, post } from "../api/client";
import { useRows, useSchemas } from "../api/hooks";
import { hold } from "../api/store";
import type { Collection, Field, Host, Image, Instance, Row, Schema } from "../api/types";
import { body, check, formFields, type Values } from "../logic/form";
import { isGone, isInstance, isVm, loads } from "../logic/instance";
import { fits } from "../logic/placement";
import { Empty, Loading, nameOf, Page, Panel, Problem } from "../parts/basics";
import { SchemaField } from "../parts/field";
import { CheckIcon, CloseIcon } from "../parts/icons";
import { texts } from "../texts";

const SECTIONS: { title: string; fields: readonly string[] }[] = [
  { title: texts.form.basics, fields: ["imageUuid", "imageId", "name", "count", "command", "commandArgs", "environment", "instanceTriggeredStop", "credentialIds"] },
  { title: texts.form.networking, fields: ["ports", "publishAllPorts", "instanceLinks", "networkIds", "publicIpAddressPoolId", "hostname"] },
  { title: texts.form.limits, fields: ["vcpu", "memoryMb", "memoryLimitMb", "memoryReservationMb", "compute", "diskMb"] },
  { title: texts.form.placement, fields: ["requestedHostId", "onHostLoss", "hostLossGraceSeconds", "labels", "constraints", "affinity", "antiAffinity", "spreadBy", "placementPolicy", "validHostIds"] },
  { title: texts.form.more, fields: ["description", "userdata", "directory", "user", "dockerVolumes", "privileged", "startOnCreate"] },
];
/** For programs, or told by others of the form. */
const WITHOUT = ["accountId", "agentId", "data", "kind", "uuid", "zoneId", "removeTime", "subnetIds", "vnetIds"];
/** The other of imageUuid and imageId: a container's image is what `docker pull` takes, a machine's is one of the list. */
const IMAGE: Record<string, string> = { container: "imageUuid", virtualMachine: "imageId" };
const LONG = ["userdata"];
const HALF = new Set(["name", "count", "command", "commandArgs", "vcpu", "memoryMb", "memoryLimitMb", "memoryReservationMb", "compute", "diskMb", "requestedHostId", "onHostLoss", "hostLossGraceSeconds", "placementPolicy", "directory", "user", "hostname", "networkIds", "publicIpAddressPoolId", "instanceTriggeredStop", "credentialIds"]);

export default function NewInstance({ type }: { type: string }) {
  const schemas = useSchemas();
  const schema = schemas.data?.get(type);
  if (schemas.isError) return <Problem error={schemas.error} retry={() => void schemas.refetch()} />;
  if (!schemas.data) return <Loading />;
  if (!schema?.collectionMethods.includes("POST") || !isInstance({ type })) return <Empty title={texts.hosts.noVmsYet} />;
  return <Form schema={schema} type={type} />;
}

function Form({ schema, type }: { schema: Schema; type: string }) {
  const [, go] = useLocation();
  const search = useSearch();
  const [values, setValues] = useState<Values>(() => {
    const host = new URLSearchParams(search).get("requestedHostId");
    return host ? { requestedHostId: host } : {};
  });
  const [errors, setErrors] = useState<Record<string, string>>({});
  const [problem, setProblem] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const fields = useMemo(() => formFields(schema, "create", SECTIONS.flatMap((section) => section.fields), [...WITHOUT, ...Object.values(IMAGE).filter((name) => name !== IMAGE[type])]), [schema, type]);
  const known = new Set(SECTIONS.flatMap((section) => section.fields));
  const title = type === "container" ? texts.instances.newContainer : texts.instances.newVm;

  async function submit() {
    const wrong: Record<string, string> = {};
    for (const [name, field] of fields) {
      // Either names the image; the schema cannot say that.
      const complaint = check(name === IMAGE[type] ? { ...field, required: true } : field, values[name], texts.form);
      if (complaint) wrong[name] = complaint;
    }
    setErrors(wrong);
    setProblem(Object.keys(wrong).length > 0 ? texts.form.invalid : null);
    if (Object.keys(wrong).length > 0) return focusFirst(wrong);
    setBusy(true);
    try {
      const sent = body(fields, values);
      if (type === "container" && typeof sent.imageUuid === "string" && !/^(docker|sim):/.test(sent.imageUuid)) sent.imageUuid = `docker:${sent.imageUuid}`;
      const answer = await post<Row | Collection<Row>>(schema.links.collection ?? "", sent);
      const rows = "data" in answer && Array.isArray(answer.data) ? answer.data : [answer as Row];
      rows.forEach(hold);
      notifications.show({ message: texts.form.created(rows.length === 1 ? nameOf(rows[0]) : String(rows.length)) });
      go(rows.length === 1 ? `/instances/${rows[0]!.id}` : "/instances");
    } catch (error) {
      if (error instanceof ApiError && error.field && fields.some(([name]) => name === error.field)) {
        setErrors({ [error.field]: error.message });
        focusFirst({ [error.field]: "" });
      }
      setProblem((error as Error).message);
    } finally {
      setBusy(false);
    }
  }

  const set = (name: string) => (value: unknown) => setValues((was) => ({ ...was, [name]: value }));
  const show = ([name, field]: [string, Field]) => (
    <div key={name} style={HALF.has(name) ? undefined : { gridColumn: "1 / -1" }}>
      {name === "imageUuid" ? (
        <ImageField value={String(values.imageUuid ?? "")} error={errors.imageUuid} onChange={set("imageUuid")} />
      ) : name === "imageId" ? (
        <DiskImageField value={values.imageId ? String(values.imageId) : null} error={errors.imageId} onChange={set("imageId")} />
      ) : (
        <SchemaField name={name} field={field} value={values[name]} error={errors[name]} onChange={set(name)} label={texts.form.labels[name]} hint={texts.form.hints[name]} long={LONG.includes(name)} placeholder={name === "requestedHostId" ? texts.form.anyHost : undefined} />
      )}
    </div>
  );
  const count = Number(values.count) || 1;
  return (
    <Page title={title}>
      <form
        noValidate
        aria-label={title}
        onSubmit={(event) => {
          event.preventDefault();
          void submit();
        }}
      >
        <div className="form-page">
          <Stack gap="md">
            {SECTIONS.map((section) => {
              const its = fields.filter(([name]) => section.fields.includes(name) || (section.title === texts.form.more && !known.has(name)));
              return its.length > 0 ? <Section key={section.title} title={section.title}>{its.map(show)}</Section> : null;
            })}
          </Stack>
          <aside className="form-aside">
            <Preview values={values} type={type} />
            {problem && <Alert color="red" variant="light" role="alert"><span className="wrap">{problem}</span></Alert>}
            <Group grow>
              <Button variant="default" component={Link} to="/hosts">{texts.common.cancel}</Button>
              <Button type="submit" loading={busy}>{texts.form.create(count)}</Button>
            </Group>
          </aside>
        </div>
      </form>
    </Page>
  );
}

function focusFirst(wrong: Record<string, string>): void {
  const name = Object.keys(wrong)[0];
  requestAnimationFrame(() => document.querySelector<HTMLElement>(`[data-field="${CSS.escape(name ?? "")}"]`)?.focus());
}

function Section({ title, children }: { title: string; children: ReactNode }) {
  return (
    <Panel title={title}>
      <div className="form-grid">{children}</div>
    </Panel>
  );
}

/** Any reference, and what hosts have already. */
function ImageField({ value, error, onChange }: { value: string; error?: string; onChange: (value: string) => void }) {
  const images = useRows<Image>("images");
  const data = useMemo(
    () => [...new Set((images.data ?? []).filter((image) => !isGone(image) && (image.instanceKind ?? "container") === "container" && image.name).map((image) => String(image.name).replace(/^docker:/, "")))].slice(0, 500),
    [images.data],
  );
  return <Autocomplete label={texts.form.image} description={texts.form.imageHint} error={error} withAsterisk data={data} value={value.replace(/^docker:/, "")} onChange={onChange} limit={20} data-field="imageUuid" autoComplete="off" spellCheck={false} />;
}

/** One that was added with the address that it is fetched from. */
function DiskImageField({ value, error, onChange }: { value: string | null; error?: string; onChange: (value: string | undefined) => void }) {
  const images = useRows<Image>("images");
  const data = (images.data ?? []).filter((image) => !isGone(image) && image.instanceKind === "virtualMachine").map((image) => ({ value: image.id, label: `${nameOf(image)} (${image.id})` }));
  return <Select label={texts.form.image} description={texts.form.diskImageHint} error={error} withAsterisk data={data} value={value} onChange={(its) => onChange(its ?? undefined)} searchable limit={50} data-field="imageId" />;
}

function Preview({ values, type }: { values: Values; type: string }) {
  const hosts = useRows<Host>("hosts");
  const instances = useRows<Instance>("instances");
  const load = useMemo(() => loads(instances.data ?? []), [instances.data]);
  if (!hosts.data) return null;
  const memory = Number(values.memoryReservationMb ?? values.memoryLimitMb ?? values.memoryMb) || 64;
  const simulated = String(values.imageUuid ?? "").startsWith("sim:");
  const found = fits(hosts.data.filter((host) => !isGone(host)), load, {
    memoryMb: memory,
    requestedHostId: values.requestedHostId as string | undefined,
    validHostIds: values.validHostIds as string[] | undefined,
    constraints: values.constraints as string[] | undefined,
    policy: values.placementPolicy as string | undefined,
    capability: simulated ? "simulated" : isVm({ type }) ? "virtualMachine" : "container",
  });
  const best = found.find((one) => one.against === null);
  return (
    <Panel title={texts.form.preview}>
      <div role="status" style={{ marginBottom: 8 }}>{best ? texts.form.previewGo(nameOf(best.host)) : texts.form.previewNone}</div>
      <ul className="fit-list">
        {found.slice(0, 12).map(({ host, against }) => (
          <li key={host.id} data-tone={against ? "idle" : "good"}>
            {against ? <CloseIcon size={14} aria-label={texts.common.no} /> : <CheckIcon size={14} aria-label={texts.common.yes} />}
            <span className="cut" style={{ fontWeight: 600 }}>{nameOf(host)}</span>
            {against && <span className="soft wrap">{against}</span>}
          </li>
        ))}
      </ul>
      <div className="soft" style={{ fontSize: "0.78rem", marginTop: 8 }}>{texts.form.previewNote}</div>
    </Panel>
  );
}
