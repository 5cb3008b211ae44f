//! Hosts that encrypt, on a kernel with ESP: what the wire shows, and what happens to packets while keys change, agents start anew and
//! somebody takes associations away.

use super::eyes::{Kind, Wire};
use super::support::{Namespace, PATIENCE, eventually, exchange, ip};
use super::traffic::Traffic;
use super::wire::{ESP_PORTS, Member, World, environment};
use crate::network::Protection;
use crate::network::ipsec::rotation::{GRACE, PERIOD};
use crate::network::report::{PeerReport, PeerState};
use stampede_netlink::xfrm::{AeadKey, AssociationChange, AssociationSpec};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What a pair may be without each other while an agent starts anew with another setting or its host gets another address. About a
/// second, of an emulated processor that others use too; more than this would be a wait for something that does not come.
const GAP: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kernel_is_capable_or_what_is_missing_is_named() {
    let host = Namespace::new().await;
    for ipv4 in [true, false] {
        let checked = crate::network::ipsec::capability::check(&host.kernel(), &environment(), ipv4).await;
        if let Err(error) = checked {
            let text = error.to_string();
            assert!(text.contains(" is missing (") && text.contains("network.encryption = \"none\""), "{text}");
        }
        let left = host.kernel().xfrm().unwrap().associations().await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn three_hosts_find_each_other_and_the_wire_shows_esp_alone() {
    let world = World::new().await;
    let wire = Wire::watch(&world);
    let hosts = world.three().await;
    for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 2), (2, 1)] {
        hosts[from].asks(&hosts[to]).unwrap();
    }
    for host in &hosts {
        assert_eq!(host.associations().await, 4, "two a peer");
        assert_eq!(host.policies().await, 6, "two of each family, one a peer");
        let status = host.status();
        assert!(status.ready && status.problems.is_empty(), "{status:?}");
    }
    for host in &hosts {
        // Every ten seconds what the kernel counts is taken in.
        eventually("each says of both others that they are up", async || {
            let report = host.mesh().report();
            report.peers.iter().filter(|peer| peer.state == PeerState::Up && peer.traffic.bytes_in > 0).count() == 2
        })
        .await;
        let report = host.mesh().report();
        for peer in &report.peers {
            assert!(peer.up_since <= peer.heard && peer.rotated.is_some() && peer.associations == 2, "{peer:?}");
            assert!(peer.traffic.bytes_out > 0 && peer.address.is_some() && peer.reason.is_none(), "{peer:?}");
        }
        assert!(report.problems.is_empty(), "{report:?}");
    }
    let seen = wire.seen().await;
    assert!(seen[&Kind::Esp] >= 12, "{seen:?}");
    assert_eq!(seen.get(&Kind::Plain), None, "{seen:?}");
    // Nothing of a key in what the others can read.
    let record = world.record("h1").await;
    assert!(record.contains("\"encryption\":\"ipsec\"") && record.contains("\"seal\""), "{record}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn what_a_stranger_sends_in_plain_text_does_not_come_in() {
    // The forgery is good: where nothing is encrypted it comes in.
    for encrypts in [false, true] {
        let world = World::new().await;
        let mut hosts = Vec::new();
        for number in 1..=2 {
            let protection = if encrypts { world.protection() } else { Protection::None };
            hosts.push(world.member(number, protection).await);
        }
        world.meshed(&hosts).await;
        hosts[0].asks(&hosts[1]).unwrap();
        let server = hosts[0].listen(7001);
        server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        world.stranger(7001, &hosts[1], &hosts[0]).await;
        assert_eq!(server.recv_from(&mut [0; 64]).is_ok(), !encrypts);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn keys_change_under_traffic_and_no_packet_is_lost() {
    let world = World::new().await;
    let hosts = world.three().await;
    let wire = Wire::watch(&world);
    let traffic = Traffic::between(&hosts);
    let before = world.halves().await;
    traffic.goes_on(30).await;
    world.clock.forward(PERIOD);
    eventually("all hosts have new halves", async || {
        let now = world.halves().await;
        before.iter().all(|(host, halves)| now[host].iter().any(|half| !halves.contains(half)))
    })
    .await;
    eventually("and they are used", async || {
        let mut used = true;
        for host in &hosts {
            used &= host.newest_is_used().await;
        }
        used
    })
    .await;
    // After the grace the old ones go, everywhere.
    let forgets = async {
        loop {
            world.clock.forward(GRACE / 10);
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut done = world.halves().await.values().all(|halves| halves.len() == 1);
            for host in &hosts {
                done &= host.associations().await == 4;
            }
            if done {
                return;
            }
        }
    };
    tokio::time::timeout(4 * PATIENCE, forgets).await.expect("old keys go");
    let now = world.halves().await;
    assert!(before.iter().all(|(host, halves)| halves[0] != now[host][0]));
    traffic.goes_on(30).await;
    traffic.all_arrived(&hosts).await;
    assert_eq!(wire.seen().await.get(&Kind::Plain), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn an_agent_starts_anew_under_traffic_and_no_packet_is_lost() {
    let world = World::new().await;
    let mut hosts = world.three().await;
    let wire = Wire::watch(&world);
    let traffic = Traffic::between(&hosts);
    for restarted in [0, 1, 0] {
        let before = world.halves().await;
        let name = hosts[restarted].name.clone();
        hosts[restarted].restart(&world).await;
        eventually("it has a half of its own again, and it is used", async || {
            let now = world.halves().await;
            now[&name].last() != before[&name].last() && hosts[restarted].newest_is_used().await
        })
        .await;
        traffic.goes_on(30).await;
    }
    traffic.all_arrived(&hosts).await;
    assert_eq!(wire.seen().await.get(&Kind::Plain), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn the_clusters_secret_changes_under_traffic_and_no_packet_is_lost() {
    let world = World::new().await;
    let mut hosts = world.three_with_files().await;
    let wire = Wire::watch(&world);
    let traffic = Traffic::between(&hosts);
    let old = world.secrets_are_heard(&hosts);
    let next = "b".repeat(64);
    for host in &hosts[..2] {
        world.bring_next_secret(host, &next);
        traffic.goes_on(30).await;
        assert_eq!(world.secrets_are_heard(&hosts), old, "one has it not yet");
    }
    let before = world.halves().await;
    world.bring_next_secret(&hosts[2], &next);
    let new = world.secrets_are_heard(&hosts);
    assert!(new.len() == 1 && new != old, "{new:?}");
    eventually("all have halves under the new one, and they are used", async || {
        let now = world.halves().await;
        let mut used = now.iter().all(|(host, halves)| halves.last() != before[host].last());
        for host in &hosts {
            used &= host.newest_is_used().await;
        }
        used
    })
    .await;
    // An agent that starts in the middle goes on with it.
    hosts[1].restart(&world).await;
    hosts[1].uses_the_newest(PATIENCE).await;
    world.settle_secrets(&hosts);
    traffic.goes_on(30).await;
    for host in &hosts {
        assert!(host.status().problems.is_empty(), "{:?}", host.status());
    }
    traffic.all_arrived(&hosts).await;
    assert_eq!(wire.seen().await.get(&Kind::Plain), None);
    // Who has the old one alone is nobody's peer any more.
    hosts.push(world.member(4, world.protection()).await);
    eventually("it is refused", async || {
        hosts[0].mesh().report().peers.iter().any(|peer| peer.host == "h4" && peer.state == PeerState::Refused)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn encryption_is_turned_on_and_off_host_by_host_without_a_long_gap() {
    let world = World::new().await;
    let mut hosts = Vec::new();
    for number in 1..=3 {
        hosts.push(world.member(number, Protection::None).await);
    }
    world.meshed(&hosts).await;
    let wire = Wire::watch(&world);
    for (way, encrypted) in [([world.either(), world.protection()], true), ([world.either(), Protection::None], false)]
    {
        let traffic = Traffic::between(&hosts);
        for protection in way {
            for place in [0, 1, 2] {
                hosts[place].restart_with(&world, protection.clone()).await;
                // Nobody goes on to the next before this one is there again.
                for other in [(place + 1) % 3, (place + 2) % 3] {
                    let both = async || {
                        let [one, other] = [&hosts[place], &hosts[other]];
                        one.asks_soon(other).is_ok() && other.asks_soon(one).is_ok()
                    };
                    eventually("it is reached again", both).await;
                }
                traffic.goes_on(30).await;
            }
        }
        for host in hosts.iter().filter(|_| encrypted) {
            // Two that were started anew at once hold what they took over for half a minute.
            host.uses_the_newest(4 * PATIENCE).await;
        }
        let gap = traffic.longest_gap().await;
        assert!(gap < GAP, "{gap:?}");
        let before = wire.seen().await;
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            hosts[from].asks(&hosts[to]).unwrap();
        }
        let after = wire.seen().await;
        let more = |kind| after.get(&kind).unwrap_or(&0) - before.get(&kind).unwrap_or(&0);
        let [esp, plain] = [Kind::Esp, Kind::Plain].map(more);
        assert!(if encrypted { esp >= 6 && plain == 0 } else { esp == 0 && plain >= 6 }, "{esp} {plain}");
        for host in &hosts {
            assert!(host.status().problems.is_empty(), "{:?}", host.status());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn over_ipv6_it_is_the_same_in_udp_too() {
    let world = World::over_ipv6().await;
    let wire = Wire::watch(&world);
    let mut hosts = vec![
        world.member(1, world.protection()).await,
        world.member_in_udp(2, ESP_PORTS[0]).await,
        world.member_in_udp(3, ESP_PORTS[1]).await,
    ];
    world.meshed(&hosts).await;
    let traffic = Traffic::between(&hosts);
    traffic.goes_on(30).await;
    hosts[1].restart(&world).await;
    hosts[1].uses_the_newest(PATIENCE).await;
    traffic.goes_on(30).await;
    traffic.all_arrived(&hosts).await;
    let seen = wire.seen().await;
    assert!(seen[&Kind::Esp] > 20 && seen[&Kind::EspInUdp] > 20 && !seen.contains_key(&Kind::Plain), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn a_host_behind_address_translation_is_reached_at_its_public_address() {
    let world = World::new().await;
    let wire = Wire::watch(&world);
    let mut hosts = vec![world.member_in_udp(1, ESP_PORTS[0]).await, world.member(2, world.protection()).await];
    let (behind, _router) = world.member_behind(4, ESP_PORTS[1]).await;
    hosts.push(behind);
    for (from, to) in [(0, 1), (0, 2), (2, 0)] {
        eventually("they understand each other", async || hosts[from].asks_soon(&hosts[to]).is_ok()).await;
    }
    let [shown, other] = [0, 1].map(|place| hosts[place].mesh().report());
    let there = |peers: &[PeerReport]| peers.iter().find(|peer| peer.host == "h4").cloned().unwrap();
    assert_eq!(there(&shown.peers).address, Some("198.18.0.4".parse().unwrap()));
    let refused = there(&other.peers);
    assert_eq!(refused.state, PeerState::Refused, "{refused:?}");
    assert!(refused.reason.unwrap().contains("network.esp_udp_port"));

    let pair = [hosts.remove(0), hosts.remove(1)];
    let traffic = Traffic::between(&pair);
    traffic.goes_on(60).await;
    traffic.all_arrived(&pair).await;
    let seen = wire.seen().await;
    assert!(seen[&Kind::EspInUdp] > 100 && !seen.contains_key(&Kind::Plain), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn a_host_that_gets_another_address_is_reached_there_without_a_restart() {
    let world = World::new().await;
    let mut hosts = world.three().await;
    hosts[1].finds_its_address(&world).await;
    hosts[1].uses_the_newest(PATIENCE).await;
    let wire = Wire::watch(&world);
    let traffic = Traffic::between(&hosts);
    traffic.goes_on(30).await;
    hosts[1].moves(&world, 22).await;
    eventually("it is reached again", async || {
        hosts[0].asks_soon(&hosts[1]).is_ok() && hosts[1].asks_soon(&hosts[2]).is_ok()
    })
    .await;
    traffic.goes_on(30).await;
    let gap = traffic.longest_gap().await;
    assert!(gap < GAP, "{gap:?}");
    for host in &hosts {
        assert_eq!(host.about("198.18.0.2").await, 0, "what was for the old address is gone");
        assert!(host.status().problems.is_empty(), "{:?}", host.status());
    }
    assert_eq!(wire.seen().await.get(&Kind::Plain), None);
}

/// Each new way out has the kernel look for it anew; while its table of associations doubled, it would find none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn there_is_room_for_associations_and_none_is_missed_while_many_are_added() {
    let world = World::new().await;
    let mut hosts = Vec::new();
    for number in 1..=2 {
        hosts.push(world.member(number, world.protection()).await);
    }
    world.meshed(&hosts).await;
    // No agent that takes away what is added here.
    hosts[0].ends().await;
    let xfrm = hosts[0].namespace.kernel().xfrm().unwrap();
    let table = xfrm.association_table().await.unwrap();
    assert_eq!(table.associations, 2, "what made the room is gone");
    // A kernel that took its time has made even more.
    assert!(table.buckets >= 128, "{table:?}");

    let (before, socket, to) = (hosts[0].drops(), hosts[0].listen(0), hosts[1].at(7200));
    let over = Arc::new(AtomicBool::new(false));
    let stop = over.clone();
    let sender = std::thread::spawn(move || {
        let mut sent = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            sent += u64::from(socket.send_to(&[0; 100], &to).is_ok());
        }
        sent
    });
    for spi in 0x100..0x170 {
        let spec = AssociationSpec::new(ip("198.18.0.1"), ip("198.18.0.2"), spi, AeadKey::aes256(&[7; 36]));
        xfrm.change_associations(vec![AssociationChange::Add(spec)]).await.unwrap().into_result().unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    over.store(true, Ordering::Relaxed);
    let sent = sender.join().unwrap();
    let outs = xfrm.associations().await.unwrap();
    let outs = outs.iter().filter(|association| association.spec.source == ip("198.18.0.1"));
    let through: u64 = outs.map(|association| association.packets).sum();
    println!("{sent} packets while 112 ways out were added, {through} through one of them");
    assert!(sent > 100 && through >= sent);
    assert_eq!(hosts[0].drops(), before);
    assert_eq!(xfrm.association_table().await.unwrap().buckets, table.buckets);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn what_somebody_takes_away_is_back_at_once_with_new_keys() {
    let world = World::new().await;
    let hosts = world.three().await;
    let wire = Wire::watch(&world);
    let before = world.halves().await;
    hosts[0].namespace.tool(&["ip", "xfrm", "state", "flush"]);
    let since = tokio::time::Instant::now();
    eventually("it is understood again", async || {
        hosts[0].asks_soon(&hosts[1]).is_ok() && hosts[0].asks_soon(&hosts[2]).is_ok()
    })
    .await;
    // Seconds of an emulated processor: on a real one it is a tenth.
    println!("flushed associations were mended in {:?}", since.elapsed());
    assert!(since.elapsed() < Duration::from_secs(3), "{:?}", since.elapsed());
    let now = world.halves().await;
    assert!(now["h1"].last() != before["h1"].last(), "a flushed key comes back never");

    hosts[0].namespace.tool(&["ip", "xfrm", "policy", "flush"]);
    eventually("the policies are back", async || hosts[0].policies().await == 6).await;
    hosts[0].asks(&hosts[1]).unwrap();
    assert_eq!(wire.seen().await.get(&Kind::Plain), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn who_has_no_secret_another_or_does_not_encrypt_gets_nothing_and_is_told() {
    let world = World::new().await;
    let wire = Wire::watch(&world);
    let mut hosts = vec![world.member(1, world.protection()).await, world.member(2, world.protection()).await];
    world.meshed(&hosts).await;
    let tells = async |host: &Member, words: &[&str]| {
        host.until(words[0], |status| {
            status.problems.iter().any(|problem| words.iter().all(|word| problem.contains(word)))
        })
        .await;
    };
    // Another secret.
    let other = world.member(3, world.protection_by(&"b".repeat(64))).await;
    tells(&hosts[0], &["no overlay to h3", "seal"]).await;
    tells(&other, &["no overlay to h1", "seal"]).await;
    assert_eq!(other.associations().await, 0);
    // No encryption.
    let plain = world.member(4, Protection::None).await;
    tells(&hosts[0], &["no overlay to h4", "does not encrypt"]).await;
    tells(&plain, &["no overlay to h1", "it encrypts"]).await;
    for (asked, of) in [(&hosts[0], "h3"), (&hosts[0], "h4"), (&plain, "h1")] {
        let report = asked.mesh().report();
        let peer = report.peers.iter().find(|peer| peer.host == of).unwrap();
        assert!(peer.state == PeerState::Refused && peer.reason.is_some(), "{peer:?}");
    }
    // No secret at all: closed, until it is brought.
    let place = world.place();
    let late = world.member(5, world.protection_at(&place)).await;
    tells(&late, &["no cluster secret", "stampede join"]).await;
    assert!(!late.status().ready);
    for host in [&other, &plain, &late] {
        assert!(hosts[0].asks_soon(host).is_err() && host.asks_soon(&hosts[0]).is_err(), "{}", host.name);
    }
    // These were tried in plain text by the one that does not encrypt, and by nobody else.
    hosts[0].asks(&hosts[1]).unwrap();
    world.bring_secret(&place);
    hosts.push(late);
    world.meshed(&hosts).await;
    hosts[2].asks(&hosts[0]).unwrap();
    let from_plain = wire.plain_but_from("198.18.0.4").await;
    assert_eq!(from_plain, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn a_host_that_was_cut_off_comes_back_and_one_that_left_is_forgotten() {
    let world = World::new().await;
    let hosts = world.three().await;
    let wire = Wire::watch(&world);
    world.cut(3, true);
    assert!(hosts[0].asks_soon(&hosts[2]).is_err());
    hosts[0].asks(&hosts[1]).unwrap();
    // Keys change meanwhile, at both ends.
    world.clock.forward(PERIOD);
    let before = world.halves().await;
    eventually("new halves", async || world.halves().await.values().all(|halves| halves.len() > 1)).await;
    drop(before);
    world.cut(3, false);
    eventually("it is back", async || hosts[0].asks_soon(&hosts[2]).is_ok() && hosts[2].asks_soon(&hosts[1]).is_ok())
        .await;

    // A reboot: nothing of it is left in its kernel.
    let [one, two, three] = <[Member; 3]>::try_from(hosts).ok().unwrap();
    three.leaves(&world);
    let again = world.member(3, world.protection()).await;
    let hosts = vec![one, two, again];
    eventually("it is back after a boot", async || {
        hosts[2].asks_soon(&hosts[0]).is_ok() && hosts[1].asks_soon(&hosts[2]).is_ok()
    })
    .await;

    let [one, two, three] = <[Member; 3]>::try_from(hosts).ok().unwrap();
    three.leaves(&world);
    world.forget("h3").await;
    for host in [&one, &two] {
        eventually("its policy is gone", async || host.policies().await == 5).await;
        eventually("and its associations", async || host.about("198.18.0.3").await == 0).await;
    }
    one.asks(&two).unwrap();
    assert_eq!(wire.seen().await.get(&Kind::Plain), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn a_host_that_encrypts_no_more_leaves_nothing_behind() {
    let world = World::new().await;
    let mut hosts = vec![world.member(1, world.protection()).await, world.member(2, world.protection()).await];
    world.meshed(&hosts).await;
    hosts[0].asks(&hosts[1]).unwrap();
    for host in &mut hosts {
        host.restart_with(&world, Protection::None).await;
    }
    for host in &hosts {
        eventually("nothing is left", async || host.policies().await + host.associations().await == 0).await;
    }
    eventually("they understand each other", async || hosts[0].asks_soon(&hosts[1]).is_ok()).await;
    let (client, server) = (hosts[1].listen(0), hosts[0].listen(7005));
    exchange(&client, &server, &hosts[0].at(7005)).unwrap();
    assert!(!world.record("h1").await.contains("seal"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a kernel with ESP: scripts/test --kernel"]
async fn esp_in_udp_between_those_that_take_it_and_no_packet_is_lost_with_an_agent() {
    let world = World::new().await;
    let mut hosts = vec![world.member_in_udp(1, ESP_PORTS[0]).await, world.member_in_udp(2, ESP_PORTS[1]).await];
    world.meshed(&hosts).await;
    let wire = Wire::watch(&world);
    hosts[0].asks(&hosts[1]).unwrap();
    wire.shows(Kind::EspInUdp, 2).await;
    let seen = wire.seen().await;
    assert!(!seen.contains_key(&Kind::Esp), "{seen:?}");
    // One that takes none has protocol 50 with both.
    hosts.push(world.member(3, world.protection()).await);
    world.meshed(&hosts).await;
    hosts[2].asks(&hosts[0]).unwrap();
    for (host, expected) in hosts.iter().zip([2, 2, 0]) {
        let all = host.all().await;
        let in_udp = all.iter().filter(|association| association.spec.encapsulation.is_some()).count();
        assert_eq!(in_udp, expected, "{}", host.name);
    }
    wire.shows(Kind::Esp, 2).await;
    let seen = wire.seen().await;
    assert!(!seen.contains_key(&Kind::Plain), "{seen:?}");

    let traffic = Traffic::between(&hosts);
    traffic.goes_on(30).await;
    for host in hosts.iter_mut().take(2) {
        host.restart(&world).await;
        host.uses_the_newest(PATIENCE).await;
    }
    traffic.goes_on(30).await;
    traffic.all_arrived(&hosts).await;
}
