//! One run, from its seed.

use crate::chronicle::Chronicle;
use crate::clients::Clients;
use crate::clock::HostClock;
use crate::datapath::Datapaths;
use crate::dice::Dice;
use crate::esp::{Esp, Records};
use crate::guards::Guard;
use crate::invariants;
use crate::machine::{Common, Machine};
use crate::operators::Operators;
use crate::peers::Wire;
use crate::troubles::{Troubles, fair};
use crate::wire::Members;
use stampede::environment::{Environment, Identity};
use stampede::membership::trust::secret::write_private;
use stampede::store::simulated::Simulated;
use stampede::store::{Change, key};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// How long clients work and troubles befall them.
const TROUBLED: Duration = Duration::from_secs(150);
/// Once all is well, it has so long to come to rest.
const SETTLING: Duration = Duration::from_secs(420);
/// Then nothing is written for so long.
const QUIET: Duration = Duration::from_secs(61);
/// And so long for old keys to go: theirs and the peers' five minutes, and as many until a new one is made where much was lost.
const FADING: Duration = Duration::from_secs(1200);

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub violations: Vec<String>,
    pub fingerprint: u64,
    pub simulated: Duration,
    pub hosts: usize,
    pub starts: u64,
    pub counts: BTreeMap<String, u64>,
}

/// How it is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setting {
    pub without: Option<Guard>,
    pub trace: bool,
    /// Agents reach the store by etcd's own client over a wire, and are fewer.
    pub wire: bool,
    /// Clients also use ports, links, names and floating addresses, and hosts have more that goes wrong.
    pub network: bool,
}

/// Runs `seed` on a runtime of its own.
pub fn run(seed: u64, setting: Setting) -> Outcome {
    let directory = directory();
    let runtime = runtime(seed);
    let outcome = runtime.block_on(scene(seed, setting, directory.path()));
    // All that is left of it goes before its files do.
    drop(runtime);
    outcome
}

fn directory() -> tempfile::TempDir {
    // In memory where there is such a place: what is written there is never waited for.
    let builder = || tempfile::Builder::new();
    builder().prefix("simulation").tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn runtime(seed: u64) -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true);
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    #[cfg(not(tokio_unstable))]
    let _ = seed;
    builder.build().unwrap()
}

async fn scene(seed: u64, setting: Setting, directory: &Path) -> Outcome {
    let Setting { without, trace, wire: over_wire, network } = setting;
    let origin = Instant::now();
    let dice = Dice::new(seed);
    let chronicle = Chronicle::new(trace);
    let store = Simulated::new(&keeper(&dice, origin));
    let wire = Wire::new(&dice);
    let esp = Esp::new(&dice, &chronicle, &wire);
    let datapaths = Datapaths::new(&dice, &chronicle);
    let secret = directory.join("secret");
    write_private(&secret, "42".repeat(32).as_bytes()).unwrap();
    let writes = Arc::new(AtomicU64::new(0));
    store.set_weather(fair());
    let members = over_wire.then(|| Members::new(&dice, 3, Duration::from_millis(2)));
    let common = Common {
        origin,
        dice: dice.clone(),
        store: store.clone(),
        chronicle: chronicle.clone(),
        wire,
        esp: esp.clone(),
        datapaths: datapaths.clone(),
        secret,
        without,
        members: members.clone(),
    };
    let count = 3 + dice.below(match (over_wire, dice.percent(15)) {
        (true, _) => 3,
        (false, true) => 22,
        (false, false) => 8,
    });
    let machines: Vec<Arc<Machine>> = (1..=count)
        .map(|number| {
            let number = u8::try_from(number).unwrap();
            let machine = Machine::new(&common, number, directory.join(format!("h{number}")));
            common.wire.connect(&machine);
            machine
        })
        .collect();
    let clients = Clients::new(&dice, &chronicle, &machines, network);
    let operators = Operators {
        dice: dice.clone(),
        chronicle: chronicle.clone(),
        environment: keeper(&dice, origin),
        store: store.clone(),
        machines: machines.clone(),
        clients: clients.clone(),
        without,
        said: Arc::default(),
        saved: Arc::default(),
    };
    let (told, counted, said) = (chronicle.clone(), writes.clone(), operators.clone());
    let records = Records::default();
    store.set_witness(move |committed| {
        invariants::at_change(&told, committed, |host| said.budget(host));
        let over = committed.changes.iter().filter(|change| records.is_over(change)).count() > 0;
        if !over && !committed.changes.iter().any(is_housekeeping) {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    machines.iter().for_each(Machine::power_on);
    tokio::spawn(esp.clone().chat());
    // It takes ten minutes.
    let fades = dice.percent(20);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let troubles = Troubles {
        dice: dice.clone(),
        chronicle: chronicle.clone(),
        store: store.clone(),
        wire: common.wire.clone(),
        esp: esp.clone(),
        datapaths,
        network,
        members,
        machines: machines.clone(),
    };
    trouble(&dice, &clients, &operators, &troubles).await;
    chronicle.note(format_args!("all is well from now on"));
    settle(&chronicle, &clients, &operators, &troubles).await;
    if fades {
        fade(&chronicle, &troubles).await;
    }
    let written = quiet(&writes).await;
    esp.sum_up();
    // It holds those who hold the store.
    store.set_witness(|_| ());
    if written > 0 && chronicle.violations().is_empty() {
        chronicle.violation(format_args!("{written} writes in {QUIET:?} in which nothing happened"));
    }
    Outcome {
        violations: chronicle.violations(),
        fingerprint: chronicle.fingerprint(),
        simulated: origin.elapsed(),
        hosts: count,
        starts: chronicle.begun(),
        counts: chronicle.counts(),
    }
}

/// How much is written while nothing happens. What waited for a time that a wrong clock told is still done in between.
async fn quiet(writes: &AtomicU64) -> u64 {
    let mut written = 0;
    for _ in 0..3 {
        let before = writes.load(Ordering::Relaxed);
        tokio::time::sleep(QUIET).await;
        written = writes.load(Ordering::Relaxed) - before;
        if written == 0 {
            break;
        }
    }
    written
}

/// The environment of the store itself, whose clock is right.
fn keeper(dice: &Dice, origin: Instant) -> Environment {
    let clock = HostClock { origin, booted: origin, drift: 0, skew: AtomicI64::new(0) };
    let identity = Identity { machine_id: "f".repeat(32), boot_id: "store".to_owned() };
    Environment { clock: Arc::new(clock), random: Arc::new(dice.clone()), identity }
}

/// Whether it is what time makes of what was removed.
fn is_housekeeping(change: &Change) -> bool {
    match change {
        Change::Put(entry) if entry.key.starts_with(&key::resources("instance")) => {
            let text = String::from_utf8_lossy(&entry.value);
            ["removed", "purging", "purged"].iter().any(|state| text.contains(&format!(r#""state":"{state}""#)))
        }
        Change::Deleted { key, .. } => key.starts_with(&key::resources("instance")),
        Change::Put(_) => false,
    }
}

async fn trouble(dice: &Dice, clients: &Clients, operators: &Operators, troubles: &Troubles) {
    let end = Instant::now() + TROUBLED;
    // Some clusters are left to themselves, and few stores go back.
    let mut next_wish = dice.percent(60).then(|| Instant::now() + dice.millis(2000, 20_000));
    let mut back = dice.percent(15).then(|| Instant::now() + dice.millis(20_000, 140_000));
    if back.is_some() {
        tokio::spawn(operators.clone().keep_snapshots());
    }
    let (pace, every) = (dice.millis(300, 2500), dice.millis(1500, 9000));
    let pause = |most: Duration| dice.millis(0, u64::try_from(most.as_millis()).unwrap());
    let mut next_client = Instant::now();
    let mut next_trouble = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        let next = [Some(next_client), Some(next_trouble), next_wish, back].into_iter().flatten().min();
        tokio::time::sleep_until(next.unwrap()).await;
        if next_client <= Instant::now() {
            clients.ask();
            clients.look_up();
            next_client = Instant::now() + pause(pace * 2);
        }
        if next_trouble <= Instant::now() {
            troubles.befall();
            next_trouble = Instant::now() + pause(every * 2);
        }
        if next_wish.is_some_and(|at| at <= Instant::now()) {
            operators.want();
            next_wish = Some(Instant::now() + dice.millis(500, 25_000));
        }
        if back.is_some_and(|at| at <= Instant::now()) {
            operators.restore();
            back = None;
        }
    }
}

/// Waits until everything is as it must be; what is not by then is told.
async fn settle(chronicle: &Chronicle, clients: &Clients, operators: &Operators, troubles: &Troubles) {
    // Those that are under way end first.
    tokio::time::sleep(Duration::from_secs(41)).await;
    let end = Instant::now() + SETTLING;
    troubles.heal();
    operators.say_again();
    let mut quietly = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let wrong = operators.store.look(|entries| {
            let mut wrong = invariants::at_rest(chronicle, clients, operators, entries);
            wrong.extend(troubles.esp.at_rest(&troubles.machines, entries));
            wrong.extend(troubles.datapaths.at_rest(&troubles.machines, entries, chronicle.restores() > 0));
            wrong
        });
        let mut wrong = wrong;
        if wrong.is_empty() {
            let recorded = |prefix: &str| operators.store.look(|entries| invariants::addresses_below(entries, prefix));
            wrong = clients.wrong_names(recorded).await;
        }
        // What came to rest a moment ago may have made room for another.
        quietly = if wrong.is_empty() { quietly + 1 } else { 0 };
        if quietly == 3 || !chronicle.violations().is_empty() {
            return;
        }
        if Instant::now() >= end {
            wrong.iter().for_each(|wrong| chronicle.violation(format_args!("at rest: {wrong}")));
            return;
        }
    }
}

/// Waits until old keys are gone.
async fn fade(chronicle: &Chronicle, troubles: &Troubles) {
    let end = Instant::now() + FADING;
    while chronicle.violations().is_empty() {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let wrong = troubles.store.look(|entries| troubles.esp.faded(&troubles.machines, entries));
        if wrong.is_empty() {
            return;
        }
        if Instant::now() >= end {
            wrong.iter().for_each(|wrong| chronicle.violation(format_args!("in the end: {wrong}")));
        }
    }
}
