//! Which hosts can take an instance, and why the others cannot. Pure.

use super::record::{Allocation, Share};
use crate::membership::HostView;
use crate::membership::record::{Capability, Capacity};
use std::collections::BTreeSet;

/// Processors are promised this many times over: they are shared by weight, memory is not.
pub const CPU_OVERCOMMIT: u64 = 16;

/// What an instance asks of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What it is run by: [`Capability::Container`] or [`Capability::VirtualMachine`].
    pub kind: Capability,
    pub share: Share,
    /// Only this host.
    pub requested_host: Option<u64>,
    /// Only these hosts; empty is any.
    pub valid_hosts: BTreeSet<u64>,
    /// Whether it is on the managed network.
    pub managed: bool,
}

/// What is promised of a host, in sums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Promised {
    pub share: Share,
    pub instances: usize,
}

impl Promised {
    pub fn of(allocation: &Allocation) -> Self {
        allocation.instances.values().fold(Self::default(), |sum, share| sum.and(*share))
    }

    /// With one more instance.
    #[must_use]
    pub fn and(self, share: Share) -> Self {
        Self {
            share: Share {
                memory_mb: self.share.memory_mb.saturating_add(share.memory_mb),
                cpu_millis: self.share.cpu_millis.saturating_add(share.cpu_millis),
            },
            instances: self.instances + 1,
        }
    }
}

/// A host that may be chosen, or not.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub view: HostView,
    pub promised: Promised,
    /// Why it is not to be tried now, from an earlier try.
    pub avoid: Option<String>,
}

/// Whether `share` still fits beside what is promised; else why not.
///
/// # Errors
/// The reason in words, without the host's name.
pub fn room(capacity: Capacity, promised: Share, share: Share) -> Result<(), String> {
    let free = capacity.memory_mb.saturating_sub(promised.memory_mb);
    if share.memory_mb > free {
        return Err(format!("asked for {} MB, {free} MB free", share.memory_mb));
    }
    let free = capacity.cpu_millis.saturating_mul(CPU_OVERCOMMIT).saturating_sub(promised.cpu_millis);
    if share.cpu_millis > free {
        return Err(format!(
            "asked for {} thousandths of a processor, {free} free ({CPU_OVERCOMMIT} times what it has)",
            share.cpu_millis
        ));
    }
    Ok(())
}

/// Splits the hosts into those that can take it and the reasons of the others (`h1: …`), in the order given.
pub fn filter<'a>(candidates: &'a [Candidate], wanted: &Wanted) -> (Vec<&'a Candidate>, Vec<String>) {
    let mut able = Vec::new();
    let mut reasons = Vec::new();
    for candidate in candidates {
        let host = &candidate.view.host;
        if wanted.requested_host.is_some_and(|requested| requested != host.id) {
            // Who asked for one host does not want to hear of all the others.
            continue;
        }
        match refusal(candidate, wanted) {
            None => able.push(candidate),
            Some(reason) => reasons.push(format!("{}: {reason}", host.name)),
        }
    }
    if able.is_empty() && reasons.is_empty() {
        reasons.push(match wanted.requested_host {
            Some(id) => format!("1h{id}: there is no such host"),
            None => "there are no hosts".to_owned(),
        });
    }
    (able, reasons)
}

fn refusal(candidate: &Candidate, wanted: &Wanted) -> Option<String> {
    let host = &candidate.view.host;
    if candidate.view.alive.is_none() || candidate.view.alive_created.is_none() {
        return Some("disconnected".to_owned());
    }
    if host.cordoned {
        return Some("takes no new instances (inactive)".to_owned());
    }
    if !wanted.valid_hosts.is_empty() && !wanted.valid_hosts.contains(&host.id) {
        return Some("not among the valid hosts".to_owned());
    }
    if !host.capabilities.contains(&wanted.kind) {
        return Some(match wanted.kind {
            Capability::Container => "runs no containers (is Docker there?)".to_owned(),
            Capability::VirtualMachine => "runs no virtual machines".to_owned(),
            Capability::Network => "is not on the managed network".to_owned(),
        });
    }
    if wanted.managed && !host.capabilities.contains(&Capability::Network) {
        return Some("is not on the managed network".to_owned());
    }
    room(host.capacity, candidate.promised.share, wanted.share).err().or_else(|| candidate.avoid.clone())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::environment::{Environment, Timestamp};
    use crate::membership::record::{Alive, Host};
    use crate::placement::score;
    use crate::store::Revision;
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    pub fn candidate(id: u64, memory_mb: u64, promised_mb: u64) -> Candidate {
        let host = Host {
            id,
            uuid: format!("u{id}"),
            name: format!("h{id}"),
            identity: "i".into(),
            machine_id: "m".into(),
            created: Timestamp(0),
            description: None,
            cordoned: false,
            labels: BTreeMap::new(),
            capabilities: BTreeSet::from([Capability::Container, Capability::Network]),
            capacity: Capacity { cpu_millis: 2000, memory_mb, disk_mb: 0 },
            versions: BTreeMap::new(),
        };
        let alive =
            Alive { identity: "i".into(), incarnation: 1, boot_id: "b".into(), address: "198.18.0.1:9080".into() };
        let share = Share { memory_mb: promised_mb, cpu_millis: 0 };
        Candidate {
            view: HostView { host: Arc::new(host), alive: Some(Arc::new(alive)), alive_created: Some(Revision(5)) },
            promised: Promised { share, instances: usize::from(promised_mb > 0) },
            avoid: None,
        }
    }

    fn wanted(memory_mb: u64) -> Wanted {
        Wanted {
            kind: Capability::Container,
            share: Share { memory_mb, cpu_millis: 0 },
            requested_host: None,
            valid_hosts: BTreeSet::new(),
            managed: true,
        }
    }

    fn change(candidate: &mut Candidate, change: impl FnOnce(&mut Host)) {
        change(Arc::make_mut(&mut candidate.view.host));
    }

    #[test]
    fn each_host_says_why_not() {
        let mut all: Vec<Candidate> = (1..=8).map(|id| candidate(id, 4096, 2896)).collect();
        all[1].view.alive = None;
        change(&mut all[2], |host| host.cordoned = true);
        change(&mut all[3], |host| host.capabilities = BTreeSet::from([Capability::Network]));
        change(&mut all[4], |host| host.capabilities = BTreeSet::from([Capability::Container]));
        all[5].avoid = Some("no address: all 62 are taken".into());
        all[6].promised.share.memory_mb = 0;
        let mut wanted = wanted(4096);
        wanted.valid_hosts = BTreeSet::from([1, 2, 3, 4, 5, 6, 8]);
        all[5].promised.share.memory_mb = 0;
        let (able, reasons) = filter(&all, &wanted);
        assert!(able.is_empty());
        assert_eq!(
            reasons,
            [
                "h1: asked for 4096 MB, 1200 MB free",
                "h2: disconnected",
                "h3: takes no new instances (inactive)",
                "h4: runs no containers (is Docker there?)",
                "h5: is not on the managed network",
                "h6: no address: all 62 are taken",
                "h7: not among the valid hosts",
                "h8: asked for 4096 MB, 1200 MB free",
            ]
        );
    }

    #[test]
    fn only_the_requested_host_answers() {
        let all: Vec<Candidate> = (1..=3).map(|id| candidate(id, 100, 0)).collect();
        let names = |able: Vec<&Candidate>| able.iter().map(|it| it.view.host.name.clone()).collect::<Vec<_>>();
        let request = |requested| Wanted { requested_host: Some(requested), ..wanted(10) };
        assert_eq!(names(filter(&all, &request(2)).0), ["h2"]);
        assert_eq!(filter(&all, &request(9)).1, ["1h9: there is no such host"]);
        let too_much = Wanted { requested_host: Some(2), ..wanted(101) };
        assert_eq!(filter(&all, &too_much).1, ["h2: asked for 101 MB, 100 MB free"]);
        assert_eq!(filter(&[], &wanted(1)).1, ["there are no hosts"]);
    }

    #[test]
    fn instances_without_limits_spread() {
        let mut all: Vec<Candidate> = (1..=6).map(|id| candidate(id, 4096, 0)).collect();
        let environment = Environment::system().unwrap();
        for _ in 0..60 {
            let picked = {
                let able: Vec<&Candidate> = all.iter().collect();
                score::pick(&environment, &able).unwrap().view.host.id
            };
            let candidate = all.iter_mut().find(|it| it.view.host.id == picked).unwrap();
            candidate.promised = candidate.promised.and(Share::default());
        }
        assert!(all.iter().all(|it| (7..=13).contains(&it.promised.instances)), "{all:?}");
    }

    proptest! {
        #[test]
        fn never_more_than_there_is(
            hosts in prop::collection::vec((0..5000u64, 0..5000u64, any::<bool>()), 0..12),
            memory in 0..5000u64,
        ) {
            let all: Vec<Candidate> = hosts.iter().zip(1..).map(|((capacity, promised, alive), id)| {
                let mut candidate = candidate(id, *capacity, *promised);
                if !alive { candidate.view.alive = None; }
                candidate
            }).collect();
            let (able, reasons) = filter(&all, &wanted(memory));
            prop_assert!(!able.is_empty() || !reasons.is_empty());
            prop_assert_eq!(able.len() + reasons.len(), all.len().max(1));
            for one in &able {
                prop_assert!(one.view.alive.is_some());
                prop_assert!(one.promised.share.memory_mb + memory <= one.view.host.capacity.memory_mb || memory == 0);
            }
            let best = score::best(&able);
            prop_assert_eq!(best.len(), able.len().min(score::BEST));
            let load = |it: &Candidate| score::load(it.view.host.capacity, it.promised);
            for other in able.iter().filter(|it| !best.iter().any(|one| std::ptr::eq(*one, **it))) {
                prop_assert!(best.iter().all(|one| load(one) <= load(other)));
            }
        }
    }
}
