//! `scripts/bench mesh`: what a host with many peers has to set up, ours against `ip -batch` and `bridge -batch`.
//!
//! A peer is two associations, a policy, a neighbour, a forwarding entry and a route. Each round is made in a namespace of its own,
//! the two in turns.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a measurement that cannot go on has failed"
)]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::IpAddr,
    time::{Duration, Instant},
};

use stampede_netlink::{
    Mac, Prefix,
    link::{LinkKind, LinkSpec, Vxlan},
    route::RouteSpec,
    xfrm::{
        Action, AeadKey, AssociationChange, AssociationSpec, Direction, PRIORITIES, PolicySpec, Selector, Template,
        Xfrm,
    },
};
use support::{Namespace, changed, ip};

const OWN: &str = "198.18.0.1";
const PORT: u16 = 14789;

/// All that a host should have for its peers.
struct Mesh {
    associations: Vec<AssociationSpec>,
    policies: Vec<PolicySpec>,
    neighbours: BTreeMap<IpAddr, Mac>,
    forwarding: BTreeMap<Mac, IpAddr>,
    routes: Vec<RouteSpec>,
}

fn underlay(peer: u32) -> IpAddr {
    ip(&format!("198.19.{}.{}", peer >> 8, peer & 255))
}

fn router(peer: u32) -> IpAddr {
    ip(&format!("10.42.{}.{}", peer / 4, peer % 4 * 64 + 1))
}

fn mac(peer: u32) -> Mac {
    let [_, _, high, low] = peer.to_be_bytes();
    Mac([2, 0, 2, 0, high, low])
}

/// A key for a peer; the round makes it another one.
fn material(peer: u32, round: u8, out: bool) -> [u8; 36] {
    let mut bytes = [round | 0x40; 36];
    bytes[..4].copy_from_slice(&peer.to_be_bytes());
    bytes[4] = u8::from(out);
    bytes
}

fn association(peer: u32, round: u8, out: bool) -> AssociationSpec {
    let key = AeadKey::aes256(&material(peer, round, out));
    let generations = 0x8000_0000 | u32::from(round) << 25;
    let mut spec = if out {
        AssociationSpec::new(ip(OWN), underlay(peer), generations | 1, key)
    } else {
        AssociationSpec::new(underlay(peer), ip(OWN), generations | (peer + 2), key)
    };
    spec.selector = spec.selector.udp_to(PORT);
    spec
}

fn policy(peer: u32) -> PolicySpec {
    let between = Selector::between(Prefix::host(ip(OWN)), Prefix::host(underlay(peer))).udp_to(PORT);
    PolicySpec::new(Direction::Out, between, Action::Protect(vec![Template::transport(true)]), *PRIORITIES.start())
}

fn mesh(peers: u32) -> Mesh {
    let all = || 0..peers;
    let route = |peer| {
        let block = Prefix::new(router(peer), 26).unwrap();
        RouteSpec { via: Some(router(peer)), onlink: true, ..RouteSpec::on(block, "overlay") }
    };
    Mesh {
        associations: all().flat_map(|peer| [association(peer, 0, false), association(peer, 0, true)]).collect(),
        policies: all().map(policy).collect(),
        neighbours: all().map(|peer| (router(peer), mac(peer))).collect(),
        forwarding: all().map(|peer| (mac(peer), underlay(peer))).collect(),
        routes: all().map(route).collect(),
    }
}

struct Host {
    namespace: Namespace,
    xfrm: Xfrm,
    overlay: u32,
}

impl Host {
    async fn new() -> Self {
        let namespace = Namespace::new().await;
        namespace.up("lo", &[(OWN, 32)]).await;
        let kind = LinkKind::Vxlan(Vxlan { vni: 42, port: PORT, local: ip(OWN), learning: false, group_policy: false });
        namespace.netlink.ensure_link(&LinkSpec { mtu: Some(1380), ..LinkSpec::new("overlay", kind) }).await.unwrap();
        let overlay = namespace.up("overlay", &[("10.42.255.1", 32)]).await;
        Self { xfrm: Xfrm::open_in(namespace.fd()).unwrap(), namespace, overlay }
    }

    /// Makes it all so; how many changes that took.
    async fn ensure(&self, mesh: &Mesh) -> usize {
        let netlink = &self.namespace.netlink;
        changed(self.xfrm.reconcile_associations(&mesh.associations).await.unwrap())
            + changed(self.xfrm.reconcile_policies(&mesh.policies).await.unwrap())
            + changed(netlink.reconcile_neighbours(self.overlay, &mesh.neighbours).await.unwrap())
            + changed(netlink.reconcile_forwarding(self.overlay, &mesh.forwarding).await.unwrap())
            + changed(netlink.reconcile_routes(&mesh.routes).await.unwrap())
    }

    fn batch(&self, tool: &str, lines: &str) {
        let file = format!("/tmp/{tool}.batch");
        std::fs::write(&file, lines).unwrap();
        self.namespace.tool(&[tool, "-batch", &file]);
    }
}

fn state_line(spec: &AssociationSpec, material: &[u8; 36]) -> String {
    let hex: String = material.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    });
    format!(
        "xfrm state add src {} dst {} proto esp spi {:#x} reqid 183 mode transport replay-window 1024 flag esn \
         aead rfc4106(gcm(aes)) 0x{hex} 128 sel src {} dst {} proto udp dport {PORT}\n",
        spec.source, spec.id.destination, spec.id.spi, spec.selector.source, spec.selector.destination
    )
}

/// The same as `ip` and `bridge` want it.
fn lines(peers: u32) -> (String, String) {
    let (mut for_ip, mut for_bridge) = (String::new(), String::new());
    for peer in 0..peers {
        let (outer, via) = (underlay(peer), router(peer));
        for out in [false, true] {
            for_ip += &state_line(&association(peer, 0, out), &material(peer, 0, out));
        }
        writeln!(
            for_ip,
            "xfrm policy add src {OWN}/32 dst {outer}/32 proto udp dport {PORT} dir out priority 183000 \
             tmpl proto esp reqid 183 mode transport\n\
             neigh add {via} lladdr {} dev overlay nud permanent\n\
             route add {} via {via} dev overlay onlink proto 183",
            mac(peer),
            Prefix::new(via, 26).unwrap(),
        )
        .unwrap();
        writeln!(for_bridge, "fdb add {} dev overlay dst {outer} self permanent", mac(peer)).unwrap();
    }
    (for_ip, for_bridge)
}

fn report(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let median = times[times.len() / 2];
    let shown: Vec<_> = times.iter().map(|time| format!("{:.1}", time.as_secs_f64() * 1000.0)).collect();
    println!("{what:<58} {:>8.1} ms   ({})", median.as_secs_f64() * 1000.0, shown.join(" "));
    median
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut words = std::env::args().skip(1);
    let peers: u32 = words.next().map_or(1000, |word| word.parse().expect("a number of peers, at most 1020"));
    let rounds: u8 = words.next().map_or(5, |word| word.parse().expect("a number of rounds, at most 30"));
    let wanted = mesh(peers);
    let (for_ip, for_bridge) = lines(peers);
    let (mut ours, mut theirs, mut resync) = (Vec::new(), Vec::new(), Vec::new());
    let (mut one, mut one_theirs) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let host = Host::new().await;
        let begin = Instant::now();
        let made = host.ensure(&wanted).await;
        ours.push(begin.elapsed());
        assert_eq!(made, 6 * peers as usize);

        let begin = Instant::now();
        assert_eq!(host.ensure(&wanted).await, 0, "an unchanged run writes nothing");
        resync.push(begin.elapsed());

        // One peer's new key: its way in and its way out, and the old ones go.
        let peer = peers / 2;
        let swap = |out| {
            let old = association(peer, 0, out).id;
            [AssociationChange::Add(association(peer, round, out)), AssociationChange::Remove(old)]
        };
        let begin = Instant::now();
        let changes = [swap(false), swap(true)].concat();
        assert_eq!(changed(host.xfrm.change_associations(changes).await.unwrap()), 4);
        one.push(begin.elapsed());

        let host = Host::new().await;
        let begin = Instant::now();
        host.batch("ip", &for_ip);
        host.batch("bridge", &for_bridge);
        theirs.push(begin.elapsed());
        // The same came of it: nothing is left to do.
        assert_eq!(host.ensure(&wanted).await, 0);
        let mut change = String::new();
        for out in [false, true] {
            change += &state_line(&association(peer, round, out), &material(peer, round, out));
            let old = association(peer, 0, out);
            writeln!(
                change,
                "xfrm state delete src {} dst {} proto esp spi {:#x}",
                old.source, old.id.destination, old.id.spi
            )
            .unwrap();
        }
        let begin = Instant::now();
        host.batch("ip", &change);
        one_theirs.push(begin.elapsed());
    }
    println!("{peers} peers: {} associations, {peers} policies, neighbours, forwarding entries and routes", 2 * peers);
    let ours = report("all from nothing, ours", ours);
    let theirs = report("all from nothing, ip -batch and bridge -batch", theirs);
    println!("{:<58} {:>8.2}", "  ours to theirs (goal: at most 0.50)", ours.as_secs_f64() / theirs.as_secs_f64());
    report("looked at again, nothing changed (0 writes)", resync);
    let one = report("a new key for one among them, ours", one);
    let one_theirs = report("a new key for one among them, ip -batch", one_theirs);
    println!("{:<58} {:>8.2}", "  ours to theirs (goal: at most 0.50)", one.as_secs_f64() / one_theirs.as_secs_f64());
}
