//! What befalls hosts and store while clients are at work. Each trouble is over after a while by itself.

use crate::chronicle::{ALL, Chronicle};
use crate::datapath::Datapaths;
use crate::dice::Dice;
use crate::esp::Esp;
use crate::machine::Machine;
use crate::peers::Wire;
use crate::wire::Members;
use stampede::resource::identifier;
use stampede::store::simulated::{Simulated, Way, Weather};
use stampede::store::{Revision, key};
use std::sync::Arc;
use std::time::Duration;

/// An etcd in good order, on a wire as there are.
pub fn fair() -> Weather {
    Weather { latency: Duration::from_millis(2), lag: Duration::from_millis(10), ..Weather::still() }
}

/// One that nobody wants.
fn foul(dice: &Dice) -> Weather {
    Weather {
        latency: dice.millis(2, 60),
        slow: dice.below(120) as u32,
        slow_for: dice.millis(100, 4000),
        refused: dice.below(60) as u32,
        lost: dice.below(60) as u32,
        unanswered: dice.below(80) as u32,
        late: dice.below(60) as u32,
        late_for: dice.millis(100, 20_000),
        lag: dice.millis(5, 1500),
        broken: dice.below(20) as u32,
    }
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Troubles {
    pub dice: Dice,
    pub chronicle: Chronicle,
    pub store: Simulated,
    pub wire: Wire,
    pub esp: Esp,
    pub datapaths: Datapaths,
    /// What befalls hosts' rules and keys is among it.
    pub network: bool,
    pub members: Option<Members>,
    pub machines: Vec<Arc<Machine>>,
}

impl Troubles {
    /// One more. It ends by itself.
    pub fn befall(&self) {
        let Some(machine) = self.dice.one(&self.machines).cloned() else { return };
        let this = self.clone();
        match self.dice.below(if self.network { 115 } else { 110 }) {
            0..14 => this.over(machine, "agent killed", (500, 5000), |m| m.crash_agent(), |m| m.start_agent()),
            14..24 => this.over(machine, "agent held", (500, 15_000), |m| m.set_way(Way::Held), open),
            24..40 => this.over(machine, "host cut from the store", (500, 25_000), |m| m.set_way(Way::Cut), open),
            40..44 => this.cut_off(machine),
            44..56 => this.over(machine, "power lost", (3000, 40_000), |m| m.power_off(), |m| m.power_on()),
            56..61 => this.over(machine, "docker hung", (500, 20_000), |m| m.containers.hang(), answer),
            61..65 => this.over(machine, "docker restarted", (200, 5000), |m| m.containers.go_away(), answer),
            65..67 => this.end_lease(&machine),
            67..70 => this.ambush(&machine),
            70..72 => this.without_keepalives(machine),
            72..76 => this.delete_alive(&machine),
            76..80 => this.step_clock(&machine),
            80..84 => this.kill_supervisor(&machine),
            84..88 => this.finish_one(&machine),
            88..91 => this.lose_leader(),
            91..94 => this.compact(),
            94..97 if this.members.is_some() => this.lose_member(),
            94..100 => this.weather(),
            100 if self.network => this.meddle(&machine, "rules flushed", |this, host| this.datapaths.flush(host)),
            100..103 => this.meddle(&machine, "associations flushed", |this, host| this.esp.flush(host)),
            103..105 => this.meddle(&machine, "association removed", |this, host| this.esp.remove_one(host)),
            105..107 => this.of_kernel(&machine, "changes refused", (500, 8000), |this, host, on| {
                let percent = if on { 40 } else { 0 };
                this.esp.refuse(host, percent);
                this.datapaths.refuse(host, percent);
            }),
            107..109 => this.of_kernel(&machine, "kernel slow", (1000, 20_000), |this, host, on| {
                let most = if on { Duration::from_millis(600) } else { Duration::ZERO };
                this.esp.slow(host, most);
                this.datapaths.slow(host, most);
            }),
            109 if self.network => this.meddle(&machine, "keys a day older", |this, host| {
                machine.age_keys();
                this.esp.forget(host);
            }),
            110..113 => this.over(machine, "agent down", (5000, 40_000), |m| m.crash_agent(), |m| m.start_agent()),
            _ => this.of_kernel(&machine, "overlay cut off", (500, 100_000), |this, host, on| this.esp.cut(host, on)),
        }
    }

    fn over(
        self,
        machine: Arc<Machine>,
        kind: &'static str,
        (least, most): (u64, u64),
        begin: impl FnOnce(&Machine),
        end: impl FnOnce(&Arc<Machine>) + Send + 'static,
    ) {
        if !machine.is_on() {
            return;
        }
        self.chronicle.trouble(kind, &machine.name);
        begin(&machine);
        let span = self.dice.millis(least, most);
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            self.chronicle.note(format_args!("over: {kind} at {}", machine.name));
            end(&machine);
        });
    }

    /// From the store and from all others.
    fn cut_off(self, machine: Arc<Machine>) {
        if !machine.is_on() {
            return;
        }
        let (wire, name) = (self.wire.clone(), machine.name.clone());
        wire.cut(&name);
        self.over(
            machine,
            "host cut off",
            (500, 25_000),
            |m| m.set_way(Way::Cut),
            move |m| {
                wire.heal(&name);
                open(m);
            },
        );
    }

    /// Somebody does something to a host's encryption, or to its rules. To what runs there it is none.
    fn meddle(&self, machine: &Machine, kind: &str, what: impl FnOnce(&Self, &str)) {
        if machine.is_on() {
            self.chronicle.note(format_args!("TROUBLE {kind} at {}", machine.name));
            self.chronicle.count(kind);
            what(self, &machine.name);
        }
    }

    /// The same for a while.
    fn of_kernel(
        self,
        machine: &Machine,
        kind: &'static str,
        (least, most): (u64, u64),
        what: impl Fn(&Self, &str, bool) + Send + 'static,
    ) {
        self.meddle(machine, kind, |this, host| what(this, host, true));
        let (span, host) = (self.dice.millis(least, most), machine.name.clone());
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            self.chronicle.note(format_args!("over: {kind} at {host}"));
            what(&self, &host, false);
        });
    }

    fn end_lease(&self, machine: &Machine) {
        let alive = key::alive(&machine.name);
        let lease = self.store.look(|entries| entries.get(&alive).and_then(|entry| entry.lease));
        if let Some(lease) = lease {
            self.chronicle.trouble("lease revoked", &machine.name);
            // It is there: it was found a line above.
            let _ = self.store.end_lease(lease);
        }
    }

    /// At the worst moment: right after it was put off, with an answer that comes late, and none after it.
    fn ambush(&self, machine: &Machine) {
        self.chronicle.trouble("lease lost right after a keepalive", &machine.name);
        machine.ambush.set(self.dice.millis(0, 1900), self.dice.millis(3500, 12_000));
    }

    /// It is gone for the others for about as long as they wait, and its agent knows nothing of it but that.
    fn without_keepalives(self, machine: Arc<Machine>) {
        self.end_lease(&machine);
        self.over(
            machine,
            "keepalives cut off",
            (3500, 8000),
            |m| m.set_keepalive_way(Way::Cut),
            |m| m.set_keepalive_way(Way::Open),
        );
    }

    fn delete_alive(&self, machine: &Machine) {
        self.chronicle.trouble("alive/ deleted", &machine.name);
        self.store.delete(&key::alive(&machine.name));
    }

    fn step_clock(&self, machine: &Machine) {
        self.chronicle.trouble("clock stepped", &machine.name);
        machine.step_clock(self.dice.below(240_001) as i64 - 120_000);
    }

    fn kill_supervisor(&self, machine: &Machine) {
        let running = machine.containers.running();
        if let Some(one) = self.dice.one(&running) {
            self.chronicle.trouble("supervisor killed", &machine.name);
            machine.kill_supervisor(&one.instance);
        }
    }

    fn finish_one(&self, machine: &Machine) {
        let running = machine.containers.running();
        if let Some(one) = self.dice.one(&running) {
            self.chronicle.trouble("container ended", &machine.name);
            machine.containers.finish(&one.external_id, 3);
        }
    }

    fn lose_leader(&self) {
        self.chronicle.trouble("leader lost", ALL);
        self.store.lose_leader(self.dice.millis(300, 8000));
    }

    fn lose_member(&self) {
        let Some(members) = &self.members else { return };
        self.chronicle.trouble("member lost", ALL);
        let span = if self.dice.percent(40) { Duration::ZERO } else { self.dice.millis(300, 15_000) };
        members.lose_one(span);
    }

    fn compact(&self) {
        self.chronicle.trouble("history compacted", ALL);
        let revision = self.store.revision();
        let back = self.dice.below(5) as i64;
        // No revision is still to come.
        let _ = self.store.compact(Revision((revision.0 - back).max(1)), true);
    }

    fn weather(self) {
        self.chronicle.trouble("bad weather", ALL);
        self.store.set_weather(foul(&self.dice));
        let span = self.dice.millis(2000, 20_000);
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            self.chronicle.note(format_args!("over: bad weather"));
            self.store.set_weather(fair());
        });
    }

    /// All is well again.
    pub fn heal(&self) {
        self.store.set_weather(fair());
        self.esp.heal();
        self.datapaths.heal();
        for machine in &self.machines {
            self.wire.heal(&machine.name);
            machine.set_way(Way::Open);
            machine.containers.answer();
            machine.step_clock(0);
            machine.power_on();
            machine.start_agent();
        }
    }
}

fn open(machine: &Arc<Machine>) {
    machine.set_way(Way::Open);
}

fn answer(machine: &Arc<Machine>) {
    if machine.is_on() {
        machine.containers.answer();
    }
}

/// The instance of a claim's key: `1i5` of `…/on/h1/1i5`.
pub fn claimed(entry_key: &str) -> Option<(&str, u64)> {
    let (host, instance) = entry_key.strip_prefix(key::ROOT)?.strip_prefix("on/")?.split_once('/')?;
    Some((host, identifier::parse("instance", instance)?))
}
