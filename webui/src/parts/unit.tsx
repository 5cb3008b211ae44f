// An instance in few words: its state, its name, its address, and what can be done with it now.

import { memo } from "react";
import { Link } from "wouter";
import type { Instance } from "../api/types";
import { tone } from "../logic/instance";
import { texts } from "../texts";
import { useActing } from "./acting";
import { Dot, MenuTool, Message, nameOf, Progress, Tool } from "./basics";
import { RemoveIcon, RestartIcon, StartIcon, StopIcon, TerminalIcon, UndoIcon, VmIcon } from "./icons";

/** Shown as buttons; the rest is in the menu. */
const OWN = new Set(["start", "stop", "restart", "remove", "restore", "purge", "update", "migrate", "console"]);

export function InstanceTools({ row, small }: { row: Instance; small?: boolean }) {
  const { act, actCarefully } = useActing();
  const name = nameOf(row);
  const can = (action: string) => action in row.actions;
  const others = Object.keys(row.actions).filter((action) => !OWN.has(action));
  const removable = row.state !== "removed" && row.state !== "removing" && row.state !== "purged" && row.state !== "purging";
  const label = (verb: string) => `${verb}: ${name}`;
  const entries = () => [
    ...others.map((action) => ({ label: texts.verbs[action] ?? action, act: () => actCarefully(row, action) })),
    ...(removable ? [{ label: texts.verbs.remove!, icon: RemoveIcon, grave: true, act: () => actCarefully(row, "remove") }] : []),
    ...(can("purge") ? [{ label: texts.verbs.purge!, grave: true, act: () => actCarefully(row, "purge") }] : []),
  ];
  return (
    <span className="tools">
      {row.type === "container" && row.state === "running" && "exec" in row.links && <Tool small={small} icon={TerminalIcon} label={label(texts.instance.tabs.terminal)} to={`/instances/${row.id}/terminal`} />}
      {row.type === "virtualMachine" && row.state === "running" && can("console") && <Tool small={small} icon={VmIcon} label={label(texts.instance.tabs.console)} to={`/instances/${row.id}/console`} />}
      {can("start") && <Tool small={small} icon={StartIcon} label={label(texts.verbs.start!)} onClick={() => void act(row, "start")} />}
      {can("restart") && <Tool small={small} icon={RestartIcon} label={label(texts.verbs.restart!)} onClick={() => void act(row, "restart")} />}
      {can("stop") && <Tool small={small} icon={StopIcon} label={label(texts.verbs.stop!)} onClick={() => void act(row, "stop")} />}
      {can("restore") && <Tool small={small} icon={UndoIcon} label={label(texts.verbs.restore!)} onClick={() => void act(row, "restore")} />}
      {(removable || can("purge") || others.length > 0) && <MenuTool small={small} label={label(texts.common.more)} entries={entries} />}
    </span>
  );
}

export const Unit = memo(function Unit({ row }: { row: Instance }) {
  const address = row.primaryAssociatedIpAddress || row.primaryIpAddress;
  return (
    <li className="unit">
      <Dot tone={tone(row)} />
      <span className="unit-name">
        <Link to={`/instances/${row.id}`} className="link strong cut" title={`${nameOf(row)} (${row.id})`}>{nameOf(row)}</Link>
        <span className="unit-sub" style={{ flexWrap: "nowrap" }}>
          <span className="cut">{row.state}</span>
          {address && <span className="mono cut">{address}</span>}
        </span>
      </span>
      <InstanceTools row={row} small />
      {(row.transitioning === "yes" || row.transitioning === "error") && (
        <div className="unit-note">
          <Progress row={row} />
          <Message row={row} />
        </div>
      )}
    </li>
  );
});
