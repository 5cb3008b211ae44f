import type { SshKey } from "../api/types";
import { Ago, Copy, Page } from "../parts/basics";
import type { FormLook } from "../parts/form-dialog";
import { SmallList, type Column } from "../parts/small-list";
import { texts } from "../texts";

const COLUMNS: Column<SshKey>[] = [
  {
    title: texts.common.publicKey,
    text: (row) => row.publicValue ?? "",
    show: (row) => (
      <span style={{ display: "flex", alignItems: "center", maxWidth: 380 }}>
        <span className="mono cut">{row.publicValue}</span>
        <Copy text={row.publicValue ?? ""} />
      </span>
    ),
  },
  { title: texts.common.created, show: (row) => <Ago at={row.createdTS} /> },
];
const LOOK: FormLook = { fields: ["name", "publicValue", "description"], without: ["secretValue", "accountId"], long: ["publicValue"], hints: { publicValue: texts.sshKeys.hint }, labels: { publicValue: texts.common.publicKey } };

export default function SshKeys() {
  return (
    <Page title={texts.sshKeys.title}>
      <SmallList<SshKey> list="sshKeys" type="sshKey" columns={COLUMNS} look={LOOK} add={texts.sshKeys.add} hint={texts.sshKeys.hint} />
    </Page>
  );
}
