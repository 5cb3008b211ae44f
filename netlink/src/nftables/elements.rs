//! Elements of sets and maps: a published port, a link, a floating address.

use std::collections::BTreeMap;

use super::{
    Element, Family, Set, SetData,
    batch::{self, DEL_ELEMENT, GET_ELEMENT, NEW_ELEMENT, attributes, element_bytes},
    model::type_length,
};
use crate::{Error, Netlink, attribute::Attribute};

/// How many elements were changed. One that leads elsewhere now counts as both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ElementOutcome {
    /// Added.
    pub added: usize,
    /// Deleted.
    pub deleted: usize,
}

/// Keys to delete and elements to add, from what is there and what should be, both key → data. A key that leads
/// elsewhere is deleted and added, for the kernel changes no data (EBUSY).
pub(super) fn plan<'a, T>(
    current: &BTreeMap<Vec<u8>, Vec<u8>>,
    desired: &'a BTreeMap<Vec<u8>, (Vec<u8>, T)>,
) -> (Vec<Vec<u8>>, Vec<&'a T>) {
    let kept = |key: &Vec<u8>, data: &Vec<u8>| desired.get(key).is_some_and(|(wanted, _)| wanted == data);
    let deleted = current.iter().filter(|(key, data)| !kept(key, data)).map(|(key, _)| key.clone()).collect();
    let added =
        desired.iter().filter(|(key, (data, _))| current.get(*key) != Some(data)).map(|(_, (_, t))| t).collect();
    (deleted, added)
}

impl Netlink {
    /// Adds and deletes elements in one batch. The fast way: it does not look first. Adding what is there with the
    /// same data is fine; with other data it is an error, as is deleting what is not there ([`Error::is_not_found`]):
    /// then nothing happens and [`Netlink::reconcile_elements`] finds out what is true.
    pub async fn change_elements(
        &self,
        family: Family,
        table: &str,
        set: &Set,
        delete: &[Element],
        add: &[Element],
    ) -> Result<(), Error> {
        let mut messages = batch::elements(DEL_ELEMENT, family, table, set, delete)?;
        messages.extend(batch::elements(NEW_ELEMENT, family, table, set, add)?);
        self.commit(&format!("change elements of {table} {}", set.name), messages, None).await
    }

    /// Makes the set's elements those of `set.elements`, changing only those that differ, in one batch.
    pub async fn reconcile_elements(&self, family: Family, table: &str, set: &Set) -> Result<ElementOutcome, Error> {
        let current = self.elements(family, table, set).await?;
        let mut desired = BTreeMap::new();
        for element in &set.elements {
            let (key, data) = element_bytes(set, element)?;
            desired.insert(key, (data, element));
        }
        let (deleted, added) = plan(&current, &desired);
        let outcome = ElementOutcome { added: added.len(), deleted: deleted.len() };
        let mut messages = batch::keys(family, table, set, &deleted)?;
        messages.extend(batch::elements(NEW_ELEMENT, family, table, set, added.into_iter().copied())?);
        self.commit(&format!("reconcile elements of {table} {}", set.name), messages, None).await?;
        if outcome != ElementOutcome::default() {
            tracing::info!(table, set = set.name, ?outcome, "elements changed");
        }
        Ok(outcome)
    }

    /// The elements as the kernel has them: key → data; a verdict as its text.
    async fn elements(&self, family: Family, table: &str, set: &Set) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, Error> {
        let action = format!("list the elements of {table} {}", set.name);
        let frames = self.nft_dump(GET_ELEMENT, family, &action, &[(1, table), (2, &set.name)]).await?;
        let key_length = type_length(&set.key);
        let mut found = BTreeMap::new();
        for frame in &frames {
            let list = attributes(&frame.payload).get(3).map(|list| list.nested());
            for element in list.into_iter().flatten() {
                let element = element.nested();
                let Some(key) = element.get(1).and_then(|key| key.nested().get(1)) else { continue };
                // The kernel pads keys and data to whole registers.
                let key = key.value.get(..key_length).unwrap_or(key.value).to_vec();
                found.insert(key, element.get(2).map(|data| read_data(set, data)).unwrap_or_default());
            }
        }
        Ok(found)
    }
}

fn read_data(set: &Set, data: Attribute<'_>) -> Vec<u8> {
    if set.data == Some(SetData::Verdict) {
        let verdict = data.nested().get(2).map(|verdict| verdict.nested());
        let code = verdict.and_then(|verdict| verdict.get(1)?.be32()).map(|code| code.cast_signed());
        let chain = verdict.and_then(|verdict| verdict.get(2)?.text()).unwrap_or_default();
        return match code {
            Some(0) => "drop".to_owned(),
            Some(1) => "accept".to_owned(),
            Some(-3) => format!("jump {chain}"),
            Some(-5) => "return".to_owned(),
            other => format!("{other:?} {chain}"),
        }
        .into_bytes();
    }
    let value = data.nested().get(1).map(|value| value.value).unwrap_or_default();
    value.get(..type_length(set.data_types())).unwrap_or(value).to_vec()
}
