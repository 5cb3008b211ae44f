//! `scripts/bench api`: what the API takes, among many instances, with a real etcd and an agent in a process of its own.
//!
//! ```text
//!  this process ── HTTP, keep-alive ──► `stampede agent` ──► etcd (real, its data on a disk)
//!       ├──────── etcd's own range reads, over as many connections ──┘
//!       └──────── GET /containers/json with 100 ──► Docker
//! ```
//! All are asked in turns by the same client in the same run. It tells medians with their spread, and passes or fails nothing.
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

#[path = "../scale/agent.rs"]
#[allow(dead_code, reason = "shared with another benchmark")]
mod agent;
#[path = "../scale/counting.rs"]
#[allow(dead_code, reason = "shared with another benchmark")]
mod counting;
#[path = "../scale/etcd.rs"]
#[allow(dead_code, reason = "shared with another benchmark")]
mod etcd;
#[path = "../scale/figures.rs"]
mod figures;
mod load;
#[path = "../scale/process.rs"]
#[allow(dead_code, reason = "shared with another benchmark")]
mod process;
mod served;
#[path = "../scale/world.rs"]
#[allow(dead_code, reason = "shared with another benchmark")]
mod world;

use clap::Parser;
use figures::{Figures, line};
use load::{Target, rate, spread};
use served::Served;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use world::World;

/// What the API takes.
#[derive(Parser)]
#[command(name = "scripts/bench api")]
struct Options {
    /// Small and short: whether the benchmark itself works.
    #[arg(long)]
    quick: bool,
    #[arg(long, default_value_t = 1000)]
    hosts: u64,
    #[arg(long, default_value_t = 100_000)]
    instances: u64,
    /// Rounds of what is measured in turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds for each of them in a round.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Connections at once.
    #[arg(long, default_value_t = 16)]
    connections: usize,
    /// Simulated instances that are created over HTTP.
    #[arg(long, default_value_t = 1000)]
    created: u64,
    /// Docker's socket; Docker is left out where it is not told.
    #[arg(long)]
    docker: Option<PathBuf>,
    /// Where etcd keeps its data: on a disk, for etcd waits for it.
    #[arg(long)]
    directory: Option<PathBuf>,
}

fn main() {
    let mut options = Options::parse();
    if options.quick {
        (options.hosts, options.instances, options.rounds) = (50, 2000, 2);
        (options.seconds, options.created) = (1, 50);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(run(&options));
}

async fn run(options: &Options) {
    let directory = options.directory.clone().unwrap_or_else(std::env::temp_dir);
    println!(
        "{}, {} instances on {} hosts, load {}",
        etcd::version(),
        options.instances,
        options.hosts,
        process::load()
    );
    let server = etcd::Server::start(&directory).await;
    let world = World::make(server.connect(), options.hosts, options.instances).await;
    drop(world);
    let served = Served::start(&server.url).await;
    let before = process::memory(served.pid());
    let docker = match &options.docker {
        Some(socket) => Some(served::docker(socket).await),
        None => None,
    };
    reads(options, &server, &served, docker).await;
    let after = process::memory(served.pid());
    let hundred_thousand = (after.1 - before.1) * 100_000.0 / options.instances as f64;
    line("memory for 100,000 instances that are listed", &format!("{hundred_thousand:.0} MB"), "");
    creates(options, &served).await;
}

/// In turns: one by its id and a hundred, of the agent, of etcd, of Docker.
async fn reads(options: &Options, server: &etcd::Server, served: &Served, docker: Option<Target>) {
    let instances = options.instances;
    let one = served.target(Arc::new(move |number| format!("/v1/containers/1i{}", number % instances + 1)));
    let list = served.target(Arc::new(|_| "/v1/containers?limit=100".to_owned()));
    let (etcd_one, etcd_list) = (Target::etcd_one(&server.url, instances), Target::etcd_list(&server.url));
    // The first list reads all of them.
    let since = Instant::now();
    list.ask_once().await;
    line("the first list, which reads all of them", &format!("{:.1} s", since.elapsed().as_secs_f64()), "");
    let span = Duration::from_secs(options.seconds);
    let mut figures: Vec<(&str, Target, Figures)> = vec![
        ("GET of one", one.clone(), Figures::default()),
        ("GET of a list of 100", list, Figures::default()),
        ("etcd: range of one key", etcd_one, Figures::default()),
        ("etcd: range of 100 keys", etcd_list, Figures::default()),
    ];
    if let Some(docker) = docker {
        figures.push(("Docker: GET /containers/json, 100", docker, Figures::default()));
    }
    for _ in 0..options.rounds {
        for (_, target, seen) in &mut figures {
            seen.add(rate(target, options.connections, span).await);
        }
    }
    println!(
        "\nrequests a second, {} connections, {} rounds of {} s",
        options.connections, options.rounds, options.seconds
    );
    for (what, _, seen) in &figures {
        line(what, &seen.told(0), "");
    }
    println!("\nratios, round by round");
    let of = |index: usize| &figures[index].2;
    line("GET of one / etcd's range of one", &of(0).against(of(2)).told(2), "");
    line("list of 100 / etcd's range of 100", &of(1).against(of(3)).told(2), "");
    if figures.len() > 4 {
        line("GET of one / Docker's list", &of(0).against(of(4)).told(1), "10");
        line("list of 100 / Docker's list", &of(1).against(of(4)).told(1), "10");
    }
    let half = of(0).median() / 2.0;
    let times = spread(&one, options.connections, half, span * 2).await;
    println!("\nGET of one at half of that, {half:.0} a second");
    for (name, share) in [("median", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let goal = if name == "p99" { "5 ms" } else { "" };
        line(name, &format!("{:.2} ms", times[(times.len() as f64 * share) as usize] * 1e3), goal);
    }
}

/// Simulated instances over HTTP, one a request, until all run.
async fn creates(options: &Options, served: &Served) {
    served.bring_up("sim1").await;
    let (created, running) = served.create(options.created, options.connections).await;
    println!("\n{} simulated instances, one a request, {} at once", options.created, options.connections);
    line("all created", &format!("{:.2} s ({:.0} a second)", created, options.created as f64 / created), "");
    line("all running", &format!("{running:.2} s"), "");
}
