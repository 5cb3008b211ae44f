//! What is there: a table's chains, rules and sets, as far as it takes to tell whether it is as it should be.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Family, Table,
    batch::{self, GET_CHAIN, GET_GENERATION, GET_RULE, GET_SET, GET_TABLE, Structure, attributes, read_comment},
};
use crate::{Error, Netlink, RequestError, attribute::Attributes, socket::Frame};

/// A table as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TableState {
    /// Its comment.
    pub comment: Option<String>,
    /// Its chains by name.
    pub chains: BTreeMap<String, ChainState>,
    /// The names of its sets and maps.
    pub sets: BTreeSet<String>,
}

/// A chain as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ChainState {
    /// NF_DROP or NF_ACCEPT; `None` for a chain that hangs on no hook.
    pub policy: Option<u32>,
    /// Its rules in order.
    pub rules: Vec<RuleState>,
}

/// A rule as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleState {
    /// By which the kernel knows it within the table; 0 in what should be.
    pub handle: u64,
    /// Its comment.
    pub comment: Option<String>,
    /// The kernel's names of its expressions, in order: `meta`, `cmp`, `counter`, …
    pub expressions: Vec<String>,
}

impl RuleState {
    pub(super) fn read(rule: Attributes<'_>) -> Self {
        let expressions = rule.get(4).map(|list| list.nested()).into_iter().flatten();
        Self {
            handle: rule.get(3).and_then(|handle| handle.be64()).unwrap_or(0),
            comment: rule.get(7).and_then(|userdata| read_comment(userdata.value, 0)),
            expressions: expressions.filter_map(|one| one.nested().get(1)?.text()).collect(),
        }
    }

    /// The same rule, wherever it is.
    pub(super) fn same(&self, other: &Self) -> bool {
        (&self.comment, &self.expressions) == (&other.comment, &other.expressions)
    }
}

impl TableState {
    /// What the table will look like once it is made.
    pub(super) fn expected(table: &Table, structure: &Structure) -> Self {
        let mut state = Self { comment: Some(comment(table, structure)), ..Self::default() };
        state.sets = table.sets.iter().map(|set| set.name.clone()).collect();
        let mut rules = structure.rules.iter();
        for chain in &table.chains {
            let rules = rules.by_ref().take(chain.rules.len());
            let rules = rules.map(|rule| RuleState::read(attributes(&rule.payload))).collect();
            let policy = chain.hook.map(|hook| u32::from(!hook.drop));
            state.chains.insert(chain.name.clone(), ChainState { policy, rules });
        }
        state
    }
}

/// The comment a table is given: the text for people, then the digest of its structure.
pub(super) fn comment(table: &Table, structure: &Structure) -> String {
    format!("{} [{:016x}]", table.comment, structure.digest())
}

impl Netlink {
    /// Asks nf_tables for a dump.
    pub(super) async fn nft_dump(
        &self,
        number: u16,
        family: Family,
        action: &str,
        filter: &[(u16, &str)],
    ) -> Result<Vec<Frame>, Error> {
        let request = batch::message(number, 0, family, action, |writer| {
            for (attribute, value) in filter {
                writer.text(*attribute, value);
            }
        })?;
        self.netfilter().dump(&request).await.map_err(|source| Error::request(action, source))
    }

    /// Asks nf_tables for one thing; `None` if it is not there.
    pub(super) async fn nft_get(
        &self,
        number: u16,
        family: Family,
        action: &str,
        names: &[(u16, &str)],
    ) -> Result<Option<Frame>, Error> {
        let request = batch::message(number, 0, family, action, |writer| {
            for (attribute, value) in names {
                writer.text(*attribute, value);
            }
        })?;
        let mut answers =
            self.netfilter().request(&[request]).await.map_err(|source| Error::request(action, source))?;
        match answers.pop().unwrap_or(Ok(Vec::new())).map_err(|source| Error::request(action, source)) {
            Ok(frames) => Ok(frames.into_iter().next()),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The number of the last commit, by whomever.
    pub(super) async fn generation(&self) -> Result<u32, Error> {
        let action = "ask for the generation of the rules";
        let answer = self.nft_get(GET_GENERATION, Family::Inet, action, &[]).await?;
        let generation = answer.and_then(|frame| attributes(&frame.payload).get(1)?.be32());
        generation.ok_or_else(|| Error::request(action, RequestError::Malformed("no generation".to_owned())))
    }

    /// The rules of a chain, in order; none if it is not there.
    pub(super) async fn rules(&self, family: Family, table: &str, chain: &str) -> Result<Vec<RuleState>, Error> {
        let action = format!("list the rules of {} {table} {chain}", family.name());
        let frames = self.nft_dump(GET_RULE, family, &action, &[(1, table), (2, chain)]).await?;
        Ok(frames.iter().map(|frame| RuleState::read(attributes(&frame.payload))).collect())
    }

    /// The table as it is; `None` if it is not there.
    pub async fn inspect_table(&self, family: Family, name: &str) -> Result<Option<TableState>, Error> {
        let what = format!("table {} {name}", family.name());
        let Some(table) = self.nft_get(GET_TABLE, family, &format!("look at {what}"), &[(1, name)]).await? else {
            return Ok(None);
        };
        let userdata = attributes(&table.payload).get(6);
        let comment = userdata.and_then(|userdata| read_comment(userdata.value, 0));
        let mut state = TableState { comment, ..TableState::default() };
        let ours =
            |frame: &&Frame| attributes(&frame.payload).get(1).and_then(|table| table.text()).as_deref() == Some(name);
        let chains = self.nft_dump(GET_CHAIN, family, &format!("list the chains of {what}"), &[(1, name)]).await?;
        for frame in chains.iter().filter(ours) {
            let chain = attributes(&frame.payload);
            if let Some(chain_name) = chain.get(3).and_then(|name| name.text()) {
                let policy = chain.get(5).and_then(|policy| policy.be32());
                state.chains.insert(chain_name, ChainState { policy, rules: Vec::new() });
            }
        }
        let rules = self.nft_dump(GET_RULE, family, &format!("list the rules of {what}"), &[(1, name)]).await?;
        for frame in rules.iter().filter(ours) {
            let rule = attributes(&frame.payload);
            if let Some(chain) = rule.get(2).and_then(|name| state.chains.get_mut(&name.text()?)) {
                chain.rules.push(RuleState::read(rule));
            }
        }
        let sets = self.nft_dump(GET_SET, family, &format!("list the sets of {what}"), &[(1, name)]).await?;
        state.sets = sets.iter().filter(ours).filter_map(|frame| attributes(&frame.payload).get(2)?.text()).collect();
        Ok(Some(state))
    }
}
