//! How many placements a second, etcd included: one agent, several at once, and etcd alone with the same transactions.

use crate::agent::{Agent, place_many};
use crate::etcd::Server;
use crate::figures::{Figures, line};
use crate::raw::{self, Sent};
use crate::world::World;
use crate::{Options, process};
use std::time::Duration;

const GOAL: &str = "10000 a second";

/// What agents came to, a round each.
#[derive(Default)]
struct Seen {
    rate: Figures,
    /// Claims that failed, in percent of all that were tried.
    conflicts: Figures,
    /// Seconds that the median placement took, and one in a hundred.
    middle: Figures,
    slow: Figures,
    transactions: Figures,
    reads: Figures,
    changes: Figures,
    /// Processor time a placement, in microseconds: of agents and of etcd.
    own: Figures,
    etcd: Figures,
}

pub async fn measure(server: &Server, world: &World, options: &Options) {
    println!(
        "\nplacements committed a second, etcd included ({} a round, {} under way)",
        options.placements, options.under_way
    );
    let one = vec![Agent::warm(server.connect(), world).await];
    rounds(server, world, &one, options, "one agent").await;
    drop(one);
    // Not before: they follow what is placed, in this same process, whoever places it.
    let mut many = Vec::new();
    for _ in 0..options.agents {
        many.push(Agent::warm(server.connect(), world).await);
    }
    rounds(server, world, &many, options, &format!("{} agents at once", options.agents)).await;
}

/// These agents and etcd alone, in turns.
async fn rounds(server: &Server, world: &World, those: &[Agent], options: &Options, who: &str) {
    let (mut alone, mut together, mut seen) = (Figures::default(), Figures::default(), Seen::default());
    for round in 0..=options.rounds {
        let raw_alone = raw::rate(server, world, options.placements, Sent::Alone(options.under_way)).await;
        let raw_together = raw::rate(server, world, options.placements, Sent::Together).await;
        let placed = agents(server, world, those, options).await;
        // The first round is for warming up: agents list hosts, etcd grows its file.
        if round > 0 {
            alone.add(raw_alone);
            together.add(raw_together);
            seen.add(placed);
        }
    }
    line("etcd alone, the same transactions one by one", &alone.told(0), "");
    line("etcd alone, 64 in one transaction", &together.told(0), "");
    seen.tell(who, &together);
}

async fn agents(server: &Server, world: &World, agents: &[Agent], options: &Options) -> [f64; 9] {
    let count = || {
        agents
            .iter()
            .map(|agent| agent.counts.now())
            .fold([0; 5], |sum, one| std::array::from_fn(|at| sum[at] + one[at]))
    };
    let cpu = || [process::cpu(std::process::id()), process::cpu(server.pid())];
    let (before, cpu_before) = (count(), cpu());
    let round = place_many(agents, options.placements, options.under_way).await;
    let (after, cpu_after) = (count(), cpu());
    world.take_away(&round.made).await;
    // What the watches still have to tell belongs to this round, not to the next one.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let [transactions, reads, claimed, refused, changes] = std::array::from_fn(|at| (after[at] - before[at]) as f64);
    let placements = options.placements as f64;
    let mut each = round.each;
    each.sort_by(f64::total_cmp);
    let spent = |at: usize| (cpu_after[at] - cpu_before[at]).as_secs_f64() * 1e6 / placements;
    [
        placements / round.took.as_secs_f64(),
        100.0 * refused / (claimed + refused),
        each[each.len() / 2] * 1e3,
        each[each.len() * 99 / 100] * 1e3,
        transactions / placements,
        reads / placements,
        changes / placements,
        spent(0),
        spent(1),
    ]
}

impl Seen {
    fn add(&mut self, round: [f64; 9]) {
        let Self { rate, conflicts, middle, slow, transactions, reads, changes, own, etcd } = self;
        for (figures, value) in
            [rate, conflicts, middle, slow, transactions, reads, changes, own, etcd].into_iter().zip(round)
        {
            figures.add(value);
        }
    }

    fn tell(&self, who: &str, together: &Figures) {
        println!("  {who}");
        line("  placements a second", &self.rate.told(0), GOAL);
        line("  of what etcd takes, 64 in one", &self.rate.against(together).told(2), "");
        line("  conflicts, % of what was tried", &self.conflicts.told(1), "at most 5");
        line("  a placement, ms", &self.middle.told(1), "");
        line("  the slowest of a hundred, ms", &self.slow.told(1), "");
        let per = [&self.transactions, &self.reads, &self.changes].map(|figures| format!("{:.2}", figures.median()));
        line("  for each: transactions, reads, changes told by watches", &per.join(", "), "");
        let spent = format!("{:.0} and {:.0}", self.own.median(), self.etcd.median());
        line("  for each: processor time of agents and etcd, µs", &spent, "");
    }
}
