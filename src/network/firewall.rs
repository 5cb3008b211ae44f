//! Rules: one nftables table of ours, `inet stampede`, and two marked rules in Docker's chain for others' rules.
//!
//! - What comes in by any interface that is not ours with a source in the managed subnet is a forgery and dropped.
//! - What leaves the managed subnet for elsewhere gets this host's address (masquerade); what stays in it keeps its own.
//! - Connections are told the segment size that fits their way (the overlay's MTU is smaller than the rest's).
//!
//! An accept of ours decides nothing where a chain of Docker drops, so the two rules stand in DOCKER-USER, which Docker
//! jumps to first and leaves to others. Docker makes the chain anew when it starts: they are watched and put back.

use super::apply::Applied;
use super::kernel::{Error, Kernel};
use super::overlay::{BRIDGE, OVERLAY};
use super::subnet::SubnetSpec;
use stampede_netlink::{
    Prefix,
    nftables::{Chain, ChainKind, Expression, Family, ForeignChain, ForeignOutcome, Hook, Place, Rule, Table, Verdict},
};

/// The table of ours.
pub const TABLE: &str = "stampede";
/// What the comments of our rules in others' chains begin with.
const MARK: &str = "stampede:";

/// nft's priorities: before connection tracking, among filters, and where sources are translated.
const RAW: i32 = -300;
const FILTER: i32 = 0;
const SOURCE_NAT: i32 = 100;
/// NF_DROP, as a chain's policy.
const DROP: u32 = 0;

fn chain(name: &str, kind: ChainKind, place: Place, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { name: name.to_owned(), hook: Some(Hook { kind, place, priority, drop: false }), rules }
}

/// The table as it should be.
pub fn table(managed: Prefix) -> Table {
    let forged = Rule::new([
        Expression::from(BRIDGE).but_not(),
        Expression::from(OVERLAY).but_not(),
        Expression::from("lo").but_not(),
        Expression::source(managed),
        Expression::Counter,
        Expression::Verdict(Verdict::Drop),
    ]);
    let leaving =
        Rule::new([Expression::source(managed), Expression::destination(managed).but_not(), Expression::Masquerade]);
    let segments = |way: Expression| Rule::new([way, Expression::ClampSegmentSize]);
    Table {
        family: Family::Inet,
        name: TABLE.to_owned(),
        comment: "the managed network".to_owned(),
        sets: Vec::new(),
        chains: vec![
            chain(
                "prerouting",
                ChainKind::Filter,
                Place::Prerouting,
                RAW,
                vec![forged.comment("managed addresses come by managed interfaces only")],
            ),
            chain(
                "forward",
                ChainKind::Filter,
                Place::Forward,
                FILTER,
                vec![
                    segments(Expression::from(BRIDGE)).comment("segments fit the way out"),
                    segments(Expression::to(BRIDGE)).comment("and the way in"),
                ],
            ),
            chain(
                "postrouting",
                ChainKind::Nat,
                Place::Postrouting,
                SOURCE_NAT,
                vec![leaving.comment("out of the managed network under this host's address")],
            ),
        ],
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

/// Makes all rules so.
pub(super) async fn apply(kernel: &Kernel, subnet: &SubnetSpec, applied: &mut Applied) {
    if let Some(managed) = subnet.as_prefix() {
        let outcome = kernel.netlink.ensure_table(&table(managed)).await;
        applied.note(outcome.map(|outcome| !outcome.is_unchanged()));
    }
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
