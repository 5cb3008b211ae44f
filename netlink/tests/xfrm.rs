//! IPsec on the real kernel, each test in namespaces of its own.
//!
//! Policies every kernel has. What needs ESP is ignored here and run in an emulated machine by `scripts/test --kernel`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod support;
#[path = "xfrm/esp.rs"]
mod esp;

use std::time::Duration;

use stampede_netlink::{
    Mac, Prefix,
    link::{PortFlags, VethSpec},
    xfrm::{
        Action, Direction, Lifetimes, Limits, Mark, PRIORITIES, PolicyChange, PolicySpec, Selector, Statistics,
        Template, Xfrm, XfrmEvent, XfrmMonitor,
    },
};
use support::{Namespace, PATIENCE, changed, exchange, ip};
use tokio::time::timeout;

const PROTECT: u32 = *PRIORITIES.start();
const BLOCK: u32 = PROTECT + 1;
const PORT: u16 = 14789;
const ONE: &str = "198.18.0.1";
const TWO: &str = "198.18.0.2";

pub(crate) fn xfrm(host: &Namespace) -> Xfrm {
    Xfrm::open_in(host.fd()).unwrap()
}

/// Two hosts with a wire between them.
pub(crate) async fn wired() -> (Namespace, Namespace) {
    let (one, two) = (Namespace::new().await, Namespace::new().await);
    let wire = VethSpec {
        name: "wire".to_owned(),
        peer: "wirep".to_owned(),
        mtu: 1500,
        mac: None,
        peer_mac: Mac([2, 0, 0, 0, 0, 2]),
        master: None,
        port: PortFlags::default(),
        alias: None,
    };
    one.netlink.create_veth(&wire).await.unwrap();
    one.netlink.move_link("wirep", two.fd()).await.unwrap();
    one.up("wire", &[(ONE, 24)]).await;
    two.up("wirep", &[(TWO, 24)]).await;
    (one, two)
}

/// Nothing leaves or arrives on the port in plain text.
pub(crate) fn closed() -> Vec<PolicySpec> {
    let overlay = Selector::everything(true).udp_to(PORT);
    vec![
        PolicySpec::new(Direction::Out, overlay, Action::Block, BLOCK),
        PolicySpec::new(Direction::In, overlay, Action::Protect(vec![Template::transport(true)]), BLOCK),
    ]
}

/// What goes to this peer goes through an association.
pub(crate) fn towards(own: &str, peer: &str) -> PolicySpec {
    let between = Selector::between(Prefix::host(ip(own)), Prefix::host(ip(peer)));
    PolicySpec::new(Direction::Out, between.udp_to(PORT), Action::Protect(vec![Template::transport(true)]), PROTECT)
}

/// Waits for an event that fits, passing over others.
pub(crate) async fn until(monitor: &mut XfrmMonitor, fits: impl Fn(&XfrmEvent) -> bool) -> XfrmEvent {
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
async fn policies_become_what_is_desired_and_a_second_run_changes_nothing() {
    let host = Namespace::new().await;
    let xfrm = xfrm(&host);
    let mut desired = closed();
    desired.push(towards("198.18.0.1", "198.18.0.2"));
    let v6 = Selector::between("fd00::/64".parse().unwrap(), "fd01::1".parse().unwrap());
    let mut rich = PolicySpec::new(Direction::Forward, v6.from_port(7), Action::Pass, PROTECT + 7);
    rich.id.selector.protocol = 6;
    rich.id.mark = Mark { value: 4, mask: 0xff };
    rich.id.interface_id = 9;
    rich.lifetimes = Lifetimes { bytes: Limits { soft: Some(1 << 40), hard: None }, ..Lifetimes::default() };
    desired.push(rich.clone());
    assert_eq!(changed(xfrm.reconcile_policies(&desired).await.unwrap()), 4);
    assert!(xfrm.reconcile_policies(&desired).await.unwrap().is_unchanged());
    let policies = xfrm.policies().await.unwrap();
    assert_eq!(policies.len(), 4);
    assert_eq!(xfrm.policy(&rich.id).await.unwrap().unwrap().spec, rich);

    // One that differs is replaced at once, and one that is not desired goes.
    desired[2].action = Action::Block;
    desired.pop();
    let outcome = xfrm.reconcile_policies(&desired).await.unwrap();
    assert_eq!(outcome.made, [PolicyChange::Replace(desired[2].clone()), PolicyChange::Remove(rich.id)]);
    assert!(xfrm.policy(&rich.id).await.unwrap().is_none());
    assert!(xfrm.reconcile_policies(&desired).await.unwrap().is_unchanged());
    let shown = host.tool(&["ip", "xfrm", "policy"]);
    assert!(shown.contains("dir out action block priority 183001"), "{shown}");
    assert!(shown.contains("src 198.18.0.1/32 dst 198.18.0.2/32 proto udp dport 14789"), "{shown}");
    assert!(shown.contains("proto esp reqid 183 mode transport"), "{shown}");
}

#[tokio::test]
async fn policies_of_others_stay_and_are_not_taken_over() {
    let host = Namespace::new().await;
    let xfrm = xfrm(&host);
    let theirs =
        ["src", "0.0.0.0/0", "dst", "0.0.0.0/0", "proto", "udp", "dport", "14789", "dir", "out", "action", "block"];
    host.tool(&[&["ip", "xfrm", "policy", "add"], theirs.as_slice(), &["priority", "5"]].concat());
    let outcome = xfrm.reconcile_policies(&closed()).await.unwrap();
    assert_eq!((outcome.made.len(), outcome.failed.len()), (1, 1));
    assert!(outcome.failed[0].1.is_exists(), "{:?}", outcome.failed);
    changed(xfrm.reconcile_policies(&[]).await.unwrap());
    let left = xfrm.policies().await.unwrap();
    assert_eq!(left.iter().map(|policy| policy.spec.priority).collect::<Vec<_>>(), [5]);
}

#[tokio::test]
async fn nothing_leaves_or_arrives_in_plain_text_where_it_is_blocked() {
    let (one, two) = wired().await;
    let server = two.udp(&format!("{TWO}:{PORT}"));
    let client = one.udp(&format!("{ONE}:0"));
    let to = format!("{TWO}:{PORT}");
    exchange(&client, &server, &to).unwrap();

    // The way in.
    let (sender, receiver) = (xfrm(&one), xfrm(&two));
    changed(receiver.reconcile_policies(&closed()).await.unwrap());
    let dropped = || two.run(|| Statistics::read().unwrap()).plain_text_in();
    let before = dropped();
    client.send_to(b"plain", &to).unwrap();
    server.set_nonblocking(true).unwrap();
    while dropped() == before {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(server.recv_from(&mut [0; 16]).is_err());

    // And the way out: the sender itself is told.
    changed(sender.reconcile_policies(&closed()).await.unwrap());
    changed(receiver.reconcile_policies(&[]).await.unwrap());
    assert!(client.send_to(b"plain", &to).is_err());
    // For a peer that is to be protected and has no association it stays so.
    let mut protected = closed();
    protected.push(towards(ONE, TWO));
    changed(sender.reconcile_policies(&protected).await.unwrap());
    let _ = client.send_to(b"plain", &to);

    // Other ports are not touched; what comes here now came after all that was sent there.
    let (other, asker) = (two.udp(&format!("{TWO}:14000")), one.udp(&format!("{ONE}:0")));
    exchange(&asker, &other, &format!("{TWO}:14000")).unwrap();
    assert!(server.recv_from(&mut [0; 16]).is_err());
    // With the policies gone all is as before.
    changed(sender.reconcile_policies(&[]).await.unwrap());
    server.set_nonblocking(false).unwrap();
    exchange(&one.udp(&format!("{ONE}:0")), &server, &to).unwrap();
}

#[tokio::test]
async fn a_flush_by_somebody_else_is_told() {
    let host = Namespace::new().await;
    let xfrm = xfrm(&host);
    let mut monitor = XfrmMonitor::open(Some(host.fd()), false).unwrap();
    changed(xfrm.reconcile_policies(&closed()).await.unwrap());
    until(&mut monitor, |event| *event == XfrmEvent::PolicyChanged).await;
    host.tool(&["ip", "xfrm", "policy", "flush"]);
    until(&mut monitor, |event| *event == XfrmEvent::PoliciesFlushed).await;
    host.tool(&["ip", "xfrm", "state", "flush"]);
    assert_eq!(changed(xfrm.reconcile_policies(&closed()).await.unwrap()), 2);
}

#[tokio::test]
async fn a_thousand_peers_policies_are_made_and_changed() {
    let host = Namespace::new().await;
    let xfrm = xfrm(&host);
    let peers = (0..1000u32).map(|peer| towards("198.18.0.1", &format!("198.19.{}.{}", peer >> 8, peer & 255)));
    let mut desired: Vec<_> = closed().into_iter().chain(peers).collect();
    assert_eq!(changed(xfrm.reconcile_policies(&desired).await.unwrap()), 1002);
    desired[500].action = Action::Block;
    assert_eq!(changed(xfrm.reconcile_policies(&desired).await.unwrap()), 1);
    assert!(xfrm.reconcile_policies(&desired).await.unwrap().is_unchanged());
    assert_eq!(changed(xfrm.reconcile_policies(&[]).await.unwrap()), 1002);
}
