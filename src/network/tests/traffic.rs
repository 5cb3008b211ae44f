//! Traffic that counts what is lost.

use super::support::eventually;
use super::wire::Member;
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Datagrams from the first host to each other one and back, every few milliseconds, each with its number.
pub struct Traffic {
    sent: Arc<AtomicU64>,
    stop: tokio::sync::watch::Sender<bool>,
    flows: Vec<(String, tokio::task::JoinHandle<u64>, tokio::task::JoinHandle<BTreeSet<u64>>)>,
}

impl Traffic {
    pub fn between(hosts: &[Member]) -> Self {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let (sent, mut flows) = (Arc::<AtomicU64>::default(), Vec::new());
        for other in &hosts[1..] {
            for (from, to) in [(&hosts[0], other), (other, &hosts[0])] {
                let port = 7100 + u16::try_from(flows.len()).unwrap();
                let (client, server) = (from.listen(0), to.listen(port));
                // What the emulated processor has no time for is to wait, not to count as lost.
                rustix::net::sockopt::set_socket_recv_buffer_size_force(&server, 16 << 20).unwrap();
                let receiving = tokio::spawn(receive(into_tokio(server), stopped.clone()));
                let sending = tokio::spawn(send(into_tokio(client), to.at(port), stopped.clone(), sent.clone()));
                flows.push((format!("{} to {}", from.name, to.name), sending, receiving));
            }
        }
        Self { sent, stop, flows }
    }

    /// Waits until so many more were sent.
    pub async fn goes_on(&self, count: u64) {
        let before = self.sent.load(Ordering::Relaxed);
        eventually("traffic goes on", async || self.sent.load(Ordering::Relaxed) > before + count).await;
    }

    /// Ends it; all that was sent must have come.
    pub async fn all_arrived(self) {
        self.stop.send(true).unwrap();
        for (flow, sending, receiving) in self.flows {
            let (sent, received) = (sending.await.unwrap(), receiving.await.unwrap());
            assert!(sent > 50, "{flow}: {sent}");
            let lost: Vec<_> = (0..sent).filter(|number| !received.contains(number)).collect();
            println!("{flow}: {sent} sent, {} lost", lost.len());
            assert!(lost.is_empty(), "{flow}: {} of {sent}, {:?} first", lost.len(), lost.first());
        }
    }
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
) -> u64 {
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    // No bursts after a pause of the emulated processor.
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut number = 0_u64;
    while !*stopped.borrow() {
        pace.tick().await;
        let mut datagram = [0; 200];
        datagram[..8].copy_from_slice(&number.to_be_bytes());
        // One that cannot be sent is lost like any other.
        let _ = socket.send_to(&datagram, &to).await;
        number += 1;
        all.fetch_add(1, Ordering::Relaxed);
    }
    number
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
