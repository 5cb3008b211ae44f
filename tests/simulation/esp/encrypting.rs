//! What an agent asks of its host's kernel, in the model.

use super::Esp;
use crate::esp::kernel::Kernel;
use futures::StreamExt;
use futures::stream;
use rustix::io::Errno;
use stampede::network::ipsec::encryptor::{Encryptor, Events};
use stampede::network::kernel::Error;
use stampede_netlink::xfrm::{
    AeadKey, Association, AssociationChange, AssociationTable, Policy, PolicyChange, PolicySpec, XfrmEvent,
    plan_policies,
};
use stampede_netlink::{Outcome, RequestError};
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use tokio::sync::broadcast::error::RecvError;

/// In so many of a hundred cases a call takes its time on a host that is well.
const SELDOM: usize = 3;
/// And then up to so many milliseconds.
const AWHILE: u64 = 20;

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Encrypting {
    esp: Esp,
    host: String,
}

impl Encrypting {
    pub fn new(esp: &Esp, host: &str) -> Self {
        Self { esp: esp.clone(), host: host.to_owned() }
    }

    /// This host's address.
    pub fn address(&self) -> IpAddr {
        self.look(|kernel| kernel.address)
    }

    /// Up to so many milliseconds later, by chance.
    pub async fn later(&self, least: u64, most: u64) {
        tokio::time::sleep(self.esp.dice.millis(least, most)).await;
    }

    fn look<T>(&self, look: impl FnOnce(&mut Kernel) -> T) -> T {
        look(self.esp.inner().of(&self.host))
    }

    async fn take_time(&self) {
        let dice = &self.esp.dice;
        let most = match self.look(|kernel| kernel.takes) {
            0 if dice.percent(SELDOM) => AWHILE,
            0 => return,
            most => most,
        };
        tokio::time::sleep(dice.millis(1, most)).await;
    }

    /// Whether the next change fails, and whether it is done all the same: the answer is lost.
    fn fails(&self) -> (bool, bool) {
        let (percent, dice) = (self.look(|kernel| kernel.refuses), &self.esp.dice);
        let fails = percent > 0 && dice.percent(percent);
        (fails, !fails || dice.percent(30))
    }

    fn change(&self, change: &AssociationChange) -> Result<(), Error> {
        let (fails, done) = self.fails();
        let mut inner = self.esp.inner();
        if done {
            self.esp.chronicle.note(format_args!("{}: {change}", self.host));
            match change {
                AssociationChange::Add(spec) if inner.of(&self.host).add(spec) => {
                    self.esp.installed(&mut inner, &self.host, spec);
                }
                AssociationChange::Add(_) => return Err(refused(change, Errno::EXIST)),
                AssociationChange::Remove(id) => drop(inner.of(&self.host).remove(id)),
                AssociationChange::Update(_) => return Err(refused(change, Errno::OPNOTSUPP)),
            }
        }
        if fails { Err(refused(change, Errno::NOBUFS)) } else { Ok(()) }
    }

    fn change_policy(&self, change: &PolicyChange) -> Result<(), Error> {
        let (fails, done) = self.fails();
        if done {
            self.look(|kernel| match change {
                PolicyChange::Add(spec) | PolicyChange::Replace(spec) => kernel.put_policy(spec),
                PolicyChange::Remove(id) => kernel.remove_policy(id),
            });
        }
        if fails { Err(refused(change, Errno::NOBUFS)) } else { Ok(()) }
    }
}

fn refused(action: &impl Display, errno: Errno) -> Error {
    Error::Request { action: action.to_string(), source: RequestError::Refused { errno, message: None } }
}

fn record<C>(outcome: &mut Outcome<C>, change: C, result: Result<(), Error>) {
    match result {
        Ok(()) => outcome.made.push(change),
        Err(error) => outcome.failed.push((change, error)),
    }
}

#[async_trait::async_trait]
impl Encryptor for Encrypting {
    fn has_ipv6(&self) -> bool {
        true
    }

    async fn policies(&self) -> Result<Vec<Policy>, Error> {
        self.take_time().await;
        Ok(self.look(|kernel| kernel.policies.clone()))
    }

    async fn reconcile_policies(&self, desired: &[PolicySpec]) -> Result<Outcome<PolicyChange>, Error> {
        let plan = plan_policies(&self.policies().await?, desired);
        let mut outcome = Outcome { made: Vec::new(), failed: Vec::new() };
        for change in plan {
            self.take_time().await;
            let result = self.change_policy(&change);
            record(&mut outcome, change, result);
        }
        // From now on the agent lets packets be sent.
        let closed = outcome.failed.is_empty();
        self.look(|kernel| kernel.closed |= closed);
        Ok(outcome)
    }

    async fn associations(&self) -> Result<Vec<Association>, Error> {
        self.take_time().await;
        if self.fails().0 {
            return Err(Error::Request { action: "list associations".to_owned(), source: RequestError::Interrupted });
        }
        let found = self.look(|kernel| kernel.associations.clone());
        self.take_time().await;
        Ok(found)
    }

    async fn change_associations(&self, changes: Vec<AssociationChange>) -> Result<Outcome<AssociationChange>, Error> {
        let mut outcome = Outcome { made: Vec::new(), failed: Vec::new() };
        for change in changes {
            self.take_time().await;
            let result = self.change(&change);
            record(&mut outcome, change, result);
        }
        Ok(outcome)
    }

    async fn make_room(&self, buckets: u32, _: u32, _: &AeadKey) -> Result<AssociationTable, Error> {
        self.take_time().await;
        Ok(AssociationTable { associations: 0, buckets, most_buckets: buckets })
    }

    fn events(&self) -> Result<Events, Error> {
        let events = self.look(|kernel| kernel.listen());
        let next = stream::unfold(events, |mut events| async move {
            let event = match events.recv().await {
                Ok(event) => event,
                Err(RecvError::Lagged(_)) => XfrmEvent::Overrun,
                Err(RecvError::Closed) => return None,
            };
            Some((Ok(event), events))
        });
        Ok(next.boxed())
    }

    fn probe(&self, _: IpAddr, peer: IpAddr) -> io::Result<()> {
        let to = {
            let inner = self.esp.inner();
            inner.kernels.iter().find(|(_, kernel)| kernel.address == peer).map(|(host, _)| host.clone())
        };
        if let Some(to) = to {
            self.esp.send(&self.host, &to);
        }
        Ok(())
    }
}
