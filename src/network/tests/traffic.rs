//! Traffic that counts what is lost.

use super::support::eventually;
use super::wire::Member;
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// From one host to another.
struct Flow {
    name: String,
    /// How many were sent so far.
    count: Arc<AtomicU64>,
    /// When each was sent.
    sending: JoinHandle<Vec<Instant>>,
    /// Which came.
    receiving: JoinHandle<BTreeSet<u64>>,
}

/// Datagrams from each host to each other one, every few milliseconds, each with its number.
pub struct Traffic {
    stop: tokio::sync::watch::Sender<bool>,
    flows: Vec<Flow>,
}

impl Traffic {
    pub fn between(hosts: &[Member]) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut flows = Vec::new();
        for from in hosts {
            for to in hosts.iter().filter(|to| to.name != from.name) {
                let port = 7100 + u16::try_from(flows.len()).unwrap();
                let (client, server) = (from.listen(0), to.listen(port));
                // What the emulated processor has no time for is to wait, not to count as lost.
                rustix::net::sockopt::set_socket_recv_buffer_size_force(&server, 16 << 20).unwrap();
                let receiving = tokio::spawn(receive(into_tokio(server), stopped.clone()));
                let count = Arc::<AtomicU64>::default();
                let sending = tokio::spawn(send(into_tokio(client), to.at(port), stopped.clone(), count.clone()));
                flows.push(Flow { name: format!("{} to {}", from.name, to.name), count, sending, receiving });
            }
        }
        Self { stop, flows }
    }

    /// Waits until so many more were sent from each to each.
    pub async fn goes_on(&self, more: u64) {
        let sent = || self.flows.iter().map(|flow| flow.count.load(Ordering::Relaxed));
        let before: Vec<_> = sent().collect();
        eventually("traffic goes on", async || sent().zip(&before).all(|(now, before)| now >= before + more)).await;
    }

    /// Ends it; all that was sent must have come. Where not, what each host's IPsec counted as dropped is told.
    pub async fn all_arrived(self, hosts: &[Member]) {
        let gap = self.longest_gap().await;
        let drops = hosts.iter().map(|host| (&host.name, host.drops())).collect::<Vec<_>>();
        assert!(gap.is_zero(), "packets are lost; dropped, as counted by each host's kernel: {drops:?}");
    }

    /// Ends it; how long it took at the most, from the first that was lost to the next that came.
    pub async fn longest_gap(self) -> Duration {
        self.stop.send(true).unwrap();
        let mut longest = Duration::ZERO;
        for Flow { name, sending, receiving, .. } in self.flows {
            let (sent, received) = (sending.await.unwrap(), receiving.await.unwrap());
            assert!(sent.len() > 50, "{name}: {}", sent.len());
            let gap = gap(&sent, &received);
            println!("{name}: {} of {} came, without a longer gap than {gap:?}", received.len(), sent.len());
            longest = longest.max(gap);
        }
        longest
    }
}

fn gap(sent: &[Instant], received: &BTreeSet<u64>) -> Duration {
    let (mut longest, mut since) = (Duration::ZERO, None);
    for (number, at) in sent.iter().enumerate() {
        if received.contains(&(number as u64)) {
            since = None;
        } else {
            let since = *since.get_or_insert(*at);
            let next = sent.get(number + 1).unwrap_or(at);
            longest = longest.max(next.duration_since(since)).max(Duration::from_nanos(1));
        }
    }
    longest
}

fn into_tokio(socket: UdpSocket) -> tokio::net::UdpSocket {
    socket.set_nonblocking(true).unwrap();
    tokio::net::UdpSocket::from_std(socket).unwrap()
}

async fn send(
    socket: tokio::net::UdpSocket,
    to: String,
    stopped: tokio::sync::watch::Receiver<bool>,
    all: Arc<AtomicU64>,
) -> Vec<Instant> {
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    // No bursts after a pause of the emulated processor.
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut sent = Vec::new();
    while !*stopped.borrow() {
        pace.tick().await;
        let mut datagram = [0; 200];
        datagram[..8].copy_from_slice(&(sent.len() as u64).to_be_bytes());
        // One that cannot be sent is lost like any other.
        let _ = socket.send_to(&datagram, &to).await;
        sent.push(Instant::now());
        all.fetch_add(1, Ordering::Relaxed);
    }
    sent
}

async fn receive(socket: tokio::net::UdpSocket, mut stopped: tokio::sync::watch::Receiver<bool>) -> BTreeSet<u64> {
    let (mut buffer, mut received) = ([0; 2000], BTreeSet::new());
    let number = |buffer: &[u8; 2000]| u64::from_be_bytes(buffer[..8].try_into().unwrap());
    loop {
        tokio::select! {
            got = socket.recv_from(&mut buffer) => drop(got.map(|_| received.insert(number(&buffer)))),
            _ = stopped.wait_for(|stopped| *stopped) => break,
        }
    }
    // What is still on its way.
    while tokio::time::timeout(Duration::from_secs(1), socket.recv_from(&mut buffer)).await.is_ok() {
        received.insert(number(&buffer));
    }
    received
}
