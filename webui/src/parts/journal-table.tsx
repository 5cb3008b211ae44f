import { Link } from "wouter";
import { listOf } from "../api/lists";
import { date, time } from "../logic/format";
import { tone } from "../logic/instance";
import type { Entry } from "../logic/journal";
import { Dot } from "./basics";

/** The screen that an entry's row has, where it has one. */
function placeOf(entry: Entry): string | null {
  const list = listOf(entry.type);
  return list === "instances" || list === "hosts" ? `/${list}/${entry.id}` : null;
}

export function JournalTable({ entries }: { entries: readonly Entry[] }) {
  return (
    <table className="table">
      <tbody>
        {entries.map((entry, index) => {
          const to = placeOf(entry);
          const shown = tone({ state: entry.to, transitioning: entry.error ? "error" : "no" });
          return (
            <tr key={`${entry.at}${entry.id}${index}`}>
              <td className="soft mono" style={{ whiteSpace: "nowrap", width: 1 }} title={date(entry.at)}>{time(entry.at)}</td>
              <td className="cut" style={{ maxWidth: 200 }} title={entry.name}>{to ? <Link to={to} className="link strong">{entry.name}</Link> : <strong>{entry.name}</strong>} <span className="soft">{entry.type}</span></td>
              <td>
                <span className="state" data-tone={shown}><Dot tone={shown} />{entry.from ? `${entry.from} → ${entry.to}` : entry.to}</span>
                {entry.error && <div className="wrap" style={{ color: "var(--tone-bad)", fontSize: "0.84rem" }}>{entry.error}</div>}
              </td>
            </tr>
          );
        })}
      </tbody>
    </table>
  );
}
