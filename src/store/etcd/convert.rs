//! Between the store's words and etcd's.

use super::Fault;
use crate::store::{Answer, Compare, Entry, Error, LeaseId, Operation, Outcome, Revision, Transaction};
use bytes::Bytes;
use etcd_client::{
    CompareOp, DeleteOptions, GetOptions, KeyValue, PutOptions, ResponseHeader, Txn, TxnOp, TxnOpResponse, TxnResponse,
};

pub(super) fn revision(header: Option<&ResponseHeader>) -> Result<Revision, Error> {
    match header {
        Some(header) => Ok(Revision(header.revision())),
        None => Err(Fault::Lost("etcd's answer has no header".into()).read()),
    }
}

pub(super) fn entry(pair: KeyValue) -> Entry {
    let (create_revision, mod_revision) = (Revision(pair.create_revision()), Revision(pair.mod_revision()));
    let lease = (pair.lease() != 0).then(|| LeaseId(pair.lease()));
    let (key, value) = pair.into_key_value();
    Entry { key: text(&key), value: Bytes::from(value), create_revision, mod_revision, lease }
}

/// Ours are all readable; one that is not was put there by somebody else, and stays visible as well as it can.
pub(super) fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

pub(super) fn transaction(transaction: &Transaction) -> Txn {
    Txn::new()
        .when(transaction.compares.iter().map(compare).collect::<Vec<_>>())
        .and_then(transaction.success.iter().map(operation).collect::<Vec<_>>())
        .or_else(transaction.failure.iter().map(operation).collect::<Vec<_>>())
}

fn compare(compare: &Compare) -> etcd_client::Compare {
    use etcd_client::Compare as Etcd;
    // To etcd, an absent key has revision 0; to us it has none, so that no number may match it.
    let exact = |revision: Revision| if revision.0 > 0 { revision.0 } else { -1 };
    match compare {
        Compare::Absent { key } => Etcd::create_revision(key.as_str(), CompareOp::Equal, 0),
        Compare::Exists { key } => Etcd::create_revision(key.as_str(), CompareOp::Greater, 0),
        Compare::CreateRevision { key, revision } => {
            Etcd::create_revision(key.as_str(), CompareOp::Equal, exact(*revision))
        }
        Compare::ModRevision { key, revision } => Etcd::mod_revision(key.as_str(), CompareOp::Equal, exact(*revision)),
    }
}

fn operation(operation: &Operation) -> TxnOp {
    match operation {
        Operation::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(key.as_str(), value.as_ref(), options)
        }
        Operation::Delete { key } => TxnOp::delete(key.as_str(), None),
        Operation::DeletePrefix { prefix } => TxnOp::delete(prefix.as_str(), Some(DeleteOptions::new().with_prefix())),
        Operation::Get { key } => TxnOp::get(key.as_str(), None),
        Operation::Range { prefix } => TxnOp::get(prefix.as_str(), Some(GetOptions::new().with_prefix())),
        Operation::Nested(inner) => TxnOp::txn(transaction(inner)),
    }
}

/// `revision` is that of the whole: etcd leaves it out of what is inside.
pub(super) fn outcome(response: &TxnResponse, revision: Revision) -> Outcome {
    let answers = response.op_responses().into_iter().map(|response| match response {
        TxnOpResponse::Put(_) => Answer::Put,
        TxnOpResponse::Delete(deleted) => Answer::Deleted { count: usize::try_from(deleted.deleted()).unwrap_or(0) },
        TxnOpResponse::Get(mut found) => Answer::Entries(found.take_kvs().into_iter().map(entry).collect()),
        TxnOpResponse::Txn(inner) => Answer::Nested(outcome(&inner, revision)),
    });
    Outcome { succeeded: response.succeeded(), revision, answers: answers.collect() }
}
