//! All hosts, indexed by what instances ask for, so that choosing one among 5,000 costs what it costs among 50.
//!
//! Nobody looks at every host: a few are drawn from the narrowest group that can hold the right ones (those with a label, those
//! with an instance to be near to, else all that take new ones), the ones that can take it are scored, and one of the best is
//! picked by chance: always the best one would send all agents that place at the same moment to the same host. Only where
//! none of those drawn can take it, every host is asked, and says why not.
//!
//! ```text
//! narrowest group that meets the wishes too ─► narrowest that meets what must be ─► most free first ─► all, with reasons
//! ```
//! Pure but for the dice, which are handed in.

use super::filter::{Candidate, Policy, Refusal, Wanted, refusal};
use super::pool::Pool;
use super::record::Promise;
use super::score::Score;
use crate::resource::constraint::{Constraint, NAME};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Up to so many hosts all are looked at, and the best is the best of all.
const FEW: usize = 32;
/// How many are drawn from a group.
const DRAWN: usize = 48;
/// How many that can take it are enough to choose among.
const ENOUGH: usize = 12;
/// From how many of the best one is picked.
const BEST: usize = 3;
/// As many hosts say why not; the others are summed up.
const SPOKEN: usize = 16;

type Label = (String, String);

/// A number below the one given, which is not 0.
pub type Dice<'a> = &'a mut dyn FnMut(usize) -> usize;

#[derive(Debug)]
struct Slot {
    candidate: Candidate,
    /// As it is in the groups below; none where it takes nothing new.
    entered: Option<Entered>,
}

/// What a host was entered under.
#[derive(Debug)]
struct Entered {
    labels: Vec<Label>,
    tenants: BTreeMap<Label, usize>,
    groups: BTreeMap<String, u64>,
    free: u64,
}

/// Hosts that belong together; which of them are looked at is drawn when it comes to that.
enum Group<'a> {
    Any(&'a Pool),
    /// With the least and the most free memory among those with enough of it.
    Fullest,
    Emptiest,
    /// Those that were named.
    Valid,
}

fn free(candidate: &Candidate) -> u64 {
    candidate.capacity().memory_mb.saturating_sub(candidate.promised.sum().memory_mb)
}

/// What others find an instance by: its labels and its name.
fn tenant(promise: &Promise) -> impl Iterator<Item = Label> {
    let labels = promise.labels.iter().map(|(key, value)| (key.clone(), value.clone()));
    labels.chain(promise.name.iter().map(|name| (NAME.to_owned(), name.clone())))
}

/// See the module's text.
#[derive(Debug, Default)]
pub struct Index {
    slots: Vec<Option<Slot>>,
    vacant: Vec<usize>,
    by_name: BTreeMap<String, usize>,
    by_id: HashMap<u64, usize>,
    /// Those that take new ones.
    open: Pool,
    by_label: HashMap<String, BTreeMap<String, Pool>>,
    /// Who has an instance with this label or name.
    tenants: HashMap<Label, Pool>,
    /// How many of a group there are on hosts with a label, over all hosts.
    groups: HashMap<String, HashMap<Label, u64>>,
    /// By free memory.
    by_free: BTreeSet<(u64, usize)>,
}

impl Index {
    /// Puts a host in place of what was known of it.
    pub fn put(&mut self, candidate: Candidate) {
        let name = candidate.view.host.name.clone();
        let at = match self.by_name.get(&name) {
            Some(at) => *at,
            None => {
                let at = self.vacant.pop().unwrap_or_else(|| {
                    self.slots.push(None);
                    self.slots.len() - 1
                });
                self.by_name.insert(name, at);
                at
            }
        };
        let open = candidate.view.alive_created.is_some() && !candidate.view.host.cordoned;
        let entered = match self.slots[at].take() {
            // What changes all the time is what is promised; the rest stays as it was entered.
            Some(Slot { candidate: known, entered: Some(mut entered) }) if open && known.labels == candidate.labels => {
                self.renew(at, &mut entered, &known, &candidate);
                Some(entered)
            }
            slot => {
                self.leave(at, slot);
                open.then(|| self.enter(at, &candidate))
            }
        };
        self.by_id.insert(candidate.view.host.id, at);
        self.slots[at] = Some(Slot { candidate, entered });
    }

    pub fn remove(&mut self, name: &str) {
        if let Some(at) = self.by_name.remove(name) {
            let slot = self.slots[at].take();
            if let Some(slot) = &slot {
                self.by_id.remove(&slot.candidate.view.host.id);
            }
            self.leave(at, slot);
            self.vacant.push(at);
        }
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// A host as it was put.
    pub fn candidate_of(&self, name: &str) -> Option<&Candidate> {
        self.by_name.get(name).and_then(|at| self.candidate(*at))
    }

    fn candidate(&self, at: usize) -> Option<&Candidate> {
        self.slots.get(at).and_then(Option::as_ref).map(|slot| &slot.candidate)
    }

    fn enter(&mut self, at: usize, candidate: &Candidate) -> Entered {
        let labels: Vec<Label> = candidate.labels.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        self.open.insert(at);
        for (key, value) in &labels {
            self.by_label.entry(key.clone()).or_default().entry(value.clone()).or_default().insert(at);
        }
        let free = free(candidate);
        self.by_free.insert((free, at));
        let mut entered = Entered { labels, tenants: BTreeMap::new(), groups: BTreeMap::new(), free };
        for (_, promise) in candidate.promised.tenants() {
            self.add(at, &mut entered, promise);
        }
        entered
    }

    /// As [`Self::leave`] and [`Self::enter`], for a host that differs in what is promised alone.
    fn renew(&mut self, at: usize, entered: &mut Entered, known: &Candidate, candidate: &Candidate) {
        for gone in known.promised.beyond(&candidate.promised) {
            self.subtract(at, entered, gone);
        }
        for come in candidate.promised.beyond(&known.promised) {
            self.add(at, entered, come);
        }
        let free = free(candidate);
        if free != entered.free {
            self.by_free.remove(&(entered.free, at));
            self.by_free.insert((free, at));
            entered.free = free;
        }
    }

    fn add(&mut self, at: usize, entered: &mut Entered, promise: &Promise) {
        for tenant in tenant(promise) {
            match entered.tenants.get_mut(&tenant) {
                Some(count) => *count += 1,
                None => {
                    self.tenants.entry(tenant.clone()).or_default().insert(at);
                    entered.tenants.insert(tenant, 1);
                }
            }
        }
        if let Some(group) = promise.group() {
            let counts = self.groups.entry(group.clone()).or_default();
            for label in &entered.labels {
                *counts.entry(label.clone()).or_default() += 1;
            }
            *entered.groups.entry(group).or_default() += 1;
        }
    }

    fn subtract(&mut self, at: usize, entered: &mut Entered, promise: &Promise) {
        for tenant in tenant(promise) {
            let Some(count) = entered.tenants.get_mut(&tenant) else { continue };
            *count -= 1;
            if *count == 0 {
                entered.tenants.remove(&tenant);
                self.no_tenant(at, &tenant);
            }
        }
        if let Some(group) = promise.group()
            && let Some(count) = entered.groups.get_mut(&group)
        {
            *count -= 1;
            if *count == 0 {
                entered.groups.remove(&group);
            }
            self.fewer(&group, &entered.labels, 1);
        }
    }

    fn no_tenant(&mut self, at: usize, tenant: &Label) {
        if let Some(pool) = self.tenants.get_mut(tenant) {
            pool.remove(at);
            if pool.is_empty() {
                self.tenants.remove(tenant);
            }
        }
    }

    /// So many less of a group on a host with these labels.
    fn fewer(&mut self, group: &str, labels: &[Label], less: u64) {
        let Some(counts) = self.groups.get_mut(group) else { return };
        for label in labels {
            if let Some(sum) = counts.get_mut(label) {
                *sum = sum.saturating_sub(less);
                if *sum == 0 {
                    counts.remove(label);
                }
            }
        }
        if counts.is_empty() {
            self.groups.remove(group);
        }
    }

    fn leave(&mut self, at: usize, slot: Option<Slot>) {
        let Some(Entered { labels, tenants, groups, free }) = slot.and_then(|slot| slot.entered) else { return };
        self.open.remove(at);
        self.by_free.remove(&(free, at));
        for (key, value) in &labels {
            if let Some(values) = self.by_label.get_mut(key) {
                if let Some(pool) = values.get_mut(value) {
                    pool.remove(at);
                    if pool.is_empty() {
                        values.remove(value);
                    }
                }
                if values.is_empty() {
                    self.by_label.remove(key);
                }
            }
        }
        for tenant in tenants.keys() {
            self.no_tenant(at, tenant);
        }
        for (group, count) in &groups {
            self.fewer(group, &labels, *count);
        }
    }

    /// Picks a host; else why none, host by host. `avoid` says what else speaks against one, by its name.
    ///
    /// # Errors
    /// The reasons, as people read them.
    pub fn choose(
        &self,
        wanted: &Wanted,
        avoid: &dyn Fn(&str) -> Option<Refusal>,
        dice: Dice<'_>,
    ) -> Result<&Candidate, Vec<String>> {
        let mut able: Vec<(Score, usize)> = Vec::new();
        if let Some(only) = self.named(wanted) {
            let mut reasons = Reasons::default();
            for at in only {
                self.look(at, wanted, avoid, &mut able, &mut reasons);
            }
            return self.pick(able, dice).ok_or_else(|| reasons.told(wanted));
        }
        if self.len() > FEW {
            let mut seen = HashSet::new();
            for group in self.groups_to_draw_from(wanted) {
                for at in self.drawn(group, wanted, dice) {
                    if able.len() < ENOUGH && seen.insert(at) {
                        self.look(at, wanted, avoid, &mut able, &mut Reasons::default());
                    }
                }
                // What meets the wishes is better than more to choose from.
                if !able.is_empty() {
                    break;
                }
            }
        }
        let mut reasons = Reasons::default();
        if able.is_empty() {
            for at in self.by_name.values() {
                self.look(*at, wanted, avoid, &mut able, &mut reasons);
            }
        }
        self.pick(able, dice).ok_or_else(|| reasons.told(wanted))
    }

    /// The hosts that were named one by one.
    fn named(&self, wanted: &Wanted) -> Option<Vec<usize>> {
        if let Some(id) = wanted.requested_host {
            return Some(self.by_id.get(&id).copied().into_iter().collect());
        }
        let name = wanted.constraints.iter().find(|rule| rule.key == NAME && rule.equal && !rule.soft)?;
        Some(self.by_name.get(&name.value).copied().into_iter().collect())
    }

    fn look(
        &self,
        at: usize,
        wanted: &Wanted,
        avoid: &dyn Fn(&str) -> Option<Refusal>,
        able: &mut Vec<(Score, usize)>,
        reasons: &mut Reasons,
    ) {
        let Some(candidate) = self.candidate(at) else { return };
        let name = &candidate.view.host.name;
        match refusal(candidate, wanted).or_else(|| avoid(name)) {
            None => able.push((Score::of(candidate, wanted, self.like(candidate, wanted)), at)),
            Some(refusal) => reasons.add(name, refusal),
        }
    }

    /// How many of its like share the candidate's value of each label that it is spread by.
    fn like(&self, candidate: &Candidate, wanted: &Wanted) -> Vec<u64> {
        if wanted.spread_by.is_empty() {
            return Vec::new();
        }
        let Some(group) = wanted.promise.group() else { return Vec::new() };
        let counts = self.groups.get(&group);
        let count = |key: &String| {
            if key == NAME {
                return candidate.promised.tenants().filter(|(_, other)| other.group().as_ref() == Some(&group)).count()
                    as u64;
            }
            match candidate.labels.get(key) {
                Some(value) => counts.and_then(|it| it.get(&(key.clone(), value.clone()))).copied().unwrap_or(0),
                // Where it is not known is no place to spread to.
                None => u64::MAX,
            }
        };
        wanted.spread_by.iter().map(count).collect()
    }

    fn pick(&self, mut able: Vec<(Score, usize)>, dice: Dice<'_>) -> Option<&Candidate> {
        able.sort_by(|(one, a), (other, b)| one.order(other).then(a.cmp(b)));
        let first = &able.first()?.0;
        let best = able.iter().take(BEST).take_while(|(score, _)| score.rank(first).is_eq()).count();
        able.get(dice(best)).and_then(|(_, at)| self.candidate(*at))
    }

    /// Hosts to look at, in groups, the most promising first.
    fn groups_to_draw_from(&self, wanted: &Wanted) -> Vec<Group<'_>> {
        let mut groups = Vec::new();
        let must = wanted.constraints.iter().filter(|rule| rule.equal && !rule.soft && rule.key != NAME);
        let hard = must.map(|rule| self.labelled(rule));
        let hard = hard.chain(wanted.affinity.iter().filter(|rule| !rule.soft).map(|rule| self.near(rule)));
        let narrowest = hard.chain([&self.open]).min_by_key(|pool| pool.len());
        let wishes = wanted.constraints.iter().filter(|rule| rule.soft && rule.equal).map(|rule| self.labelled(rule));
        let wishes = wishes.chain(wanted.affinity.iter().filter(|rule| rule.soft).map(|rule| self.near(rule)));
        if let Some(narrower) = wishes.filter(|pool| !pool.is_empty()).min_by_key(|pool| pool.len())
            && narrowest.is_none_or(|pool| narrower.len() < pool.len())
        {
            groups.push(Group::Any(narrower));
        }
        groups.extend(self.least_of(wanted).into_iter().map(Group::Any));
        if wanted.policy == Policy::Packing {
            groups.push(Group::Fullest);
        }
        if !wanted.valid_hosts.is_empty() {
            groups.push(Group::Valid);
        }
        groups.extend(narrowest.map(Group::Any));
        groups.push(Group::Emptiest);
        groups
    }

    /// Some of a group, at most [`DRAWN`].
    fn drawn(&self, group: Group<'_>, wanted: &Wanted, dice: Dice<'_>) -> Vec<usize> {
        let with_room = || self.by_free.range((wanted.promise.share.memory_mb, 0)..).map(|(_, at)| *at);
        match group {
            Group::Any(pool) => pool.draw(DRAWN, dice),
            Group::Fullest => with_room().take(DRAWN).collect(),
            Group::Emptiest => with_room().rev().take(DRAWN).collect(),
            Group::Valid => {
                wanted.valid_hosts.iter().filter_map(|id| self.by_id.get(id)).take(DRAWN).copied().collect()
            }
        }
    }

    /// The hosts with the values of the first label to spread by that have the fewest of its like.
    fn least_of(&self, wanted: &Wanted) -> Vec<&Pool> {
        let Some(values) = wanted.spread_by.first().and_then(|key| self.by_label.get(key)) else { return Vec::new() };
        let (Some(key), Some(group)) = (wanted.spread_by.first(), wanted.promise.group()) else { return Vec::new() };
        let counts = self.groups.get(&group);
        let count = |value: &String| counts.and_then(|it| it.get(&(key.clone(), value.clone()))).copied().unwrap_or(0);
        let mut order: Vec<(u64, &Pool)> = values.iter().map(|(value, pool)| (count(value), pool)).collect();
        order.sort_by_key(|(count, _)| *count);
        order.into_iter().map(|(_, pool)| pool).take(ENOUGH).collect()
    }

    fn labelled(&self, rule: &Constraint) -> &Pool {
        self.by_label.get(&rule.key).and_then(|values| values.get(&rule.value)).unwrap_or(Pool::none())
    }

    fn near(&self, rule: &Constraint) -> &Pool {
        self.tenants.get(&(rule.key.clone(), rule.value.clone())).unwrap_or(Pool::none())
    }
}

/// Why hosts cannot take an instance, a bounded number of them in words.
#[derive(Debug, Default)]
struct Reasons {
    told: Vec<String>,
    others: BTreeMap<&'static str, usize>,
}

impl Reasons {
    fn add(&mut self, host: &str, refusal: Refusal) {
        if self.told.len() < SPOKEN {
            self.told.push(format!("{host}: {refusal}"));
        } else {
            *self.others.entry(refusal.kind).or_default() += 1;
        }
    }

    fn told(self, wanted: &Wanted) -> Vec<String> {
        let mut told = self.told;
        if told.is_empty() {
            told.push(match wanted.requested_host {
                Some(id) => format!("1h{id}: there is no such host"),
                None => "there are no such hosts".to_owned(),
            });
        }
        let others: usize = self.others.values().sum();
        if others > 0 {
            let kinds: Vec<String> = self.others.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            told.push(format!("{others} more: {}", kinds.join(", ")));
        }
        told
    }
}

#[cfg(test)]
mod tests;
