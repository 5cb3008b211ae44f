//! What a placement costs among many hosts, against one among few: two clusters, each in an etcd of its own, in turns.

use crate::agent::{Agent, Round, place_many};
use crate::etcd::Server;
use crate::figures::{Figures, line};
use crate::world::World;
use crate::{Options, process};
use std::path::Path;
use std::time::Duration;

const FEW: u64 = 50;
/// In one round: few, so that the hosts of the small cluster do not fill.
const PLACEMENTS: u64 = 500;
/// Under way at once, where several are.
const UNDER_WAY: usize = 64;

/// A round in one cluster: microseconds a placement.
struct Cost {
    /// From request to answer, one after the other.
    one_by_one: f64,
    /// Where many are under way.
    many: f64,
    /// Processor time of the agent alone.
    agent: f64,
    /// And with etcd's.
    both: f64,
}

pub async fn measure(server: &Server, world: &World, directory: &Path, options: &Options) {
    let small = Server::start(directory).await;
    let few = FEW.min(world.hosts / 4);
    let small_world = World::make(small.connect(), few, few * (options.instances / options.hosts)).await;
    let clusters = [(server, world), (&small, &small_world)];
    let mut agents = Vec::new();
    for (server, world) in clusters {
        agents.push(vec![Agent::warm(server.connect(), world).await]);
    }
    let mut figures: [[Figures; 4]; 2] = Default::default();
    for round in 0..=options.rounds * 2 {
        // The one that comes first is another one each time.
        for at in if round % 2 == 0 { [0, 1] } else { [1, 0] } {
            let (server, world) = clusters[at];
            let cost = cost(server, world, &agents[at]).await;
            if round > 0 {
                let values = [cost.one_by_one, cost.many, cost.agent, cost.both];
                figures[at].iter_mut().zip(values).for_each(|(figures, value)| figures.add(value));
            }
        }
    }
    println!("\na placement among {} hosts against one among {few}, with as many instances on each host", world.hosts);
    let names = ["one after the other", "64 under way", "processor time, the agent's", "processor time, with etcd's"];
    for (at, name) in names.into_iter().enumerate() {
        let (many, few) = (&figures[0][at], &figures[1][at]);
        let seen = format!("{:.0} µs against {:.0}, times {}", many.median(), few.median(), many.against(few).told(2));
        line(name, &seen, "at most 1.5 times");
    }
}

async fn cost(server: &Server, world: &World, agents: &[Agent]) -> Cost {
    let cpu = || [process::cpu(std::process::id()), process::cpu(server.pid())];
    let before = cpu();
    let one_by_one = place_many(agents, PLACEMENTS, 1).await;
    let many = place_many(agents, PLACEMENTS, UNDER_WAY).await;
    let after = cpu();
    for round in [&one_by_one, &many] {
        world.take_away(&round.made).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let [agent, etcd] = [0, 1].map(|at| (after[at] - before[at]).as_secs_f64() * 1e6 / (2 * PLACEMENTS) as f64);
    let each = |round: &Round| round.took.as_secs_f64() * 1e6 / PLACEMENTS as f64;
    Cost { one_by_one: each(&one_by_one), many: each(&many), agent, both: agent + etcd }
}
