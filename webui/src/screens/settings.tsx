// Of the page: its theme. Of the cluster: who signs, which secret hosts have, and tokens by which others join.

import { Button, Code, Group, Modal, SegmentedControl, Stack, Text, useMantineColorScheme } from "@mantine/core";
import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";
import { get, post, remove } from "../api/client";
import { useSession } from "../api/hooks";
import { date } from "../logic/format";
import { complain, useActing } from "../parts/acting";
import { Copy, Empty, Page, Panel, Problem } from "../parts/basics";
import { PlusIcon } from "../parts/icons";
import { texts } from "../texts";

interface Authority {
  fingerprint: string;
  signs: boolean;
  created: number;
  trustedUntil: number | null;
}

interface Secrets {
  hosts: { host: string; used: string | null; next: string | null; before: string | null }[];
  message: string | null;
}

interface Token {
  id: string;
  token?: string;
  usesLeft?: number;
  expires?: number;
}

export default function Settings() {
  const { colorScheme, setColorScheme } = useMantineColorScheme();
  const session = useSession();
  return (
    <Page title={texts.settings.title}>
      <div className="stack">
        <Panel title={texts.settings.appearance}>
          <SegmentedControl aria-label={texts.settings.appearance} value={colorScheme} onChange={(value) => setColorScheme(value as "light" | "dark" | "auto")} data={(["auto", "light", "dark"] as const).map((value) => ({ value, label: texts.settings.scheme[value] }))} />
        </Panel>
        {session.data?.role === "admin" && (
          <>
            <Tokens />
            <div className="two"><AuthorityPanel /><SecretPanel /></div>
          </>
        )}
        <p className="soft">{texts.settings.hostsOnly}</p>
      </div>
    </Page>
  );
}

function Tokens() {
  const { ask } = useActing();
  const queries = useQueryClient();
  const key = ["cluster", "tokens"];
  const tokens = useQuery({ queryKey: key, queryFn: () => get<Token[] | { tokens?: Token[]; data?: Token[] }>("/cluster/tokens"), staleTime: 0 });
  const [made, setMade] = useState<Token | null>(null);
  const data = tokens.data;
  const rows = Array.isArray(data) ? data : (data?.tokens ?? data?.data ?? []);
  const again = () => queries.invalidateQueries({ queryKey: key });
  return (
    <Panel title={texts.settings.tokens} tools={<Button size="compact-sm" variant="default" leftSection={<PlusIcon size={13} aria-hidden />} onClick={() => void post<Token>("/cluster/tokens", {}).then((token) => (setMade(token), again())).catch(complain)}>{texts.settings.newToken}</Button>} flush>
      {tokens.isError && <Problem error={tokens.error} />}
      {data && rows.length === 0 && <Empty title={texts.settings.noTokens} />}
      {rows.length > 0 && (
        <table className="table">
          <tbody>
            {rows.map((token) => (
              <tr key={token.id}>
                <td className="mono">{token.id}</td>
                <td className="soft">{token.usesLeft !== undefined ? `${texts.settings.uses}: ${token.usesLeft}` : ""}</td>
                <td className="soft">{token.expires ? `${texts.settings.expires} ${date(token.expires)}` : ""}</td>
                <td style={{ textAlign: "right" }}>
                  <Button size="compact-sm" variant="subtle" color="red" onClick={() => ask({ title: texts.confirm.title(texts.settings.take, token.id), text: texts.confirm.removeRow, verb: texts.settings.take, go: () => void remove(`/cluster/tokens/${token.id}`).then(again).catch(complain) })}>{texts.settings.take}</Button>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      <Modal opened={made !== null} onClose={() => setMade(null)} title={texts.settings.newToken} closeOnClickOutside={false} closeButtonProps={{ "aria-label": texts.common.close }}>
        <Stack gap="sm">
          <Text size="sm">{texts.settings.tokenOnce}</Text>
          <Group wrap="nowrap" align="start"><Code block className="wrap" style={{ whiteSpace: "pre-wrap" }}>{`stampede join ${made?.token ?? ""}`}</Code><Copy text={`stampede join ${made?.token ?? ""}`} /></Group>
          <Group justify="flex-end"><Button onClick={() => setMade(null)}>{texts.common.close}</Button></Group>
        </Stack>
      </Modal>
    </Panel>
  );
}

function AuthorityPanel() {
  const query = useQuery({ queryKey: ["cluster", "authority"], queryFn: () => get<{ authorities: Authority[] }>("/cluster/authority"), staleTime: 0 });
  return (
    <Panel title={texts.settings.authority} flush>
      {query.isError && <Problem error={query.error} />}
      <table className="table">
        <tbody>
          {(query.data?.authorities ?? []).map((one) => (
            <tr key={one.fingerprint}>
              <td className="mono wrap">{one.fingerprint.match(/.{1,4}/g)?.join(" ")}</td>
              <td style={{ whiteSpace: "nowrap" }}>{one.signs ? texts.settings.signs : texts.settings.trusted}</td>
              <td className="soft">{one.trustedUntil ? `${texts.settings.expires} ${date(one.trustedUntil)}` : date(one.created)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Panel>
  );
}

function SecretPanel() {
  const query = useQuery({ queryKey: ["cluster", "secret"], queryFn: () => get<Secrets>("/cluster/secret"), staleTime: 0 });
  return (
    <Panel title={texts.settings.secret}>
      {query.isError && <Problem error={query.error} />}
      <p className="soft" style={{ marginTop: 0 }}>{texts.settings.secretNote}</p>
      {query.data?.message && <p className="wrap">{query.data.message}</p>}
      <table className="table">
        <tbody>
          {(query.data?.hosts ?? []).map((one) => (
            <tr key={one.host}>
              <td><strong>{one.host}</strong></td>
              <td className="mono">{one.used}</td>
              <td className="mono soft">{one.next ? `→ ${one.next}` : ""}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Panel>
  );
}
