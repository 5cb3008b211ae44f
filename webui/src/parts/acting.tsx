// Doing something to a row: its progress, its error in plain words, its way back.

import { Button, Group, Modal, Text, TextInput } from "@mantine/core";
import { notifications } from "@mantine/notifications";
import { createContext, useCallback, useContext, useMemo, useState, type ReactNode } from "react";
import { ApiError, get, post, put, remove } from "../api/client";
import { hold } from "../api/store";
import type { Row } from "../api/types";
import { isInstance } from "../logic/instance";
import { texts } from "../texts";
import { nameOf } from "./basics";

/** What takes an action back. */
const BACK: Record<string, string> = { stop: "start", start: "stop", remove: "restore", deactivate: "activate", drain: "activate", activate: "deactivate" };
/** Whatever it is to be undone may first have to come to rest. */
const UNDO_TRIES = 40;
const UNDO_PAUSE_MS = 500;

interface Question {
  title: string;
  text: ReactNode;
  /** To be typed, where there is no way back. */
  typed?: string;
  verb: string;
  go: () => void;
}

interface Acting {
  /** Does it at once, tells how it went; true where it was done. */
  act: (row: Row, action: string, input?: unknown) => Promise<boolean>;
  change: (row: Row, fields: Record<string, unknown>, done?: string) => Promise<boolean>;
  ask: (question: Question) => void;
  /** Asks first where there is no way back, or where much hangs on it. */
  actCarefully: (row: Row, action: string) => void;
}

const Context = createContext<Acting | null>(null);

export function useActing(): Acting {
  const acting = useContext(Context);
  if (!acting) throw new Error("outside of ActingProvider");
  return acting;
}

export function complain(error: unknown, title = texts.errors.title): void {
  const message = error instanceof ApiError && error.status === 412 ? texts.errors.conflict : error instanceof Error ? error.message : String(error);
  notifications.show({ color: "red", title, message: <span className="wrap">{message}</span>, autoClose: 12_000 });
}

/** Instances are removed by DELETE, which stops what runs first: whatever became of them since they were shown. */
export async function send(row: Row, action: string, input?: unknown): Promise<Row> {
  const address = row.actions[action];
  if (action === "remove" && (isInstance(row) || !address)) return remove<Row>(row.links.self ?? "");
  if (!address) throw new ApiError(422, "ActionNotAvailable", `${nameOf(row)}: ${row.state ?? ""}`);
  return post<Row>(address, input);
}

function can(row: Row, action: string): boolean {
  return action in row.actions;
}

async function undo(self: string, action: string): Promise<void> {
  for (let tries = 0; tries < UNDO_TRIES; tries += 1) {
    const row = await get<Row>(self);
    if (can(row, action)) {
      hold(await send(row, action));
      notifications.show({ message: `${nameOf(row)}: ${texts.common.undone}` });
      return;
    }
    await new Promise((resolve) => setTimeout(resolve, UNDO_PAUSE_MS));
  }
  throw new ApiError(0, "", texts.common.notUndone);
}

function tell(row: Row, action: string): void {
  const back = BACK[action];
  const self = row.links.self;
  const id = notifications.show({
    autoClose: back ? 10_000 : 4000,
    message: (
      <Group justify="space-between" wrap="nowrap" gap="sm">
        <span className="wrap">{`${nameOf(row)} ${texts.did[action] ?? texts.verbs[action] ?? action}`}</span>
        {back && self && (
          <Button
            size="compact-xs"
            variant="light"
            onClick={() => {
              notifications.hide(id);
              undo(self, back).catch(complain);
            }}
          >
            {texts.common.undo}
          </Button>
        )}
      </Group>
    ),
  });
}

export function ActingProvider({ children }: { children: ReactNode }) {
  const [question, setQuestion] = useState<Question | null>(null);
  const [typed, setTyped] = useState("");

  const act = useCallback(async (row: Row, action: string, input?: unknown) => {
    try {
      const answer = await send(row, action, input);
      if (answer?.id === row.id) hold(answer);
      tell(row, action);
      return true;
    } catch (error) {
      complain(error);
      return false;
    }
  }, []);

  const change = useCallback(async (row: Row, fields: Record<string, unknown>, done?: string) => {
    try {
      hold(await put<Row>(row.links.self ?? "", fields));
      if (done) notifications.show({ message: done });
      return true;
    } catch (error) {
      complain(error);
      return false;
    }
  }, []);

  const ask = useCallback((asked: Question) => {
    setTyped("");
    setQuestion(asked);
  }, []);

  const actCarefully = useCallback(
    (row: Row, action: string) => {
      const verb = texts.verbs[action] ?? action;
      const go = () => void act(row, action);
      const title = texts.confirm.title(verb, nameOf(row));
      if (action === "purge") ask({ title, text: texts.confirm.purge, typed: nameOf(row), verb, go });
      else if (action === "remove" && !isInstance(row)) ask({ title, text: texts.confirm.removeRow, typed: nameOf(row), verb, go });
      else if (action === "remove") ask({ title, text: texts.confirm.remove, verb, go });
      else go();
    },
    [act, ask],
  );

  const value = useMemo(() => ({ act, change, ask, actCarefully }), [act, change, ask, actCarefully]);
  const close = () => setQuestion(null);
  return (
    <Context.Provider value={value}>
      {children}
      {question && <Modal opened onClose={close} title={<span className="wrap">{question?.title}</span>} centered closeButtonProps={{ "aria-label": texts.common.close }}>
        <form
          onSubmit={(event) => {
            event.preventDefault();
            if (question?.typed !== undefined && typed !== question.typed) return;
            question?.go();
            close();
          }}
        >
          <Text size="sm" className="wrap">{question?.text}</Text>
          {question?.typed !== undefined && (
            <TextInput mt="sm" label={texts.confirm.label} description={<span className="wrap">{texts.confirm.type(question.typed)}</span>} value={typed} onChange={(event) => setTyped(event.currentTarget.value)} data-autofocus autoComplete="off" />
          )}
          <Group justify="flex-end" mt="lg">
            <Button variant="default" onClick={close}>{texts.common.cancel}</Button>
            <Button type="submit" color="red" disabled={question?.typed !== undefined && typed !== question.typed} data-autofocus={question?.typed === undefined || undefined}>{question?.verb}</Button>
          </Group>
        </form>
      </Modal>}
    </Context.Provider>
  );
}
