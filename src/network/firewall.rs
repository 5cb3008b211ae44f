//! Rules: one nftables table of ours, `inet stampede`, and two marked rules in Docker's chain for others' rules.
//!
//! - What comes in by any interface that is not ours with a source in the managed subnet is a forgery and dropped.
//! - What leaves the managed subnet for elsewhere gets this host's address (masquerade); what stays in it keeps its own.
//! - What is sent to this host itself, at a published port or by a link, is led to who has that port: [`super::led`],
//!   [`super::hairpin`]. A link to nobody is refused at once.
//! - Metadata's address is led to the agent: [`metadata::way`].
//! - Questions for names by what Docker started by itself are led to the agent.
//! - Where accounts are apart, what is another's is dropped: [`super::apart`].
//! - Connections are told the segment size that fits their way (the overlay's MTU is smaller than the rest's).
//!
//! An accept of ours decides nothing where a chain of Docker drops, so the two rules stand in DOCKER-USER, which Docker
//! jumps to first and leaves to others. Docker makes the chain anew when it starts: they are watched and put back.

use super::apart;
use super::apply::Applied;
use super::datapath::Datapath;
use super::hairpin;
use super::kernel::{Error, Kernel};
use super::led::{DOCKER, FENCED, FLOATING, HERE, ITSELF, LEAVING, LINKS, Led, NUDGE, PORTS, REFUSED, RESOLVERS};
use super::metadata;
use super::overlay::{BRIDGE, OVERLAY};
use super::subnet::SubnetSpec;
use stampede_netlink::{
    Prefix,
    nftables::{
        Chain, ChainKind, Expression, Family, Field, ForeignChain, ForeignOutcome, Hook, Place, Protocol, Refusal,
        Rule, Side, Table, Target, Verdict,
    },
};
use std::net::{IpAddr, Ipv4Addr};

/// The table of ours.
pub const TABLE: &str = "stampede";
/// What the comments of our rules in others' chains begin with.
const MARK: &str = "stampede:";

/// nft's priorities: before connection tracking, among filters, and where sources are translated.
const RAW: i32 = -300;
const FILTER: i32 = 0;
/// Before other filters.
const REFUSE: i32 = -10;
const SOURCE_NAT: i32 = 100;
/// When sources are what the wire sees.
const LAST: i32 = 150;
/// Before Docker's own (-100), so that a port that both publish is ours; and right after it.
const DESTINATION_NAT: i32 = -105;
const LED: i32 = -50;
/// NF_DROP, as a chain's policy.
const DROP: u32 = 0;

fn chain(name: &str, kind: ChainKind, place: Place, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), hook: Some(Hook { kind, place, priority, drop: false }), rules }
}

/// Whom a container sees where its client's address cannot be kept.
fn as_nobody() -> (IpAddr, Expression) {
    let source = IpAddr::V4(hairpin::SOURCE);
    (source, Expression::SourceNat(Target::Address(source, None)))
}

/// What is seen to before connections are tracked.
fn first(managed: Prefix) -> Vec<Rule> {
    let others = [BRIDGE, OVERLAY, hairpin::OUT, hairpin::IN, "lo"].map(|link| Expression::from(link).but_not());
    let dropped = [Expression::source(managed), Expression::Counter, Expression::Verdict(Verdict::Drop)];
    let forged = Rule::new(others.into_iter().chain(dropped).collect::<Vec<_>>());
    let again = Rule::new([Expression::from(hairpin::IN), Expression::Untracked]);
    let back = Prefix::new(as_nobody().0, 32).map(|source| {
        Rule::new([Expression::from(BRIDGE), Expression::destination(source), Expression::Untracked])
            .comment("answers come back by the pair too")
    });
    let mut rules = vec![
        forged.comment("managed addresses come by managed interfaces only"),
        again.comment("what came round is led already"),
    ];
    rules.extend(back);
    rules
}

/// From whom packets come that leave.
fn sources(managed: Prefix) -> Vec<Rule> {
    let itself = vec![Field::Ipv4(Side::Source), Field::Ipv4(Side::Destination)];
    let asks_itself = Rule::new([
        Expression::to(hairpin::OUT),
        Expression::Lookup { key: itself, set: ITSELF.to_owned(), negated: false },
        as_nobody().1,
    ]);
    let from_loopback = hairpin::loopback().map(|loopback| {
        Rule::new([Expression::to(hairpin::OUT), Expression::source(loopback), as_nobody().1])
            .comment("from 127.0.0.1 of this host")
    });
    let out = || [Expression::source(managed), Expression::destination(managed).but_not()];
    let own = Target::Map { key: vec![Field::Ipv4(Side::Source)], map: LEAVING.to_owned(), port: false };
    let under_own = Rule::new(out().into_iter().chain([Expression::SourceNat(own)]).collect::<Vec<_>>());
    let leaving = Rule::new(out().into_iter().chain([Expression::Masquerade]).collect::<Vec<_>>());
    let mut rules = vec![asks_itself.comment("who asks for its own port would answer itself")];
    rules.extend(from_loopback);
    rules.push(under_own.comment("out of the managed network under its floating address"));
    rules.push(leaving.comment("out of the managed network under this host's address"));
    rules
}

/// Of a link: who asks, and at which port.
fn asker() -> Vec<Field> {
    vec![Field::Ipv4(Side::Source), Field::Protocol, Field::Port(Side::Destination)]
}

/// What instances send to where they find their links.
fn to_links(gateway: Option<Ipv4Addr>) -> Option<[Expression; 2]> {
    let gateway = Prefix::new(IpAddr::V4(gateway?), 32)?;
    Some([Expression::from(BRIDGE), Expression::destination(gateway)])
}

/// Links whose targets are not there: told at once, before a rule of somebody else's drops it, and before what listens on the
/// host at such a port hears of it.
fn refusals(gateway: Option<Ipv4Addr>) -> Vec<Rule> {
    let rule = |refusal| {
        let nobody = Expression::Lookup { key: asker(), set: REFUSED.to_owned(), negated: false };
        let protocol = match refusal {
            Refusal::Reset => Protocol::Tcp,
            Refusal::PortUnreachable => Protocol::Udp,
        };
        let expressions = to_links(gateway)?.into_iter();
        let rest = [Expression::Protocol(protocol), nobody, Expression::Reject(refusal)];
        Some(Rule::new(expressions.chain(rest).collect::<Vec<_>>()).comment("a link to nobody"))
    };
    [Refusal::Reset, Refusal::PortUnreachable].into_iter().filter_map(rule).collect()
}

/// Docker has the containers that it starts by itself ask whom the host asks, who knows nothing of names here; these questions
/// come to the agent, which asks the same servers for all other names.
fn names(gateway: Option<Ipv4Addr>) -> Vec<Rule> {
    const DNS: u16 = 53;
    let one_of = |side, set: &str| {
        let key = vec![Field::Ipv4(side)];
        Expression::Lookup { key, set: set.to_owned(), negated: false }
    };
    let rule = |protocol| {
        let here = Expression::DestinationNat(Target::Address(IpAddr::V4(gateway?), None));
        let from = [Expression::from(BRIDGE), one_of(Side::Source, DOCKER), one_of(Side::Destination, RESOLVERS)];
        let rest = [Expression::Port(protocol, Side::Destination, DNS..=DNS), here];
        Some(Rule::new(from.into_iter().chain(rest).collect::<Vec<_>>()).comment("names, asked by what Docker started"))
    };
    [Protocol::Udp, Protocol::Tcp].into_iter().filter_map(rule).collect()
}

/// The table as it should be.
pub(super) fn table(managed: Prefix, all: &Led) -> Table {
    let key = vec![Field::Protocol, Field::Port(Side::Destination)];
    let led = Rule::new([
        Expression::ToThisHost,
        Expression::DestinationNat(Target::Map { key, map: PORTS.to_owned(), port: true }),
    ]);
    let floating = Rule::new([
        Expression::ToThisHost,
        Expression::DestinationNat(Target::Map {
            key: vec![Field::Ipv4(Side::Destination)],
            map: FLOATING.to_owned(),
            port: false,
        }),
    ]);
    let fenced = Rule::new([
        Expression::Lookup { key: vec![Field::Ipv4(Side::Source)], set: FENCED.to_owned(), negated: false },
        Expression::NotFromThisHost,
        Expression::Counter,
        Expression::Verdict(Verdict::Drop),
    ]);
    let linked = to_links(all.gateway).map(|to_links| {
        let target = Target::Map { key: asker(), map: LINKS.to_owned(), port: true };
        let expressions = to_links.into_iter().chain([Expression::DestinationNat(target)]);
        Rule::new(expressions.collect::<Vec<_>>()).comment("by its link to its target")
    });
    let here = Expression::Lookup { key: vec![Field::Ipv4(Side::Destination)], set: HERE.to_owned(), negated: false };
    let around = Rule::new([Expression::from(BRIDGE), Expression::Led, here, Expression::Mark(hairpin::MARK)]);
    // What is no answer leads nowhere.
    let stray = Prefix::new(as_nobody().0, 32).map(|source| {
        Rule::new([Expression::from(hairpin::OUT), Expression::destination(source), Expression::Verdict(Verdict::Drop)])
            .comment("what answers nobody")
    });
    let segments = |way: Expression| Rule::new([way, Expression::ClampSegmentSize]);
    let chains = vec![
        chain("prerouting", ChainKind::Filter, Place::Prerouting, RAW, first(managed)),
        chain(
            "untracked",
            ChainKind::Filter,
            Place::Output,
            RAW,
            vec![
                Rule::new([Expression::Marked(NUDGE), Expression::Untracked])
                    .comment("a nudge is no connection of its own"),
            ],
        ),
        chain(
            "published",
            ChainKind::Nat,
            Place::Prerouting,
            DESTINATION_NAT,
            all.gateway
                .and_then(metadata::way::rule)
                .into_iter()
                .chain(names(all.gateway))
                .chain(linked)
                .chain([
                    floating.clone().comment("by its floating address"),
                    led.clone().comment("to who has the port"),
                ])
                .collect(),
        ),
        chain(
            "published-here",
            ChainKind::Nat,
            Place::Output,
            DESTINATION_NAT,
            vec![
                floating.comment("from this host, by its floating address"),
                led.comment("from this host, to who has the port"),
            ],
        ),
        chain(
            "around",
            ChainKind::Filter,
            Place::Prerouting,
            LED,
            vec![around.comment("from a container to another of this host: round by the pair")],
        ),
        chain("refused", ChainKind::Filter, Place::Input, REFUSE, refusals(all.gateway)),
        chain(
            "forward",
            ChainKind::Filter,
            Place::Forward,
            FILTER,
            stray
                .into_iter()
                .chain([
                    segments(Expression::from(BRIDGE)).comment("segments fit the way out"),
                    segments(Expression::to(BRIDGE)).comment("and the way in"),
                ])
                .collect(),
        ),
        chain("postrouting", ChainKind::Nat, Place::Postrouting, SOURCE_NAT, sources(managed)),
        chain(
            "fenced",
            ChainKind::Filter,
            Place::Postrouting,
            LAST,
            vec![fenced.comment("under a floating address only while this host has it")],
        ),
    ];
    let apart = all.apart.iter().flat_map(|_| apart::chains());
    Table {
        family: Family::Inet,
        name: TABLE.to_owned(),
        comment: "the managed network".to_owned(),
        sets: all.sets(),
        chains: chains.into_iter().chain(apart).collect(),
    }
}

/// The two rules for DOCKER-USER.
fn forwarding() -> [Rule; 2] {
    let rule = |way| Rule::new([way, Expression::Counter, Expression::Verdict(Verdict::Accept)]);
    [
        rule(Expression::from(BRIDGE)).comment(format!("{MARK} from the managed network")),
        rule(Expression::to(BRIDGE)).comment(format!("{MARK} into the managed network")),
    ]
}

/// What became of our table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ensured {
    AsItWas,
    /// Some of what is led is led elsewhere.
    Elements,
    /// For a moment there was none, or another.
    Anew,
}

/// Makes our table so.
pub(super) async fn ensure_table(datapath: &dyn Datapath, subnet: &SubnetSpec, led: &Led) -> Result<Ensured, Error> {
    let Some(managed) = subnet.as_prefix() else { return Ok(Ensured::AsItWas) };
    let outcome = datapath.ensure_table(&table(managed, led)).await?;
    Ok(match outcome.replaced {
        Some(_) => Ensured::Anew,
        None if outcome.is_unchanged() => Ensured::AsItWas,
        None => Ensured::Elements,
    })
}

/// Makes the rules in others' chains so.
pub(super) async fn apply(kernel: &Kernel, applied: &mut Applied) {
    match docker(kernel).await {
        Ok((changed, warning)) => {
            applied.note(Ok(changed));
            applied.warnings.extend(warning);
        }
        Err(error) => applied.note(Err(error)),
    }
}

/// Puts our rules into Docker's chain; whether that changed something, and what is to be said.
async fn docker(kernel: &Kernel) -> Result<(bool, Option<String>), Error> {
    let place = ForeignChain { family: Family::Ipv4, table: "filter", chain: "DOCKER-USER", mark: MARK };
    let outcome = kernel.netlink.ensure_rules_in_foreign_chain(&place, &forwarding()).await?;
    let missing = match outcome {
        ForeignOutcome::Unchanged => return Ok((false, None)),
        ForeignOutcome::Repaired => return Ok((true, None)),
        missing @ (ForeignOutcome::MissingTable | ForeignOutcome::MissingChain) => missing,
    };
    if missing == ForeignOutcome::MissingChain && drops_forwarded(kernel).await? {
        return Ok((false, Some(DROPPED.to_owned())));
    }
    Ok((false, kernel.legacy_filter().then(|| LEGACY.to_owned())))
}

/// Whether iptables' FORWARD chain drops what no rule accepts, and there is no chain of Docker's for us.
async fn drops_forwarded(kernel: &Kernel) -> Result<bool, Error> {
    let filter = kernel.netlink.inspect_table(Family::Ipv4, "filter").await?;
    let policy = filter.and_then(|filter| filter.chains.get("FORWARD").and_then(|chain| chain.policy));
    Ok(policy == Some(DROP))
}

const DROPPED: &str = "iptables drops forwarded packets (policy of FORWARD) and there is no chain DOCKER-USER for our rules. \
    Allow them: iptables -I FORWARD -i stampede0 -j ACCEPT; iptables -I FORWARD -o stampede0 -j ACCEPT";

const LEGACY: &str = "iptables-legacy filters packets here, and its rules cannot be changed from here; where they drop \
    forwarded packets (iptables-legacy -S FORWARD), the managed network reaches nothing beyond this host. Either let Docker use \
    iptables-nft (update-alternatives --set iptables /usr/sbin/iptables-nft, then restart Docker), or allow them: \
    iptables-legacy -I FORWARD -i stampede0 -j ACCEPT; iptables-legacy -I FORWARD -o stampede0 -j ACCEPT";
