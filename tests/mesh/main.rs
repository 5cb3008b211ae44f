//! Whole agents under a kernel with ESP: the program itself, three times, each in a network namespace that is its host, with a real
//! etcd and a wire between them that is looked at. `scripts/test --kernel`.

// All of this is test code, also what stands outside of test functions; and the program is run here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_types, clippy::disallowed_methods)]

mod host;
mod wire;
mod world;

use host::{Host, Pings};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};
use wire::Kind;
use world::{World, times};

const NEEDS: &str = "these run in the emulated machine alone: scripts/test --kernel";

#[test]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
fn hosts_join_encrypt_and_leave_and_agents_that_die_cost_no_packet() {
    let world = World::new();
    let mut hosts = world.three();
    all_reach_each_other(&world, &hosts);
    what_a_host_has_is_short(&hosts);
    // What the kernel encrypts with is nowhere else: not in etcd's files, no log and no answer of the API.
    let keys: Vec<Vec<u8>> = hosts.iter().flat_map(Host::keys).collect();
    assert_eq!(keys.len(), 12, "of each pair each way, at both ends");
    world.nowhere("a key", &hosts, &keys);
    world.nowhere("the cluster's secret", &hosts, &[hosts[0].secret()]);
    // Nor do they stay in an agent's memory. The cluster's secret does: keys are derived from it all the time.
    for host in &hosts {
        world.until("no key is in its memory", || {
            let memory = host.memory();
            assert!(times(&memory, &host.secret()) > 0, "that is not the memory of {}", host.name);
            keys.iter().all(|key| times(&memory, key) == 0)
        });
    }
    // Of SIGSEGV that is sent, and not met, a Rust program does not end.
    for signal in [Signal::SIGKILL, Signal::SIGABRT, Signal::SIGTERM] {
        an_agent_ends(&world, &mut hosts, signal);
    }
    assert_eq!(world.cores(), 0);
    associations_are_flushed(&world, &hosts);
    a_host_leaves(&world, &mut hosts);
    assert_eq!(world.wire.seen().get(&Kind::Plain), None);
}

fn all_reach_each_other(world: &World, hosts: &[Host]) {
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        assert_eq!(hosts[from].ping(&hosts[to], 2), 0, "h{} to h{}", from + 1, to + 1);
    }
    let seen = world.wire.seen();
    assert!(seen[&Kind::Esp] >= 24, "{seen:?}");
    assert_eq!(seen.get(&Kind::Plain), None, "{seen:?}");
}

/// As docs/ipsec.md says.
fn what_a_host_has_is_short(hosts: &[Host]) {
    for host in hosts {
        assert_eq!(host.ip(&["xfrm", "state"]).lines().filter(|line| line.starts_with("src ")).count(), 4);
        assert_eq!(host.ip(&["xfrm", "policy"]).lines().filter(|line| line.starts_with("src ")).count(), 6);
        let routes = host.ip(&["route"]);
        assert_eq!(routes.lines().filter(|line| line.contains("dev stampede-vx")).count(), 2, "{routes}");
    }
}

fn an_agent_ends(world: &World, hosts: &mut [Host], signal: Signal) {
    let before = hosts[0].keys_out();
    let pings = [Pings::begin(&hosts[0], &hosts[1]), Pings::begin(&hosts[1], &hosts[0])];
    hosts[0].end(signal);
    std::thread::sleep(Duration::from_secs(1));
    hosts[0].start();
    // What others send under the old ones is taken in for some minutes more.
    world.until("it sends under other keys", || {
        let now = hosts[0].keys_out();
        now.len() == 2 && now.iter().all(|key| !before.contains(key))
    });
    world.meshed(hosts);
    for pings in pings {
        assert_eq!(pings.lost(), [0; 0], "{signal}");
    }
}

fn associations_are_flushed(world: &World, hosts: &[Host]) {
    let before = hosts[0].keys_out();
    hosts[0].ip(&["xfrm", "state", "flush"]);
    let flushed = Instant::now();
    world.until("it has other keys", || {
        let now = hosts[0].keys_out();
        now.len() == 2 && now.iter().all(|key| !before.contains(key))
    });
    println!("flushed associations were back after {:.1} s", flushed.elapsed().as_secs_f64());
    world.until("it is reached", || hosts[1].ping(&hosts[0], 1) == 0 && hosts[0].ping(&hosts[2], 1) == 0);
}

fn a_host_leaves(world: &World, hosts: &mut [Host]) {
    hosts[2].end(Signal::SIGTERM);
    let id = world.told("the host's id", || Some(hosts[0].says_of("h3", "id")).filter(|id| !id.is_empty()));
    world.told("it is removed", || hosts[0].try_run(&["stampede", "host", "remove", "--force", &id]));
    world.until("nothing of it is left", || {
        hosts[..2].iter().all(|host| {
            let all = [&["xfrm", "state"][..], &["xfrm", "policy"], &["route"]].map(|words| host.ip(words)).concat();
            !all.contains("198.18.0.3") && host.keys_out().len() == 1
        })
    });
    assert_eq!(hosts[0].ping(&hosts[1], 2), 0);
}

#[test]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
fn hosts_that_boot_were_cut_off_or_had_another_secret_are_back() {
    let world = World::new();
    let mut hosts = world.three();
    // The power goes: agent, links and associations.
    hosts[2].end(Signal::SIGKILL);
    hosts[2].unplug();
    hosts[2].boot();
    hosts[2].plug();
    hosts[2].start();
    // Another boot waits until the lease of the one before has ended.
    world.until("its lease is a new one", || hosts[2].is_active());
    let alive = Instant::now();
    world.until("it is reached", || hosts[0].ping(&hosts[2], 1) == 0 && hosts[2].ping(&hosts[1], 1) == 0);
    println!("a host that booted was reached {:.1} s after its lease", alive.elapsed().as_secs_f64());

    hosts[1].cable("down");
    world.until("its lease is over", || !["", "active"].contains(&hosts[0].says_of("h2", "state").as_str()));
    hosts[1].cable("up");
    let healed = Instant::now();
    world.until("it is reached", || hosts[0].ping(&hosts[1], 1) == 0 && hosts[1].ping(&hosts[2], 1) == 0);
    println!("a host that was cut off was reached {:.1} s after its cable was back", healed.elapsed().as_secs_f64());
    world.meshed(&hosts);

    hosts[2].end(Signal::SIGKILL);
    let own = hosts[2].replace_secret(&"b".repeat(64));
    let said = hosts[2].refused();
    assert!(said.contains("secret"), "{said}");
    assert_eq!(hosts[0].ping(&hosts[1], 2), 0, "the others go on");
    hosts[2].replace_secret(&own);
    hosts[2].start();
    world.meshed(&hosts);
    all_reach_each_other(&world, &hosts);
}
