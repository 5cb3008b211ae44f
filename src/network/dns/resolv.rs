//! Who answers for names that are not ours: the name servers that this host itself asks, read again when they change.

use crate::network::subnet::SubnetSpec;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// As many as the resolver of a host takes (resolv.conf(5)).
const MOST: usize = 3;
const PORT: u16 = 53;
/// How often it is looked whether the files changed, while questions come.
const LOOK: Duration = Duration::from_secs(1);
/// Longer than any that is real.
const LONGEST: u64 = 64 << 10;

/// Where a host says whom it asks.
#[derive(Clone, Debug)]
pub struct Files {
    pub own: PathBuf,
    /// Where systemd-resolved says whom it asks itself; looked at where the host asks systemd-resolved.
    pub resolved: PathBuf,
}

impl Default for Files {
    fn default() -> Self {
        Self { own: "/etc/resolv.conf".into(), resolved: "/run/systemd/resolve/resolv.conf".into() }
    }
}

/// The name servers, as the files have them now.
#[derive(Debug)]
pub struct NameServers {
    files: Files,
    port: u16,
    subnet: SubnetSpec,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    looked: Option<Instant>,
    stamps: [Option<Stamp>; 2],
    servers: Vec<SocketAddr>,
}

/// What tells one state of a file from the next.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() })
}

fn read(path: &Path) -> String {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.len() <= LONGEST => std::fs::read_to_string(path).unwrap_or_default(),
        _ => String::new(),
    }
}

/// What stands behind `nameserver`, in order. Those with a zone (`fe80::1%eth0`) are left out.
fn listed(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()?.parse().ok()
    };
    text.lines().filter_map(server).collect()
}

/// Whether it is systemd-resolved that answers there.
fn is_resolved(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(address) if address.octets()[..3] == [127, 0, 0] && matches!(address.octets()[3], 53 | 54))
}

/// Whom to ask. Never ourselves, wherever that is written: a question would come back for ever.
fn servers(own: &str, resolved: &str, subnet: &SubnetSpec) -> Vec<IpAddr> {
    let mut found = listed(own);
    if found.iter().any(|address| is_resolved(*address)) {
        let behind = listed(resolved);
        if !behind.is_empty() {
            found = behind;
        }
    }
    let ourselves =
        |address: &IpAddr| matches!(address.to_canonical(), IpAddr::V4(address) if subnet.contains(address));
    found.retain(|address| !ourselves(address) && !address.is_unspecified());
    found.truncate(MOST);
    found
}

/// Whom a host with these files asks now.
pub fn of_host(files: &Files, subnet: &SubnetSpec) -> Vec<IpAddr> {
    servers(&read(&files.own), &read(&files.resolved), subnet)
}

impl NameServers {
    pub fn new(files: Files, subnet: SubnetSpec) -> Self {
        Self { files, port: PORT, subnet, state: Mutex::default() }
    }

    #[cfg(test)]
    pub fn with_port(self, port: u16) -> Self {
        Self { port, ..self }
    }

    /// Whom to ask now, the first one first.
    pub fn now(&self) -> Vec<SocketAddr> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.looked.is_some_and(|looked| looked.elapsed() < LOOK) {
            return state.servers.clone();
        }
        let first = state.looked.replace(Instant::now()).is_none();
        let stamps = [stamp(&self.files.own), stamp(&self.files.resolved)];
        if first || stamps != state.stamps {
            let (own, resolved) = (read(&self.files.own), read(&self.files.resolved));
            let servers: Vec<SocketAddr> =
                servers(&own, &resolved, &self.subnet).into_iter().map(|server| (server, self.port).into()).collect();
            if first || servers != state.servers {
                tracing::info!(?servers, "names that are not ours are asked for there");
            }
            state.stamps = stamps;
            state.servers = servers;
        }
        state.servers.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(own: &str, resolved: &str) -> Vec<String> {
        servers(own, resolved, &SubnetSpec::default()).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_hosts_own_name_servers_are_asked() {
        let own =
            "# a comment\nsearch lan\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 # more\nnameserver fe80::1%eth0\n";
        assert_eq!(asked(own, "nameserver 192.0.2.9"), ["192.0.2.1", "2001:db8::1"]);
        assert_eq!(
            asked("nameserver 127.0.0.1", "nameserver 192.0.2.9"),
            ["127.0.0.1"],
            "a resolver of the host's own"
        );
        assert_eq!(
            asked("nameserver 1.1.1.1\nnameserver 1.1.1.2\nnameserver 1.1.1.3\nnameserver 1.1.1.4", "").len(),
            3
        );
        assert_eq!(asked("", ""), [""; 0]);
    }

    #[test]
    fn behind_systemd_resolved_are_those_that_it_asks() {
        assert_eq!(asked("nameserver 127.0.0.53", "nameserver 192.0.2.9"), ["192.0.2.9"]);
        assert_eq!(asked("nameserver 127.0.0.53", ""), ["127.0.0.53"], "it knows better than nobody");
    }

    #[test]
    fn nobody_is_sent_round_in_a_circle() {
        assert_eq!(asked("nameserver 10.42.0.1\nnameserver 192.0.2.1", ""), ["192.0.2.1"]);
        assert_eq!(asked("nameserver 127.0.0.53", "nameserver 10.42.0.1"), [""; 0]);
        assert_eq!(asked("nameserver ::ffff:10.42.0.1\nnameserver 0.0.0.0", ""), [""; 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_changed_is_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let files = Files { own: directory.path().join("own"), resolved: directory.path().join("resolved") };
        let servers = NameServers::new(files.clone(), SubnetSpec::default()).with_port(5353);
        assert_eq!(servers.now(), []);
        std::fs::write(&files.own, "nameserver 127.0.0.53\n").unwrap();
        std::fs::write(&files.resolved, "nameserver 192.0.2.9\n").unwrap();
        tokio::time::advance(LOOK * 2).await;
        assert_eq!(servers.now(), ["192.0.2.9:5353".parse().unwrap()]);
        std::fs::write(&files.resolved, "nameserver 192.0.2.10\nnameserver 192.0.2.11\n").unwrap();
        tokio::time::advance(LOOK * 2).await;
        assert_eq!(servers.now().len(), 2);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(nameserver|search|\\PC){0,3}[ \\t\\n.:0-9a-f%]{0,60}") {
            prop_assert!(asked(&text, &text).len() <= MOST);
        }
    }
}
