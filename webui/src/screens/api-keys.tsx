import { Button, Group, Modal, Stack, Text } from "@mantine/core";
import { useMemo, useState } from "react";
import { useRows } from "../api/hooks";
import type { Account, ApiKey } from "../api/types";
import { Ago, Copy, Facts, nameOf, Page } from "../parts/basics";
import type { FormLook } from "../parts/form-dialog";
import { SmallList, type Column } from "../parts/small-list";
import { texts } from "../texts";

const LOOK: FormLook = { fields: ["name", "accountId", "description"], without: ["publicValue", "secretValue"], labels: { accountId: texts.apiKeys.account } };

export default function ApiKeys() {
  const accounts = useRows<Account>("accounts");
  const [made, setMade] = useState<ApiKey | null>(null);
  const columns = useMemo<Column<ApiKey>[]>(() => {
    const names = new Map((accounts.data ?? []).map((row) => [row.id, nameOf(row)]));
    return [
      { title: texts.apiKeys.public, text: (row) => row.publicValue ?? "", show: (row) => <span className="mono">{row.publicValue}</span> },
      { title: texts.apiKeys.account, text: (row) => names.get(row.accountId ?? "") ?? "", show: (row) => names.get(row.accountId ?? "") ?? row.accountId },
      { title: texts.common.created, show: (row) => <Ago at={row.createdTS} /> },
    ];
  }, [accounts.data]);
  return (
    <Page title={texts.apiKeys.title}>
      <SmallList<ApiKey> list="apiKeys" type="apiKey" columns={columns} look={LOOK} add={texts.apiKeys.add} made={setMade} />
      <Modal opened={made !== null} onClose={() => setMade(null)} title={texts.apiKeys.secretTitle} closeOnClickOutside={false} closeButtonProps={{ "aria-label": texts.common.close }}>
        {made && (
          <Stack gap="sm">
            <Text size="sm">{texts.apiKeys.secretNote}</Text>
            <Facts
              rows={[
                [texts.apiKeys.public, <span key="public" className="mono">{made.publicValue} <Copy text={made.publicValue ?? ""} label={`${texts.common.copy}: ${texts.apiKeys.public}`} /></span>],
                [texts.signIn.secret, <span key="secret" className="mono wrap" data-testid="secret">{made.secretValue} <Copy text={made.secretValue ?? ""} label={`${texts.common.copy}: ${texts.signIn.secret}`} /></span>],
              ]}
            />
            <Group justify="flex-end"><Button onClick={() => setMade(null)}>{texts.common.close}</Button></Group>
          </Stack>
        )}
      </Modal>
    </Page>
  );
}
