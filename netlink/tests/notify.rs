//! Notifications on the real kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use stampede_netlink::{
    link::{LinkKind, LinkSpec, Settings},
    nftables::{Family, Table},
    notify::{Event, Monitor, RulesEvent, RulesMonitor},
    route::{PROTOCOL, RouteSpec},
};
use support::{Namespace, PATIENCE, changed};
use tokio::time::timeout;

/// Waits for an event that fits, passing over others.
async fn until(monitor: &mut Monitor, fits: impl Fn(&Event) -> bool) -> Event {
    let search = async {
        loop {
            let event = monitor.next().await.unwrap();
            if fits(&event) {
                return event;
            }
        }
    };
    timeout(PATIENCE, search).await.expect("an event in time")
}

#[tokio::test]
async fn links_addresses_and_routes_are_told() {
    let host = Namespace::new().await;
    let mut monitor = Monitor::open(Some(host.fd())).unwrap();
    let index = host.netlink.ensure_link(&LinkSpec::new("br0", LinkKind::Bridge)).await.unwrap().index;
    let event = until(&mut monitor, |event| matches!(event, Event::Link(link) if link.up)).await;
    assert!(matches!(event, Event::Link(link) if link.name == "br0" && link.kind == "bridge"));
    host.up("br0", &[("10.42.0.1", 24)]).await;
    until(&mut monitor, |event| matches!(event, Event::Address { link, .. } if *link == index)).await;
    let route = RouteSpec::unreachable("10.43.0.0/16".parse().unwrap());
    changed(host.netlink.reconcile_routes(&[route]).await.unwrap());
    until(&mut monitor, |event| *event == Event::Route { protocol: PROTOCOL }).await;
    host.tool(&["ip", "link", "delete", "br0"]);
    until(&mut monitor, |event| matches!(event, Event::LinkGone(link) if link.index == index)).await;
}

#[tokio::test]
async fn who_reads_too_slowly_is_told_to_look_at_everything() {
    let host = Namespace::new().await;
    let mut monitor = Monitor::open(Some(host.fd())).unwrap();
    host.netlink.ensure_link(&LinkSpec::new("br0", LinkKind::Bridge)).await.unwrap();
    for round in 0..10_000u32 {
        let settings = Settings { mtu: Some(1280 + round % 2), ..Settings::default() };
        host.netlink.set_link("br0", &settings).await.unwrap();
    }
    until(&mut monitor, |event| *event == Event::Overrun).await;
    // It goes on after that: what waits is drained, and news come.
    while let Ok(event) = timeout(Duration::from_millis(200), monitor.next()).await {
        event.unwrap();
    }
    host.netlink.delete_link("br0").await.unwrap();
    until(&mut monitor, |event| matches!(event, Event::LinkGone(link) if link.name == "br0")).await;
}

#[tokio::test]
async fn a_flush_by_somebody_else_is_told_with_its_name() {
    let host = Namespace::new().await;
    let mut monitor = RulesMonitor::open(Some(host.fd())).unwrap();
    let table = Table {
        family: Family::Inet,
        name: "stampede".to_owned(),
        comment: "a test".to_owned(),
        sets: Vec::new(),
        chains: Vec::new(),
    };
    host.netlink.ensure_table(&table).await.unwrap();
    let ours = timeout(PATIENCE, monitor.next()).await.unwrap().unwrap();
    let RulesEvent::Committed { generation, name, .. } = ours else { panic!("{ours:?}") };
    assert_ne!(name, "nft");
    host.tool(&["nft", "flush", "ruleset"]);
    let theirs = timeout(PATIENCE, monitor.next()).await.unwrap().unwrap();
    let RulesEvent::Committed { generation: next, name, .. } = theirs else { panic!("{theirs:?}") };
    assert_eq!((next, name.as_str()), (generation + 1, "nft"));
}
