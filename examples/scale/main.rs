//! `scripts/bench scale`: what a large cluster costs, with a real etcd and hosts that are there as records only.
//!
//! ```text
//!          etcd (real, its data on a disk)
//!   ┌─────────┴──────────┬────────────────────────┐
//!  agents that place    transactions of the same   `stampede agent`, a process of its own
//!  (Orchestrator,       shape, with no agent       that does nothing: memory, processor,
//!  Placer, Allocator)   behind them                events, writes
//! ```
//! Figures that are compared are taken in turns, so that whatever else the machine does meets both. It tells medians with
//! their spread, and passes or fails nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on has failed"
)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "it measures time, and starts what it measures"
)]

mod agent;
mod counting;
mod etcd;
mod figures;
mod idle;
mod placing;
mod process;
mod raw;
mod size;
mod world;

use clap::{Parser, ValueEnum};
use etcd::Server;
use std::path::PathBuf;
use std::time::Duration;
use world::World;

/// What a large cluster costs.
#[derive(Parser)]
#[command(name = "scripts/bench scale")]
struct Options {
    /// Small and short: whether the benchmark itself works.
    #[arg(long)]
    quick: bool,
    /// Only these parts.
    #[arg(value_enum)]
    parts: Vec<Part>,
    #[arg(long, default_value_t = 5000)]
    hosts: u64,
    #[arg(long, default_value_t = 100_000)]
    instances: u64,
    /// Rounds of what is measured in turns.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Placements in one round.
    #[arg(long, default_value_t = 10_000)]
    placements: u64,
    /// Placements under way at once, over all agents.
    #[arg(long, default_value_t = 256)]
    under_way: usize,
    /// Agents that place at once, where several do.
    #[arg(long, default_value_t = 16)]
    agents: usize,
    /// Seconds over which the idle agent is watched.
    #[arg(long, default_value_t = 300)]
    idle: u64,
    /// Seconds to wait after lists were asked for; what was made for them is dropped after ten minutes.
    #[arg(long, default_value_t = 700)]
    drop: u64,
    /// Where etcd keeps its data: on a disk, for etcd waits for it.
    #[arg(long)]
    directory: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    /// Placements committed a second.
    Placing,
    /// A placement among many hosts against one among few.
    Size,
    /// An agent that does nothing.
    Idle,
}

fn main() {
    let options = Options::parse().sized();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // On this thread: etcd ends with the one that started it.
    runtime.block_on(run(&options));
}

impl Options {
    fn sized(self) -> Self {
        if !self.quick {
            return self;
        }
        Self {
            hosts: 200,
            instances: 2000,
            rounds: 2,
            placements: 400,
            under_way: 64,
            agents: 4,
            idle: 3,
            drop: 0,
            ..self
        }
    }

    fn wants(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }
}

async fn run(options: &Options) {
    let directory = options.directory.clone().unwrap_or_else(std::env::temp_dir);
    println!(
        "{}, {} processors, load {} before; etcd's data in {}",
        etcd::version(),
        std::thread::available_parallelism().unwrap(),
        process::load(),
        directory.display()
    );
    let server = Server::start(&directory).await;
    let world = World::make(server.connect(), options.hosts, options.instances).await;
    println!("{} hosts, {} instances, {}", options.hosts, options.instances, world.described());
    if options.wants(Part::Placing) {
        placing::measure(&server, &world, options).await;
    }
    if options.wants(Part::Size) {
        size::measure(&server, &world, &directory, options).await;
    }
    if options.wants(Part::Idle) {
        let spans = idle::Spans { idle: Duration::from_secs(options.idle), drop: Duration::from_secs(options.drop) };
        idle::measure(&server, &world, &directory, spans).await;
    }
    println!("load {} after", process::load());
}
