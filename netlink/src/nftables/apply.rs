//! Making a table as it should be.

use super::{
    ElementOutcome, Family, Table, TableState,
    batch::{self, NEW_ELEMENT, Structure},
    inspect,
};
use crate::{Error, Netlink, socket::Message};

/// Why a table was put anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Difference {
    /// It was not there.
    Absent,
    /// It was made from another structure: an older version of ours, or another configuration.
    Structure,
    /// It carries our digest and looks otherwise: somebody changed or flushed it.
    Tampered,
}

/// What became of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableOutcome {
    /// Why it was put anew as a whole; `None` if it was not.
    pub replaced: Option<Difference>,
    /// What was done to its elements, if it was not.
    pub elements: ElementOutcome,
}

impl TableOutcome {
    /// It was as it should be.
    pub fn is_unchanged(&self) -> bool {
        self.replaced.is_none() && self.elements == ElementOutcome::default()
    }
}

fn difference(current: Option<&TableState>, expected: &TableState) -> Option<Difference> {
    let Some(current) = current else { return Some(Difference::Absent) };
    if current.comment != expected.comment {
        return Some(Difference::Structure);
    }
    let same = current.sets == expected.sets
        && current.chains.len() == expected.chains.len()
        && current.chains.iter().zip(&expected.chains).all(|((name, chain), (wanted_name, wanted))| {
            name == wanted_name
                && chain.policy == wanted.policy
                && chain.rules.len() == wanted.rules.len()
                && chain.rules.iter().zip(&wanted.rules).all(|(rule, wanted)| rule.same(wanted))
        });
    (!same).then_some(Difference::Tampered)
}

/// The whole table in place of what has its name, in one batch. The first message makes sure there is one to delete.
pub(super) fn replacement(table: &Table, structure: Structure) -> Result<Vec<Message>, Error> {
    let comment = inspect::comment(table, &structure);
    let mut messages = vec![
        batch::new_table(table.family, &table.name, None)?,
        batch::delete_table(table.family, &table.name)?,
        batch::new_table(table.family, &table.name, Some(&comment))?,
    ];
    messages.extend(structure.sets);
    messages.extend(structure.chains);
    for set in &table.sets {
        messages.extend(batch::elements(NEW_ELEMENT, table.family, &table.name, set, &set.elements)?);
    }
    messages.extend(structure.rules);
    Ok(messages)
}

impl Netlink {
    /// Sends a batch, which happens as a whole or not at all.
    pub(super) async fn commit(
        &self,
        action: &str,
        messages: Vec<Message>,
        generation: Option<u32>,
    ) -> Result<(), Error> {
        if messages.is_empty() {
            return Ok(());
        }
        let count = messages.len();
        let framed = batch::frame(messages, generation);
        self.netfilter().batch(&framed).await.map_err(|(place, source)| {
            let place = place.map(|place| format!(", message {place} of {count}")).unwrap_or_default();
            Error::request(format!("{action}{place}"), source)
        })
    }

    /// Makes the table as it should be. If its structure differs it is put anew as a whole, atomically, with all
    /// elements; otherwise single elements are added and deleted. Connections keep their tracked state either way.
    pub async fn ensure_table(&self, table: &Table) -> Result<TableOutcome, Error> {
        let structure = Structure::of(table)?;
        let expected = TableState::expected(table, &structure);
        let current = self.inspect_table(table.family, &table.name).await?;
        if let Some(difference) = difference(current.as_ref(), &expected) {
            let action = format!("put table {} {}", table.family.name(), table.name);
            self.commit(&action, replacement(table, structure)?, None).await?;
            tracing::info!(table = table.name, ?difference, "nftables table put anew");
            return Ok(TableOutcome { replaced: Some(difference), elements: ElementOutcome::default() });
        }
        let mut elements = ElementOutcome::default();
        for set in &table.sets {
            let changed = self.reconcile_elements(table.family, &table.name, set).await?;
            elements.added += changed.added;
            elements.deleted += changed.deleted;
        }
        Ok(TableOutcome { replaced: None, elements })
    }

    /// Deletes a table with all that is in it; false if it was not there.
    pub async fn delete_table(&self, family: Family, name: &str) -> Result<bool, Error> {
        let action = format!("delete table {} {name}", family.name());
        match self.commit(&action, vec![batch::delete_table(family, name)?], None).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
