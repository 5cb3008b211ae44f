// An API key begins a session; the key itself is kept nowhere.

import { Alert, Button, Code, PasswordInput, Stack, Text, TextInput } from "@mantine/core";
import { useState, type FormEvent } from "react";
import { ApiError, ask, get } from "../api/client";
import { WarningIcon } from "../parts/icons";
import { texts } from "../texts";
import { Logo } from "../parts/logo";

export function SignIn({ over, done }: { over: boolean; done: () => void }) {
  const [publicValue, setPublic] = useState("");
  const [secretValue, setSecret] = useState("");
  const [problem, setProblem] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);

  async function submit(event: FormEvent) {
    event.preventDefault();
    setBusy(true);
    setProblem(null);
    try {
      // Any answer brings the cookie that the sign-in says again, where the browser has none yet.
      if (!document.cookie.includes("CSRF=")) await get("/session").catch(() => undefined);
      await ask("POST", "/session", { publicValue: publicValue.trim(), secretValue: secretValue.trim() });
      setSecret("");
      done();
    } catch (error) {
      setProblem(error instanceof ApiError && error.status === 401 ? `${texts.signIn.wrong} (${error.message})` : (error as Error).message);
    } finally {
      setBusy(false);
    }
  }

  return (
    <main className="sign-in">
      <div>
        <Stack gap="md">
          <Logo large />
          <form className="panel panel-body" onSubmit={(event) => void submit(event)}>
            <Stack gap="sm">
              <h1 style={{ margin: 0, fontSize: "1.2rem" }}>{texts.signIn.title}</h1>
              <Text size="sm" className="soft">{over ? texts.signIn.over : texts.signIn.intro}</Text>
              <TextInput label={texts.signIn.public} value={publicValue} onChange={(event) => setPublic(event.currentTarget.value)} autoComplete="username" required autoFocus spellCheck={false} name="username" />
              <PasswordInput label={texts.signIn.secret} value={secretValue} onChange={(event) => setSecret(event.currentTarget.value)} autoComplete="current-password" required name="password" />
              {problem && <Alert color="red" variant="light" role="alert" icon={<WarningIcon size={16} />}><span className="wrap">{problem}</span></Alert>}
              <Button type="submit" loading={busy} fullWidth>{texts.signIn.button}</Button>
            </Stack>
          </form>
          {location.protocol !== "https:" && !["localhost", "127.0.0.1", "[::1]"].includes(location.hostname) && <Alert color="yellow" variant="light" icon={<WarningIcon size={16} />}>{texts.signIn.plain}</Alert>}
          <Text size="sm" className="soft" component="div">
            {texts.signIn.hint} <Code>{texts.signIn.command}</Code>
          </Text>
        </Stack>
      </div>
    </main>
  );
}
