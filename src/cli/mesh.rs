//! `stampede mesh`: how a host reaches the others.

use super::client::Target;
use super::list::{rows, text};
use super::table;
use crate::environment::{Clock, SystemClock};
use anyhow::{Context, Result};
use hyper::Method;
use serde_json::Value;

#[derive(Debug, clap::Args)]
pub struct MeshOptions {
    #[command(flatten)]
    target: Target,
    /// The host's name or id (1h5); unless told, each in turn.
    host: Option<String>,
    /// Prints what the API has.
    #[arg(long)]
    json: bool,
}

pub async fn run(options: MeshOptions) -> Result<()> {
    let hosts = rows(&options.target, "hosts").await?;
    let asked = |host: &&Value| match &options.host {
        Some(name) => text(host, "name") == *name || text(host, "id") == *name,
        None => text(host, "state") != "removed",
    };
    let chosen: Vec<&Value> = hosts.iter().filter(asked).collect();
    if let (Some(name), true) = (&options.host, chosen.is_empty()) {
        anyhow::bail!("there is no host {name}; `stampede hosts` lists them");
    }
    let (mut reports, mut failed) = (Vec::new(), Vec::new());
    for host in &chosen {
        let path = format!("/v1/hosts/{}/mesh", text(host, "id"));
        match options.target.ask(Method::GET, &path, None).await {
            Ok(report) => reports.push(report),
            // One that is away keeps nothing of the others from being seen.
            Err(error) if chosen.len() > 1 => failed.push(format!("{}: {error:#}", text(host, "name"))),
            Err(error) => return Err(error).context(text(host, "name")),
        }
    }
    if options.json {
        println!("{}", Value::Array(reports));
    } else {
        reports.iter().for_each(show);
    }
    failed.iter().for_each(|why| eprintln!("stampede: {why}"));
    Ok(())
}

fn show(report: &Value) {
    let outside = match report.get("public").and_then(Value::as_str) {
        Some(public) => format!(" (site {}; others find it at {public})", text(report, "site")),
        None => String::new(),
    };
    println!(
        "{} at {}{outside}, encryption {}, overlay of {} bytes",
        text(report, "host"),
        text(report, "address"),
        text(report, "encryption"),
        text(report, "mtu")
    );
    let peers = report.get("peers").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let lines: Vec<Vec<String>> = peers.iter().map(line).collect();
    if !lines.is_empty() {
        table::print(&["  PEER", "ADDRESS", "STATE", "UP", "KEYS", "IN", "OUT", "DROPPED"], &lines);
    }
    for problem in report.get("problems").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        println!("  ! {problem}");
    }
    let dropped = report.get("dropped").and_then(Value::as_object).into_iter().flatten();
    let dropped: Vec<String> = dropped.map(|(name, count)| format!("{name} {count}")).collect();
    if !dropped.is_empty() {
        println!("  dropped by the kernel: {}", dropped.join(", "));
    }
    println!();
}

fn line(peer: &Value) -> Vec<String> {
    let count = |field: &str| peer.get(field).and_then(Value::as_u64).unwrap_or(0);
    let state = match peer.get("reason").and_then(Value::as_str) {
        Some(reason) => format!("{}: {reason}", text(peer, "state")),
        None => text(peer, "state"),
    };
    let encrypted = count("associations") > 0;
    let amount = |field: &str| if encrypted { bytes(count(field)) } else { "-".to_owned() };
    vec![
        format!("  {}", text(peer, "host")),
        text(peer, "address"),
        state,
        ago(peer, "upSince"),
        ago(peer, "rotated"),
        amount("bytesIn"),
        amount("bytesOut"),
        if encrypted { (count("tooOld") + count("replayed") + count("forged")).to_string() } else { "-".to_owned() },
    ]
}

/// How long ago, in its largest unit that is not 0.
fn ago(peer: &Value, field: &str) -> String {
    let Some(then) = peer.get(field).and_then(Value::as_i64) else { return "-".to_owned() };
    let seconds = (SystemClock.now().0.saturating_sub(then)).max(0) / 1000;
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds / 60),
        7_200..=172_799 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// In units of 1,024.
fn bytes(count: u64) -> String {
    let (mut value, mut unit) = (count as f64, "B");
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn amounts_as_people_read_them() {
        for (count, said) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3_670_016, "3.5 MiB"), (1 << 50, "1024.0 TiB")]
        {
            assert_eq!(bytes(count), said);
        }
        assert_eq!(ago(&json!({ "at": null }), "at"), "-");
        assert!(ago(&json!({ "at": 0 }), "at").ends_with(" d"));
    }

    #[test]
    fn a_peer_that_nothing_is_sent_to_says_why() {
        let peer =
            json!({ "host": "h2", "address": "198.18.0.2", "state": "refused", "reason": "the seal is not good" });
        assert_eq!(line(&peer), ["  h2", "198.18.0.2", "refused: the seal is not good", "-", "-", "-", "-", "-"]);
    }
}
