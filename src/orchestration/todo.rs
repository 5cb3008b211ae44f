//! What waits for a time, or was left behind: `todo/<shard>/…`, 64 shards.
//!
//! Each shard is followed by two live hosts, chosen by rendezvous hashing over `alive/`: all agents come to the same
//! choice without a word, and when a host goes only its own shards move. The first acts when a thing is due, the second
//! [`SECOND_WAITS`] later, in case the first is alive in etcd's eyes only. Both acting does no harm: what is done is one
//! transaction that compares revisions. What waits for room is tried when there may be some, not by the clock.

use super::Orchestrator;
use super::record::Todo;
use crate::environment::{Environment, Timestamp};
use crate::membership::record::Alive;
use crate::placement::RoomWatch;
use crate::store::mirror::Mirror;
use crate::store::{Store, key};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How much later than the first the second in line acts.
pub const SECOND_WAITS: Duration = Duration::from_secs(5);
/// A thing that was tried and is still there is tried again after this, and twice as long each time up to a minute.
const AGAIN: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// What waits for room is tried this soon after there may be some, and this often although nobody said so.
const ROOM: Duration = Duration::from_millis(200);
const NO_ROOM: Duration = Duration::from_secs(600);

/// The place of `host` in the line for `shard` among `hosts`; 0 is the first. `None` where it is none of them.
pub fn rank<'a>(host: &str, shard: u32, hosts: impl Iterator<Item = &'a str>) -> Option<usize> {
    let own = (weight(host, shard), host);
    let (mut there, mut before) = (false, 0);
    for name in hosts {
        there |= name == host;
        before += usize::from((weight(name, shard), name) > own);
    }
    there.then_some(before)
}

/// FNV-1a with a final mix: the same on every agent and in every version.
fn weight(host: &str, shard: u32) -> u64 {
    let bytes = host.bytes().chain(shard.to_le_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

/// Follows the shards that are this host's; ends when dropped.
#[derive(Debug)]
pub struct Shards {
    task: JoinHandle<()>,
}

impl Drop for Shards {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shards {
    pub fn start(
        orchestrator: Orchestrator,
        store: Arc<dyn Store>,
        environment: Environment,
        host: String,
        alive: Mirror<Alive>,
    ) -> Self {
        let keeper = Keeper { orchestrator, store, environment, host, followed: HashMap::new() };
        Self { task: tokio::spawn(keeper.run(alive)) }
    }
}

struct Keeper {
    orchestrator: Orchestrator,
    store: Arc<dyn Store>,
    environment: Environment,
    host: String,
    followed: HashMap<u32, (usize, AbortOnDrop)>,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Keeper {
    async fn run(mut self, alive: Mirror<Alive>) {
        let mut changes = alive.changes();
        loop {
            let hosts: Vec<String> = alive.view().keys().cloned().collect();
            self.divide(&hosts);
            changes.next().await;
        }
    }

    fn divide(&mut self, hosts: &[String]) {
        for shard in 0..key::SHARDS {
            let rank = rank(&self.host, shard, hosts.iter().map(String::as_str)).filter(|rank| *rank < 2);
            match (rank, self.followed.get(&shard)) {
                (Some(rank), Some((known, _))) if rank == *known => {}
                (Some(rank), _) => {
                    let task = tokio::spawn(self.shard(shard, rank).run());
                    self.followed.insert(shard, (rank, AbortOnDrop(task)));
                }
                (None, _) => {
                    self.followed.remove(&shard);
                }
            }
        }
    }

    fn shard(&self, shard: u32, rank: usize) -> Shard {
        Shard {
            orchestrator: self.orchestrator.clone(),
            environment: self.environment.clone(),
            mirror: Mirror::start(self.store.clone(), &self.environment, key::todo_shard(shard)),
            late: SECOND_WAITS * u32::try_from(rank).unwrap_or(0),
            tried: HashMap::new(),
            room: None,
        }
    }
}

struct Shard {
    orchestrator: Orchestrator,
    environment: Environment,
    mirror: Mirror<Todo>,
    late: Duration,
    tried: HashMap<String, Tried>,
    /// While something waits for it.
    room: Option<RoomWatch>,
}

/// What was tried already.
struct Tried {
    /// Not before when again, and the wait after that.
    again: Timestamp,
    pause: Duration,
    /// Whether it waited for room. Where it no longer does, it is another thing that waits.
    room: bool,
}

impl Shard {
    async fn run(mut self) {
        let mut changes = self.mirror.changes();
        loop {
            let now = self.environment.clock.now();
            let (due, next) = self.due(now);
            self.follow_room();
            for key in due {
                self.attend(&key, now).await;
            }
            // A whole minute at the most, so that a stepped clock is noticed.
            let pause =
                next.map_or(LONGEST, |time| Duration::from_millis((time.0 - now.0).unsigned_abs()).min(LONGEST));
            tokio::select! {
                _ = changes.next() => {}
                () = tokio::time::sleep(pause) => {}
                () = more_room(&mut self.room) => self.try_waiting(),
            }
        }
    }

    fn follow_room(&mut self) {
        let waiting = self.mirror.view().values().any(|item| item.value.room);
        if !waiting {
            self.room = None;
        } else if self.room.is_none() {
            self.room = Some(self.orchestrator.room().watch());
        }
    }

    /// What waits for room is due soon, the second in line after the first.
    fn try_waiting(&mut self) {
        let soon = self.environment.clock.now().after(self.environment.jitter(ROOM) + self.late);
        for (key, item) in self.mirror.view().iter().filter(|(_, item)| item.value.room) {
            let first = Tried { again: item.value.not_before, pause: AGAIN, room: true };
            let tried = self.tried.entry(key.clone()).or_insert(first);
            tried.again = soon.min(tried.again);
        }
    }

    /// What is due, and when the next will be.
    fn due(&mut self, now: Timestamp) -> (Vec<String>, Option<Timestamp>) {
        let view = self.mirror.view();
        self.tried.retain(|key, tried| view.get(key).is_some_and(|item| item.value.room == tried.room));
        let (mut due, mut next) = (Vec::new(), None);
        for (key, item) in view.iter() {
            let wanted = item.value.not_before.after(self.late);
            let time = match self.tried.get(key) {
                Some(tried) if item.value.room => tried.again,
                Some(tried) => wanted.max(tried.again),
                None => wanted,
            };
            if time <= now {
                due.push(key.clone());
                next = Some(now.after(AGAIN));
            } else {
                next = Some(next.map_or(time, |next: Timestamp| next.min(time)));
            }
        }
        (due, next)
    }

    async fn attend(&mut self, key: &str, now: Timestamp) {
        let room = self.mirror.get(key).is_some_and(|item| item.value.room);
        let pause = self.tried.get(key).map_or(AGAIN, |tried| (tried.pause * 2).min(LONGEST));
        // A host being drained is looked at again as long as something is on its way.
        let pause = if key.starts_with("host/") { AGAIN } else { pause };
        let pause = if room { NO_ROOM } else { pause };
        let again = now.after(self.environment.jitter(pause));
        self.tried.insert(key.to_owned(), Tried { again, pause, room });
        let Some((base, Ok(id))) = key.split_once('/').map(|(base, id)| (base, id.parse())) else {
            tracing::warn!(key, "nobody knows what is to be done for it");
            return;
        };
        if let Err(error) = self.orchestrator.drive(base, id).await {
            tracing::debug!(kind = base, id, %error, "tried again later");
        }
    }
}

async fn more_room(room: &mut Option<RoomWatch>) {
    match room {
        Some(room) => room.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shards_of_a_lost_host_move() {
        let all = ["h1", "h2", "h3", "h4"];
        let first = |hosts: &[&str], shard| {
            hosts.iter().find(|host| rank(host, shard, hosts.iter().copied()) == Some(0)).map(|host| (*host).to_owned())
        };
        let mut moved = 0;
        for shard in 0..key::SHARDS {
            let before = first(&all, shard);
            let after = first(&all[..3], shard);
            if before.as_deref() == Some("h4") {
                moved += 1;
            } else {
                assert_eq!(before, after, "shard {shard} moved without need");
            }
        }
        assert!((4..=32).contains(&moved), "{moved} of 64 shards were h4's");
    }

    #[test]
    fn one_that_is_not_there_has_no_place() {
        assert_eq!(rank("h9", 1, ["h1"].into_iter()), None);
    }
}
