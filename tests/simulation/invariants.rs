//! What must hold at every change of the store, and what must hold once all is well again.

use crate::chronicle::Chronicle;
use crate::clients::Clients;
use crate::operators::Operators;
use crate::troubles::claimed;
use serde_json::Value;
use stampede::membership::record::Host;
use stampede::orchestration::lifecycle;
use stampede::placement::record::{Allocation, Promise, Share};
use stampede::resource::assignment::Desired;
use stampede::resource::dns_name::{self, Named};
use stampede::resource::link::Endpoint;
use stampede::resource::{Resource, State, Transitioning, floating, identifier, instance, port};
use stampede::store::simulated::Committed;
use stampede::store::{Change, Entry, decode, key};
use std::collections::BTreeMap;

pub type Entries = BTreeMap<String, Entry>;

/// Called with every change. `budget` says how many may be on their way off a host at once.
pub fn at_change(chronicle: &Chronicle, committed: &Committed<'_>, budget: impl Fn(&str) -> usize) {
    chronicle.note(format_args!("{} at {} by {}", Keys(committed.changes), committed.revision, committed.by));
    for change in committed.changes {
        let Change::Put(entry) = change else { continue };
        if entry.key.starts_with(&key::resources(instance::BASE)) {
            let row = decode(entry).unwrap();
            on_the_way(chronicle, committed.entries, &row, &budget);
            reached(chronicle, committed.entries, &row);
        }
        if entry.create_revision == entry.mod_revision
            && let Some((host, id)) = claimed(&entry.key)
        {
            open(chronicle, committed.entries, host, id);
            anew(chronicle, committed.entries, id);
            fits(chronicle, committed.entries, host);
            one_claim(chronicle, committed.entries, id);
        }
        if let Some((host, _)) = claimed(&entry.key) {
            ports(chronicle, committed.entries, host);
        }
        if entry.key.starts_with(&key::resources(floating::BASE)) && entry.create_revision == entry.mod_revision {
            float(chronicle, committed.entries, &decode(entry).unwrap());
        }
    }
}

struct Keys<'a>(&'a [Change]);

impl std::fmt::Display for Keys<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for change in self.0 {
            let sign = if matches!(change, Change::Put(_)) { '+' } else { '-' };
            write!(f, "{sign}{} ", key::last(key::ROOT, change.key()))?;
        }
        Ok(())
    }
}

fn below<'a>(entries: &'a Entries, prefix: &'a str) -> impl Iterator<Item = &'a Entry> {
    entries.range(prefix.to_owned()..).take_while(move |(key, _)| key.starts_with(prefix)).map(|(_, entry)| entry)
}

fn row(entries: &Entries, id: u64) -> Option<Resource> {
    entries.get(&key::resource(instance::BASE, id)).map(|entry| decode(entry).unwrap())
}

fn host(entries: &Entries, name: &str) -> Option<Host> {
    entries.get(&key::host(name)).map(|entry| decode(entry).unwrap())
}

/// A host that was closed takes nothing new.
fn open(chronicle: &Chronicle, entries: &Entries, name: &str, id: u64) {
    if host(entries, name).is_some_and(|host| host.cordoned) {
        chronicle.violation(format_args!("{} was placed on {name}, which was closed", identifier::instance(id)));
    }
}

/// No more leave a drained host at once than may, and none one that is not drained.
fn on_the_way(chronicle: &Chronicle, entries: &Entries, row: &Resource, budget: &impl Fn(&str) -> usize) {
    let instance = identifier::instance(row.id);
    if !lifecycle::moving_away(row) {
        if row.state == State::Running || instance::desired(row) != Desired::Running {
            chronicle.arrives(row.id);
        }
        return;
    }
    let Some(name) = row.get::<String>(instance::HOST_NAME) else { return };
    let begins = row.state == State::Stopping && row.transitioning == Transitioning::Yes;
    match host(entries, &name).and_then(|host| host.drain).filter(|drain| !drain.done) {
        Some(drain) => {
            let (count, most) = (chronicle.leaves(row.id, &name, drain.since), budget(&name));
            if count > most {
                chronicle.violation(format_args!("{count} are on their way off {name}, where {most} may"));
            }
        }
        // One that was told before the snapshot goes on.
        None if begins && !chronicle.is_leaving(row.id) && chronicle.restores() == 0 => {
            chronicle.violation(format_args!("{instance} was told to leave {name}, which is not drained"));
        }
        None => {}
    }
}

/// What found a host after the snapshot and finds one anew after it is ended where it was.
fn anew(chronicle: &Chronicle, entries: &Entries, id: u64) {
    let Some(row) = row(entries, id).filter(|_| chronicle.restores() > 0) else { return };
    // Its old host may be down for now.
    if chronicle.has_run(&row.uuid) {
        chronicle.touch(&identifier::instance(id));
    }
}

/// What runs has an endpoint that says where, and nothing else has one.
fn reached(chronicle: &Chronicle, entries: &Entries, row: &Resource) {
    let instance = identifier::instance(row.id);
    let known = entries.get(&key::endpoint(&instance)).map(|entry| decode::<Endpoint>(entry).unwrap());
    let expected = Endpoint::of(row);
    if known != expected {
        chronicle
            .violation(format_args!("{instance} is {}, with the endpoint {known:?} and not {expected:?}", row.state));
    }
}

/// What is on a host is no more than it has.
fn fits(chronicle: &Chronicle, entries: &Entries, name: &str) {
    let Some(record) = host(entries, name) else { return };
    let room = record.capacity.promisable(record.overcommit);
    let claims = key::all_on(name);
    let taken = below(entries, &claims)
        .filter_map(|claim| row(entries, claimed(&claim.key)?.1))
        .fold(Share::default(), |sum, row| sum.and(Promise::of(&row).share));
    if taken.memory_mb > room.memory_mb || taken.cpu_millis > room.cpu_millis || taken.disk_mb > room.disk_mb {
        chronicle.violation(format_args!("{name} has {} MB, and {} MB are claimed", room.memory_mb, taken.memory_mb));
    }
}

/// Each public port of a host is one instance's.
fn ports(chronicle: &Chronicle, entries: &Entries, name: &str) {
    let claims = key::all_on(name);
    let mut taken: BTreeMap<String, u64> = BTreeMap::new();
    for row in below(entries, &claims).filter_map(|claim| row(entries, claimed(&claim.key)?.1)) {
        for public in port::promised(&row) {
            if let Some(other) = taken.insert(public.clone(), row.id) {
                let (one, other) = (identifier::instance(row.id), identifier::instance(other));
                chronicle.violation(format_args!("port {public} of {name} is {one}'s, and {other}'s"));
            }
        }
    }
}

/// An address of a pool is had once.
fn float(chronicle: &Chronicle, entries: &Entries, new: &Resource) {
    for entry in below(entries, &key::resources(floating::BASE)) {
        let other: Resource = decode(entry).unwrap();
        let place = |row: &Resource| (row.get::<u64>(floating::POOL_ID), row.get::<String>(floating::ADDRESS));
        if other.id != new.id && other.state != State::Purged && place(&other) == place(new) {
            chronicle.violation(format_args!("{:?} is had twice, as {} and {}", place(new), other.id, new.id));
        }
    }
}

fn one_claim(chronicle: &Chronicle, entries: &Entries, id: u64) {
    let hosts = claims_of(entries, id);
    if hosts.len() > 1 {
        chronicle.violation(format_args!("{} is claimed by {hosts:?}", identifier::instance(id)));
    }
}

fn claims_of(entries: &Entries, id: u64) -> Vec<String> {
    let instance = identifier::instance(id);
    let all = below_hosts(entries);
    all.filter(|host| entries.contains_key(&key::on(host, &instance))).collect()
}

fn below_hosts(entries: &Entries) -> impl Iterator<Item = String> + '_ {
    let prefix = key::hosts();
    entries
        .range(prefix.clone()..)
        .take_while(move |(key, _)| key.starts_with(&prefix))
        .map(|(key, _)| key::last(&key::hosts(), key).to_owned())
}

/// Everything that is not as it must be once all is well and time has passed.
pub fn at_rest(chronicle: &Chronicle, clients: &Clients, operators: &Operators, entries: &Entries) -> Vec<String> {
    let mut wrong = Vec::new();
    if operators.restoring() {
        wrong.push("the store went back, and nobody could say that it is to be so".to_owned());
    }
    hosts(operators, entries, &mut wrong);
    promises(clients, entries, &mut wrong);
    wrong.extend(clients.wrong_floats(entries));
    rows(chronicle, entries, &mut wrong);
    claims(entries, &mut wrong);
    addresses(chronicle, entries, &mut wrong);
    names(entries, &mut wrong);
    for (host, what) in chronicle.all_running() {
        let id = identifier::parse(instance::BASE, &what.instance).unwrap();
        let row = row(entries, id).filter(|row| row.uuid == what.uuid);
        let at = row.and_then(|row| row.get::<String>(instance::HOST_NAME));
        // What was made after the snapshot, or found a host after it, is left running and shown.
        if at.is_none() && chronicle.restores() > 0 && !what.exclusive {
            continue;
        }
        if at.as_deref() != Some(&host) {
            wrong.push(format!("{} runs on {host}, and its row says {at:?}", what.instance));
        }
    }
    wrong
}

/// Each host is as was said of it, and what was stopped with it is up again.
fn hosts(operators: &Operators, entries: &Entries, wrong: &mut Vec<String>) {
    for machine in &operators.machines {
        let record = host(entries, &machine.name);
        wrong.extend(operators.unheeded(&machine.name, record.as_ref()));
        if record.is_none() && below(entries, &key::all_on(&machine.name)).next().is_some() {
            wrong.push(format!("{} was taken out, and something is claimed there", machine.name));
        }
    }
    for entry in below(entries, &key::resources(instance::BASE)) {
        let row: Resource = decode(entry).unwrap();
        let drained = |name: String| host(entries, &name).is_some_and(|host| host.drain.is_some());
        let at = row.get::<String>(instance::HOST_NAME);
        let left = matches!(row.state, State::Removing | State::Removed | State::Purging | State::Purged);
        if lifecycle::stopped_by_drain(&row) && !left && !at.clone().is_some_and(drained) {
            let instance = identifier::instance(row.id);
            wrong.push(format!("{instance} on {at:?} was stopped by a drain that is over, and is still down"));
        }
    }
}

/// What was acknowledged has come about, or it is said why not.
fn promises(clients: &Clients, entries: &Entries, wrong: &mut Vec<String>) {
    for (id, promise) in clients.promises() {
        let instance = identifier::instance(id);
        let found = row(entries, id);
        let state = found.as_ref().map(|row| row.state);
        if promise.removed {
            let leaving =
                matches!(state, None | Some(State::Removed | State::Removing | State::Purging | State::Purged));
            if !leaving {
                wrong.push(format!("{instance} was to be removed, and is {state:?}"));
            }
            continue;
        }
        match found {
            None if promise.untouched => wrong.push(format!("{instance} was created, and there is no such row")),
            Some(row) if row.uuid != promise.uuid => wrong.push(format!("{instance} is another one than was created")),
            Some(row)
                if promise.untouched
                    && row.state != State::Running
                    && !says_why(&row)
                    && !waits_for_address(&row)
                    && !lifecycle::stopped_by_drain(&row) =>
            {
                wrong.push(format!("{instance} was created, is {:?}, and does not say why", row.state));
            }
            _ => {}
        }
    }
}

fn waits_for_address(row: &Resource) -> bool {
    row.transitioning_message
        .as_deref()
        .is_some_and(|message| message.starts_with("its address is in use on this host"))
}

fn says_why(row: &Resource) -> bool {
    row.transitioning == Transitioning::Error && row.transitioning_message.is_some()
}

/// No row is half-way, and what runs is what they say. What is removed is on its way out until it is purged.
fn rows(chronicle: &Chronicle, entries: &Entries, wrong: &mut Vec<String>) {
    for entry in below(entries, &key::resources(instance::BASE)) {
        let row: Resource = decode(entry).unwrap();
        let instance = identifier::instance(row.id);
        let runs: Vec<String> = chronicle.running(&row.uuid).into_iter().map(|(host, _)| host).collect();
        let host = row.get::<String>(instance::HOST_NAME);
        let at_rest = match row.state {
            State::Running => host.as_ref().is_some_and(|host| runs == [host.clone()]),
            State::Stopped | State::Purged => runs.is_empty(),
            // Or for what the store does not know any more, and nobody takes away here.
            State::Restarting => chronicle.restores() > 0 && waits_for_address(&row),
            State::Creating | State::Starting => {
                let went_back = chronicle.restores() > 0;
                (runs.is_empty() || went_back) && says_why(&row) && lifecycle::waits_for_room(&row)
                    || went_back && waits_for_address(&row)
            }
            _ => false,
        };
        if !at_rest {
            let message = row.transitioning_message.as_deref().unwrap_or_default();
            wrong.push(format!("{instance} is {:?} on {host:?} ({message}), and runs on {runs:?}", row.state));
        }
        let desired = instance::desired(&row);
        if row.state == State::Running && desired != Desired::Running {
            wrong.push(format!("{instance} runs, and is to be {desired:?}"));
        }
    }
}

/// Row and claim say the same, and what is claimed is promised. Too much may be promised until the next audit, which comes
/// hourly: an agent that dies between a batch and its correction leaves that.
fn claims(entries: &Entries, wrong: &mut Vec<String>) {
    for host in below_hosts(entries) {
        let alloc = entries.get(&key::alloc(&host)).map(|entry| decode::<Allocation>(entry).unwrap());
        let promised: Vec<String> = alloc.unwrap_or_default().instances.into_keys().collect();
        let prefix = key::all_on(&host);
        let claimed: Vec<String> =
            below(entries, &prefix).map(|claim| key::last(&prefix, &claim.key).to_owned()).collect();
        if claimed.iter().any(|claim| !promised.contains(claim)) {
            wrong.push(format!("{host} is promised {promised:?}, and has claims of {claimed:?}"));
        }
    }
    for entry in below(entries, &key::resources(instance::BASE)) {
        let row: Resource = decode(entry).unwrap();
        let host: Vec<String> = row.get(instance::HOST_NAME).into_iter().collect();
        let claims = claims_of(entries, row.id);
        if claims != host {
            wrong
                .push(format!("{} is on {host:?} by its row, and claimed by {claims:?}", identifier::instance(row.id)));
        }
    }
}

/// Each instance that runs has its names, they lead to it, and there are no others.
fn names(entries: &Entries, wrong: &mut Vec<String>) {
    let mut wanted = BTreeMap::new();
    for entry in below(entries, &key::resources(instance::BASE)) {
        let row: Resource = decode(entry).unwrap();
        let (Some(account), id) = (row.account_id, identifier::instance(row.id)) else { continue };
        let names = dns_name::of(&row).into_iter();
        wanted.extend(names.map(|(name, named)| (key::dns(account, &name, &id), named)));
    }
    for entry in below(entries, &format!("{}dns/", key::ROOT)) {
        let said: Named = decode(entry).unwrap();
        match wanted.remove(&entry.key) {
            Some(named) if named == said => {}
            other => wrong.push(format!("{} leads to {said:?}, and is to lead to {other:?}", entry.key)),
        }
    }
    for (key, named) in wanted {
        wrong.push(format!("{key} is not there, and is to lead to {named:?}"));
    }
}

/// To which addresses names of `prefix` lead.
pub fn addresses_below(entries: &Entries, prefix: &str) -> Vec<String> {
    below(entries, prefix).map(|entry| decode::<Named>(entry).unwrap().address.to_string()).collect()
}

/// Each address has the holder that its row says, and no other.
fn addresses(chronicle: &Chronicle, entries: &Entries, wrong: &mut Vec<String>) {
    let mut held = BTreeMap::new();
    for entry in below(entries, &format!("{}address/", key::ROOT)) {
        let holder: Value = decode(entry).unwrap();
        let address = entry.key.rsplit('/').next().unwrap().to_owned();
        held.insert(address, holder["instance"].as_str().unwrap().to_owned());
    }
    for entry in below(entries, &key::resources(instance::BASE)) {
        let row: Resource = decode(entry).unwrap();
        let Some(address) = row.get::<String>(instance::ADDRESS) else { continue };
        let holder = held.remove(&address);
        let instance = identifier::instance(row.id);
        if holder.as_ref() != Some(&instance) {
            wrong.push(format!("{address} is {instance}'s by its row, and is held by {holder:?}"));
        }
    }
    for (address, instance) in held {
        // What the store does not know since it went back, or not there, keeps its address.
        if chronicle.restores() > 0 {
            continue;
        }
        wrong.push(format!("{address} is held by {instance}, whose row does not have it"));
    }
}
