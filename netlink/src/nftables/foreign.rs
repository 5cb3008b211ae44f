//! A few rules of ours at the top of somebody else's chain, such as Docker's DOCKER-USER.
//!
//! They are known by their comments, which all begin with one mark. Rules of others are never touched.

use super::{
    Family, Rule, RuleState,
    batch::{self, DEL_RULE, GET_CHAIN, GET_TABLE, attributes, new_rule},
};
use crate::{Error, Netlink};

/// How often it is tried again because somebody else committed in between.
const ATTEMPTS: u32 = 5;
/// ERESTART, which no C library names: the generation is another one.
const ERESTART: i32 = 85;

/// A chain that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForeignChain<'a> {
    /// The family of its table; [`Family::Ipv4`] for iptables-nft.
    pub family: Family,
    /// Its table: `filter`.
    pub table: &'a str,
    /// Its name: `DOCKER-USER`.
    pub chain: &'a str,
    /// What the comments of our rules in it begin with.
    pub mark: &'a str,
}

/// What became of our rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForeignOutcome {
    /// They stood at the top, in order.
    Unchanged,
    /// They were missing, changed or elsewhere, and stand at the top now.
    Repaired,
    /// There is no such table: nobody made it yet, or with iptables-legacy.
    MissingTable,
    /// There is no such chain: nobody made it yet.
    MissingChain,
}

impl Netlink {
    /// Makes these rules the first of the chain; with none, takes ours away. Each rule's comment must begin with the mark,
    /// and says all that tells it from an older one of ours: rules are compared by comment and kinds of expressions.
    ///
    /// iptables-nft shows rules of [`super::Expression::Interface`], counter and verdict, and their comments.
    pub async fn ensure_rules_in_foreign_chain(
        &self,
        place: &ForeignChain<'_>,
        rules: &[Rule],
    ) -> Result<ForeignOutcome, Error> {
        let ForeignChain { family, table, chain, mark } = *place;
        for rule in rules {
            if !rule.comment.as_deref().is_some_and(|comment| comment.starts_with(mark)) {
                return Err(Error::Unmarked { mark: mark.to_owned() });
            }
        }
        let mut attempt = 1;
        loop {
            // What is found below is what the batch is made for; whatever is committed in between refuses the batch.
            let generation = self.generation().await?;
            let look = |what: &str| format!("look for {what} {} {table} {chain}", family.name());
            if self.nft_get(GET_TABLE, family, &look("table"), &[(1, table)]).await?.is_none() {
                return Ok(ForeignOutcome::MissingTable);
            }
            if self.nft_get(GET_CHAIN, family, &look("chain"), &[(1, table), (3, chain)]).await?.is_none() {
                return Ok(ForeignOutcome::MissingChain);
            }
            let current = self.rules(family, table, chain).await?;
            let wanted: Result<Vec<_>, _> =
                rules.iter().map(|rule| new_rule(family, table, chain, rule, false)).collect();
            let wanted = wanted?;
            let expected: Vec<_> = wanted.iter().map(|rule| RuleState::read(attributes(&rule.payload))).collect();
            let stale = stale(&current, &expected, mark);
            let Some(stale) = stale else { return Ok(ForeignOutcome::Unchanged) };
            let mut messages = Vec::new();
            for handle in stale {
                messages.push(batch::message(DEL_RULE, 0, family, chain, |writer| {
                    writer.text(1, table).text(2, chain).bytes(3, &handle.to_be_bytes());
                })?);
            }
            // Each goes to the head, so the last goes first.
            messages.extend(wanted.into_iter().rev());
            let action = format!("put our rules into {} {table} {chain}", family.name());
            match self.commit(&action, messages, Some(generation)).await {
                Ok(()) => {
                    tracing::info!(table, chain, rules = rules.len(), "our rules put into a chain of others");
                    return Ok(ForeignOutcome::Repaired);
                }
                Err(error) if changed_meanwhile(&error) && attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// Our rules in the chain that must go; `None` if those expected stand at its head and no others of ours are in it.
pub(super) fn stale(current: &[RuleState], expected: &[RuleState], mark: &str) -> Option<Vec<u64>> {
    let ours = |rule: &&RuleState| rule.comment.as_deref().is_some_and(|comment| comment.starts_with(mark));
    let handles: Vec<_> = current.iter().filter(ours).map(|rule| rule.handle).collect();
    let in_place = handles.len() == expected.len()
        && current.len() >= expected.len()
        && current.iter().zip(expected).all(|(rule, wanted)| rule.same(wanted));
    (!in_place).then_some(handles)
}

fn changed_meanwhile(error: &Error) -> bool {
    // ENOENT: the chain, or a rule to delete, went in between; the next look says which.
    error.is_not_found() || error.errno().is_some_and(|errno| errno.raw_os_error() == ERESTART)
}
