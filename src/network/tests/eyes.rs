//! Eyes on the switch: what the wire shows.

use super::support::eventually;
use super::wire::{ESP_PORTS, UDP, World};
use crate::network::mesh::PORT;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const ESP: u8 = 50;

/// What was seen on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Esp,
    /// To one of [`ESP_PORTS`].
    EspInUdp,
    /// The overlay's port, for all to read.
    Plain,
    Other,
}

/// How many of each kind from each address.
type Counts = BTreeMap<(Kind, [u8; 4]), usize>;

/// Eyes on the switch.
pub struct Wire {
    seen: Arc<Mutex<Counts>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Wire {
    pub fn watch(world: &World) -> Self {
        use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};
        // ETH_P_ALL, in network order.
        let all = Protocol::from_raw(std::num::NonZeroU32::new(u32::from(3_u16.to_be())).unwrap());
        let open = || socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::NONBLOCK, Some(all)).unwrap();
        let mut socket = File::from(world.switch.run(open));
        let seen: Arc<Mutex<Counts>> = Arc::default();
        let notes = seen.clone();
        let task = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                while let Ok(length) = socket.read(&mut buffer) {
                    if let Some(found) = kind(&buffer[..length]) {
                        *notes.lock().unwrap().entry(found).or_default() += 1;
                    }
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self { seen, task }
    }

    /// So many of each kind.
    pub async fn seen(&self) -> BTreeMap<Kind, usize> {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let mut kinds = BTreeMap::new();
        for ((kind, _), count) in self.seen.lock().unwrap().iter() {
            *kinds.entry(*kind).or_default() += count;
        }
        kinds
    }

    /// Waits until so many of a kind were seen: they are counted a little later.
    pub async fn shows(&self, kind: Kind, count: usize) {
        eventually("it is seen on the wire", async || self.seen().await.get(&kind).is_some_and(|seen| *seen >= count))
            .await;
    }

    /// Of those for all to read so many that are not from this address.
    pub async fn plain_but_from(&self, address: &str) -> usize {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let but = address.parse::<Ipv4Addr>().unwrap().octets();
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|((kind, from), _)| *kind == Kind::Plain && *from != but).map(|(_, count)| count).sum()
    }
}

fn kind(frame: &[u8]) -> Option<(Kind, [u8; 4])> {
    let packet = frame.get(14..)?;
    // Protocol, the last four bytes of where it is from, the port that it goes to.
    let (protocol, from, port) = match packet.first()? >> 4 {
        4 => (*packet.get(9)?, packet.get(12..16)?, packet.get(22..24)?),
        6 => (*packet.get(6)?, packet.get(20..24)?, packet.get(42..44)?),
        _ => return None,
    };
    let kind = match protocol {
        ESP => Kind::Esp,
        UDP if ESP_PORTS.iter().any(|esp| port == esp.to_be_bytes()) => Kind::EspInUdp,
        UDP if port == PORT.to_be_bytes() => Kind::Plain,
        _ => Kind::Other,
    };
    Some((kind, from.try_into().ok()?))
}
