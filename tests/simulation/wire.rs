//! The wire between an agent and etcd's members, byte by byte: slow, cut, reset.
//!
//! As over TCP, what is sent arrives in order or not at all, and over a wire that is cut nothing arrives, which nobody is
//! told: it waits until the wire is whole again, or until somebody gives the connection up.

use crate::dice::Dice;
use futures::FutureExt;
use stampede::store::etcd::{Connection, Dial};
use stampede::store::simulated::{Link, Way};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};

/// As much is under way at the most.
const UNDER_WAY: usize = 64 << 10;
/// A member that is not there says so after this.
const REFUSED: Duration = Duration::from_millis(1);

/// etcd's members as they can be reached, each or not. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Members {
    dice: Dice,
    /// By address; grows where the member's connections are reset, is odd while it is away.
    resets: Arc<Mutex<BTreeMap<String, watch::Sender<u64>>>>,
    /// A message takes so long at the most.
    latency: Duration,
}

impl Members {
    /// `count` of them.
    pub fn new(dice: &Dice, count: usize, latency: Duration) -> Self {
        let members = (1..=count).map(|number| (format!("etcd{number}"), watch::Sender::new(0)));
        Self { dice: dice.clone(), resets: Arc::new(Mutex::new(members.collect())), latency }
    }

    /// As a client's configuration has them.
    pub fn endpoints(&self) -> Vec<String> {
        self.resets.lock().unwrap().keys().map(|name| format!("http://{name}:2379")).collect()
    }

    /// One of them is away for `span`, with all its connections; or they are reset alone, where it is zero.
    pub fn lose_one(&self, span: Duration) {
        let members = self.resets.lock().unwrap();
        let names: Vec<&String> = members.keys().collect();
        let Some(member) = self.dice.one(&names).and_then(|name| members.get(*name)).cloned() else { return };
        if span.is_zero() {
            member.send_modify(|count| *count += 2);
            return;
        }
        if is_away(*member.borrow()) {
            return;
        }
        member.send_modify(|count| *count += 1);
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            member.send_modify(|count| *count += 1);
        });
    }

    /// How a client that is connected by `link` reaches them; what it opens is answered by who has the other end of `doors`.
    pub fn dial(&self, link: &Link, doors: mpsc::UnboundedSender<DuplexStream>) -> Dial {
        let (this, link) = (self.clone(), link.clone());
        Dial::new(move |uri| {
            let (this, link, doors) = (this.clone(), link.clone(), doors.clone());
            async move { this.connect(uri.host().unwrap_or_default(), link, &doors).await }.boxed()
        })
    }

    async fn connect(
        &self,
        member: &str,
        link: Link,
        doors: &mpsc::UnboundedSender<DuplexStream>,
    ) -> io::Result<Box<dyn Connection>> {
        let member = self.resets.lock().unwrap().get(member).cloned();
        let resets = member.map(|member| member.subscribe()).ok_or(io::ErrorKind::HostUnreachable)?;
        link.until(|way| way == Way::Open).await;
        tokio::time::sleep(self.dice.millis(0, 2 * millis(self.latency))).await;
        if is_away(*resets.borrow()) {
            tokio::time::sleep(REFUSED).await;
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (near, agents) = tokio::io::duplex(UNDER_WAY);
        let (far, etcds) = tokio::io::duplex(UNDER_WAY);
        doors.send(etcds).map_err(|_| io::ErrorKind::ConnectionRefused)?;
        let (from_agent, to_agent) = tokio::io::split(agents);
        let (from_etcd, to_etcd) = tokio::io::split(far);
        let (this, mut reset) = (self.clone(), resets);
        tokio::spawn(async move {
            let began = *reset.borrow();
            let both = async {
                tokio::join!(this.carry(from_agent, to_etcd, &link), this.carry(from_etcd, to_agent, &link));
            };
            tokio::select! {
                biased;
                // The sender lives as long as the members do.
                _ = reset.wait_for(|now| *now != began) => {}
                () = dead(&link) => {}
                () = both => {}
            }
        });
        Ok(Box::new(near))
    }

    /// Brings what comes in to the other end, in its time.
    async fn carry(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, link: &Link) {
        let mut bytes = vec![0; 16 << 10];
        loop {
            let count = match from.read(&mut bytes).await {
                Ok(count) if count > 0 => count,
                _ => break,
            };
            tokio::time::sleep(self.dice.millis(0, millis(self.latency))).await;
            link.until(|way| way == Way::Open).await;
            if to.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
        // That one end was closed is told to the other.
        let _ = to.shutdown().await;
    }
}

/// A process that is no more: its connections are closed by its kernel.
async fn dead(link: &Link) {
    link.until(|way| way == Way::Dead).await;
}

fn is_away(resets: u64) -> bool {
    resets % 2 == 1
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap()
}
