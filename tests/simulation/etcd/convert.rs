//! Between etcd's words, as its own client sends them, and the simulated store's.

use etcd_client::proto::{
    PbCompare, PbDeleteResponse, PbEvent, PbKeyValue, PbPutResponse, PbRangeRequest, PbRangeResponse, PbResponseHeader,
    PbResponseOp, PbTargetUnion, PbTxnOpRequest, PbTxnOpResponse, PbTxnRequest, PbTxnRequestOp, PbTxnResponse,
};
use stampede::store::{
    Answer, Change, Compare, Entry, Error, LeaseId, Operation, Outcome, Revision, StoreId, Transaction,
};
use tonic::Status;

/// What a comparison's `result` says.
const EQUAL: i32 = 0;
const GREATER: i32 = 1;

pub fn header(revision: Revision, store: Option<StoreId>) -> Option<PbResponseHeader> {
    Some(PbResponseHeader {
        cluster_id: store.map_or(0, |store| store.0),
        member_id: 1,
        revision: revision.0,
        raft_term: 1,
    })
}

pub fn text(bytes: Vec<u8>) -> Result<String, Status> {
    String::from_utf8(bytes).map_err(|_| Status::invalid_argument("a key that is no text"))
}

/// What a range is about: one key, or all that begin with it.
pub enum Span {
    Key(String),
    Prefix(String),
}

pub fn span(key: Vec<u8>, end: &[u8]) -> Result<Span, Status> {
    if end.is_empty() {
        return Ok(Span::Key(text(key)?));
    }
    let mut after = key.clone();
    if let Some(last) = after.last_mut() {
        *last += 1;
    }
    if after == end { Ok(Span::Prefix(text(key)?)) } else { Err(Status::unimplemented("a range that is no prefix")) }
}

pub fn pair(entry: Entry) -> PbKeyValue {
    PbKeyValue {
        key: entry.key.into_bytes(),
        value: entry.value.to_vec(),
        create_revision: entry.create_revision.0,
        mod_revision: entry.mod_revision.0,
        version: 1,
        lease: entry.lease.map_or(0, |lease| lease.0),
    }
}

pub fn event(change: Change) -> PbEvent {
    match change {
        Change::Put(entry) => PbEvent { r#type: 0, kv: Some(pair(entry)), prev_kv: None },
        Change::Deleted { key, revision } => {
            let kv = PbKeyValue { key: key.into_bytes(), mod_revision: revision.0, ..PbKeyValue::default() };
            PbEvent { r#type: 1, kv: Some(kv), prev_kv: None }
        }
    }
}

pub fn found(header: Option<PbResponseHeader>, entries: Vec<Entry>, count: usize) -> PbRangeResponse {
    let kvs = entries.into_iter().map(pair).collect();
    PbRangeResponse { header, kvs, more: false, count: i64::try_from(count).unwrap() }
}

pub fn transaction(request: PbTxnRequest) -> Result<Transaction, Status> {
    Ok(Transaction {
        compares: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: request.success.into_iter().map(operation).collect::<Result<_, _>>()?,
        failure: request.failure.into_iter().map(operation).collect::<Result<_, _>>()?,
    })
}

fn compare(compare: PbCompare) -> Result<Compare, Status> {
    let key = text(compare.key)?;
    Ok(match (compare.result, compare.target_union) {
        (EQUAL, Some(PbTargetUnion::CreateRevision(0))) => Compare::Absent { key },
        (GREATER, Some(PbTargetUnion::CreateRevision(0))) => Compare::Exists { key },
        (EQUAL, Some(PbTargetUnion::CreateRevision(revision))) => {
            Compare::CreateRevision { key, revision: Revision(revision) }
        }
        (EQUAL, Some(PbTargetUnion::ModRevision(revision))) => {
            Compare::ModRevision { key, revision: Revision(revision) }
        }
        _ => return Err(Status::unimplemented("a comparison of this kind")),
    })
}

fn operation(operation: PbTxnRequestOp) -> Result<Operation, Status> {
    let Some(request) = operation.request else { return Err(Status::invalid_argument("an empty operation")) };
    Ok(match request {
        PbTxnOpRequest::RequestRange(PbRangeRequest { key, range_end, .. }) => match span(key, &range_end)? {
            Span::Key(key) => Operation::Get { key },
            Span::Prefix(prefix) => Operation::Range { prefix },
        },
        PbTxnOpRequest::RequestPut(put) => Operation::Put {
            key: text(put.key)?,
            value: put.value.into(),
            lease: (put.lease != 0).then_some(LeaseId(put.lease)),
        },
        PbTxnOpRequest::RequestDeleteRange(delete) => match span(delete.key, &delete.range_end)? {
            Span::Key(key) => Operation::Delete { key },
            Span::Prefix(prefix) => Operation::DeletePrefix { prefix },
        },
        PbTxnOpRequest::RequestTxn(inner) => Operation::Nested(transaction(inner)?),
    })
}

/// Inside of another, etcd tells no revision.
pub fn outcome(outcome: Outcome, header: Option<PbResponseHeader>) -> PbTxnResponse {
    let responses = outcome.answers.into_iter().map(|answer| PbResponseOp { response: Some(response(answer)) });
    PbTxnResponse { header, succeeded: outcome.succeeded, responses: responses.collect() }
}

fn response(answer: Answer) -> PbTxnOpResponse {
    match answer {
        Answer::Put => PbTxnOpResponse::ResponsePut(PbPutResponse::default()),
        Answer::Deleted { count } => PbTxnOpResponse::ResponseDeleteRange(PbDeleteResponse {
            deleted: i64::try_from(count).unwrap(),
            ..PbDeleteResponse::default()
        }),
        Answer::Entries(entries) => {
            let count = entries.len();
            PbTxnOpResponse::ResponseRange(found(None, entries, count))
        }
        Answer::Nested(inner) => PbTxnOpResponse::ResponseTxn(outcome(inner, None)),
    }
}

/// As etcd says it, in its own words: its client tells errors apart by them.
pub fn status(error: Error) -> Status {
    match error {
        Error::Unavailable { .. } => Status::unavailable("etcdserver: no leader"),
        Error::OutcomeUnknown { .. } => Status::unavailable("etcdserver: request timed out"),
        Error::Compacted { .. } => Status::out_of_range("etcdserver: mvcc: required revision has been compacted"),
        Error::LeaseGone(_) => Status::not_found("etcdserver: requested lease not found"),
        Error::TooLarge { .. } => Status::invalid_argument("etcdserver: too many operations in txn request"),
        error => Status::invalid_argument(error.to_string()),
    }
}
