// An instance in few words: its state, its name, its address, and what can be done with it now.

import { Menu } from "@mantine/core";
import { memo } from "react";
import { Link } from "wouter";
import type { Instance } from "../api/types";
import { tone } from "../logic/instance";
import { texts } from "../texts";
import { useActing } from "./acting";
import { Dot, Message, nameOf, Progress, Tool } from "./basics";
import { MoreIcon, RemoveIcon, RestartIcon, StartIcon, StopIcon, TerminalIcon, UndoIcon, VmIcon } from "./icons";

/** Shown as buttons; the rest is in the menu. */
const OWN = new Set(["start", "stop", "restart", "remove", "restore", "purge", "update", "migrate", "console"]);

export function InstanceTools({ row, size = "md" }: { row: Instance; size?: "sm" | "md" }) {
  const { act, actCarefully } = useActing();
  const name = nameOf(row);
  const can = (action: string) => action in row.actions;
  const others = Object.keys(row.actions).filter((action) => !OWN.has(action));
  const removable = row.state !== "removed" && row.state !== "removing" && row.state !== "purged" && row.state !== "purging";
  const label = (verb: string) => `${verb}: ${name}`;
  return (
    <span style={{ display: "inline-flex", whiteSpace: "nowrap" }}>
      {row.type === "container" && row.state === "running" && "exec" in row.links && <Tool size={size} icon={TerminalIcon} label={label(texts.instance.tabs.terminal)} to={`/instances/${row.id}/terminal`} />}
      {row.type === "virtualMachine" && row.state === "running" && can("console") && <Tool size={size} icon={VmIcon} label={label(texts.instance.tabs.console)} to={`/instances/${row.id}/console`} />}
      {can("start") && <Tool size={size} icon={StartIcon} label={label(texts.verbs.start!)} onClick={() => void act(row, "start")} />}
      {can("restart") && <Tool size={size} icon={RestartIcon} label={label(texts.verbs.restart!)} onClick={() => void act(row, "restart")} />}
      {can("stop") && <Tool size={size} icon={StopIcon} label={label(texts.verbs.stop!)} onClick={() => void act(row, "stop")} />}
      {can("restore") && <Tool size={size} icon={UndoIcon} label={label(texts.verbs.restore!)} onClick={() => void act(row, "restore")} />}
      {(removable || can("purge") || others.length > 0) && (
        <Menu position="bottom-end" withinPortal>
          <Menu.Target>
            <Tool size={size} icon={MoreIcon} label={label(texts.common.more)} />
          </Menu.Target>
          <Menu.Dropdown>
            {others.map((action) => (
              <Menu.Item key={action} onClick={() => actCarefully(row, action)}>{texts.verbs[action] ?? action}</Menu.Item>
            ))}
            {removable && <Menu.Item color="red" leftSection={<RemoveIcon size={15} />} onClick={() => actCarefully(row, "remove")}>{texts.verbs.remove}</Menu.Item>}
            {can("purge") && <Menu.Item color="red" onClick={() => actCarefully(row, "purge")}>{texts.verbs.purge}</Menu.Item>}
          </Menu.Dropdown>
        </Menu>
      )}
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
        <span className="unit-sub">
          <span className="cut">{row.state}</span>
          {address && <span className="mono cut">{address}</span>}
        </span>
      </span>
      <InstanceTools row={row} size="sm" />
      {(row.transitioning === "yes" || row.transitioning === "error") && (
        <div className="unit-note">
          <Progress row={row} />
          <Message row={row} />
        </div>
      )}
    </li>
  );
});
