import type { ExternalHandler } from "../api/types";
import { Page } from "../parts/basics";
import type { FormLook } from "../parts/form-dialog";
import { SmallList, type Column } from "../parts/small-list";
import { texts } from "../texts";

const COLUMNS: Column<ExternalHandler>[] = [
  { title: texts.handlers.processes, text: (row) => (row.processNames ?? []).join(" "), show: (row) => (row.processNames ?? []).map((name) => <span key={name} className="chip mono">{name}</span>) },
  { title: texts.handlers.priority, show: (row) => row.priority },
  { title: texts.handlers.patience, show: (row) => (row.timeoutMillis ? `${row.timeoutMillis} ms, ${row.retries ?? 0}` : "") },
];
const LOOK: FormLook = { fields: ["name", "processNames", "priority", "timeoutMillis", "retries", "description"], without: ["accountId"], hints: { processNames: texts.handlers.namesHint } };

export default function Handlers() {
  return (
    <Page title={texts.handlers.title}>
      <SmallList<ExternalHandler> list="handlers" type="externalHandler" columns={COLUMNS} look={LOOK} add={texts.handlers.add} hint={texts.handlers.hint} />
    </Page>
  );
}
