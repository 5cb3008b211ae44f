//! The question to a host that the cluster sees as gone: is it, and what of its exclusive work has ended for certain?
//!
//! A lease can vanish while its host is well: revoked by hand, or lost with etcd's data. And a host can be cut off from etcd,
//! yet not from its neighbours. Who is about to take over what it runs asks its agent first. No answer is an answer too:
//! then the fence's time is waited for, after which nothing exclusive runs there any more ([`super::fence`]).

use super::Liveness;
use super::fence::Fence;
use super::record::Host;
use crate::resource::assignment::Token;
use serde::{Deserialize, Serialize};
use std::fmt::Debug;
use std::time::Duration;

/// What an agent says of its own host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase")]
pub enum Answer {
    /// "I hold my lease": leave what it runs alone. Worth no longer than the fence's time; then ask again.
    HoldsLease,
    /// "Fenced": what ran under these claims has ended, and is not started again before the claim is read anew under a new
    /// lease. Of claims that are not named nothing is said.
    Fenced { tokens: Vec<Token> },
    /// Nothing, in time, or nothing that could be believed.
    Silent,
}

/// Asks other hosts' agents. The answer must come from that very host: its identity is in `host`, and who cannot prove it is
/// silent.
#[async_trait::async_trait]
pub trait Peers: Debug + Send + Sync {
    /// `address` is where its agent was last heard of (`198.18.0.1:9080`). Takes no longer than a second or two.
    async fn ask(&self, host: &Host, address: &str) -> Answer;
}

/// Nobody can be asked: every takeover waits out the fence's time.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPeers;

#[async_trait::async_trait]
impl Peers for NoPeers {
    async fn ask(&self, _host: &Host, _address: &str) -> Answer {
        Answer::Silent
    }
}

/// What this host's agent answers at `now` (boottime). `fence` is the deadline as last published; `ended` the claims of
/// exclusive work whose supervisors are down and have reported an end.
pub fn answer(liveness: Liveness, fence: Option<Fence>, now: Duration, ended: Vec<Token>) -> Answer {
    match (liveness, fence) {
        (Liveness::Alive { .. }, Some(fence)) if fence.holds(now) => Answer::HoldsLease,
        // It joins, and nothing exclusive was started yet; but an earlier agent's supervisors may still be at work.
        _ if fence.is_some_and(|fence| fence.holds(now)) => Answer::Silent,
        _ if ended.is_empty() => Answer::Silent,
        _ => Answer::Fenced { tokens: ended },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LeaseId;

    const NOW: Duration = Duration::from_secs(100);
    const TOKEN: Token = Token { generation: 1, revision: 7 };

    fn fence(seconds: u64) -> Option<Fence> {
        Some(Fence { life: 3, deadline: Duration::from_secs(seconds) })
    }

    #[test]
    fn what_is_said() {
        let alive = Liveness::Alive { lease: LeaseId(5), deadline: Duration::from_secs(110) };
        let lost = Liveness::Lost { since: NOW };
        assert_eq!(answer(alive, fence(101), NOW, vec![]), Answer::HoldsLease);
        // Its lease may live, but it has not heard so for too long: all has ended.
        assert_eq!(answer(alive, fence(99), NOW, vec![TOKEN]), Answer::Fenced { tokens: vec![TOKEN] });
        assert_eq!(answer(alive, fence(99), NOW, vec![]), Answer::Silent);
        assert_eq!(answer(lost, fence(99), NOW, vec![TOKEN]), Answer::Fenced { tokens: vec![TOKEN] });
        // Not yet, by the fence: something may run.
        assert_eq!(answer(lost, fence(101), NOW, vec![TOKEN]), Answer::Silent);
        assert_eq!(answer(Liveness::Joining, None, NOW, vec![]), Answer::Silent);
    }

    #[test]
    fn as_it_is_sent() {
        let text = r#"{"answer":"fenced","tokens":[{"generation":1,"revision":7}]}"#;
        assert_eq!(serde_json::to_string(&Answer::Fenced { tokens: vec![TOKEN] }).unwrap(), text);
        assert_eq!(serde_json::from_str::<Answer>(r#"{"answer":"holdsLease"}"#).unwrap(), Answer::HoldsLease);
    }
}
