//! Transactions of many hosts' lanes, committed together.
//!
//! A store does a few thousand transactions a second, and many more where several go in one. So while some are under way, the
//! next wait a moment and then go together: one outer transaction of inner ones, each of which is decided by its own
//! compares and fails alone.

use crate::store::{Answer, Error, Operation, Outcome, Store, Transaction};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;

/// The most that go together. With what is inside ([`INNER`]) it stays within the store's 128.
const TOGETHER: usize = 64;
/// What has more compares or operations goes alone.
const INNER: usize = 32;
/// The most bytes that go together, about; the store takes 1 MiB.
const BYTES: usize = 512 << 10;
/// Outer transactions under way at once.
const UNDER_WAY: usize = 3;
/// How long an answer may take; every call to the store has a shorter limit of its own.
const LIMIT: Duration = Duration::from_secs(60);

type Reply = oneshot::Sender<Result<Outcome, Error>>;

/// See the module's text.
#[derive(Debug)]
pub(super) struct Group {
    store: Arc<dyn Store>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<(Transaction, Reply)>,
    under_way: usize,
}

impl Group {
    pub fn new(store: Arc<dyn Store>) -> Arc<Self> {
        Arc::new(Self { store, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Commits `transaction`, perhaps with others.
    pub async fn commit(self: &Arc<Self>, transaction: Transaction) -> Result<Outcome, Error> {
        if size(&transaction) > INNER {
            return self.store.commit(transaction).await;
        }
        let (reply, outcome) = oneshot::channel();
        let more = {
            let mut state = self.state();
            state.queue.push_back((transaction, reply));
            let more = state.under_way < UNDER_WAY;
            state.under_way += usize::from(more);
            more
        };
        if more {
            tokio::spawn(self.clone().flush());
        }
        match tokio::time::timeout(LIMIT, outcome).await {
            Ok(Ok(outcome)) => outcome,
            _ => Err(Error::OutcomeUnknown { message: "the transaction was not decided".into() }),
        }
    }

    async fn flush(self: Arc<Self>) {
        loop {
            let batch = {
                let mut state = self.state();
                let batch = take(&mut state.queue);
                if batch.is_empty() {
                    state.under_way -= 1;
                    return;
                }
                batch
            };
            self.decide(batch).await;
        }
    }

    async fn decide(&self, batch: Vec<(Transaction, Reply)>) {
        if batch.len() > 1 {
            let inner = batch.iter().map(|(transaction, _)| Operation::Nested(transaction.clone())).collect();
            let outer = Transaction { success: inner, ..Transaction::default() };
            match self.store.commit(outer).await {
                Ok(outcome) => return answer(batch, &outcome),
                // Together they are none that the store takes; one by one each gets its own answer.
                Err(Error::TooLarge { .. } | Error::Refused { .. }) => {}
                Err(error) => {
                    for (_, reply) in batch {
                        let _ = reply.send(Err(error.clone()));
                    }
                    return;
                }
            }
        }
        for (transaction, reply) in batch {
            let _ = reply.send(self.store.commit(transaction).await);
        }
    }
}

fn answer(batch: Vec<(Transaction, Reply)>, outcome: &Outcome) {
    for (at, (_, reply)) in batch.into_iter().enumerate() {
        let _ = reply.send(match outcome.answers.get(at) {
            // What is written together is written at one revision.
            Some(Answer::Nested(inner)) => Ok(Outcome { revision: outcome.revision, ..inner.clone() }),
            _ => Err(Error::OutcomeUnknown { message: "an answer is missing".into() }),
        });
    }
}

fn size(transaction: &Transaction) -> usize {
    let Transaction { compares, success, failure } = transaction;
    compares.len().max(success.len()).max(failure.len())
}

fn take(queue: &mut VecDeque<(Transaction, Reply)>) -> Vec<(Transaction, Reply)> {
    let mut batch = Vec::new();
    let mut bytes = 0;
    while batch.len() < TOGETHER {
        let Some((transaction, _)) = queue.front() else { break };
        bytes += transaction
            .success
            .iter()
            .map(|operation| match operation {
                Operation::Put { value, .. } => value.len() + 256,
                _ => 256,
            })
            .sum::<usize>();
        if bytes > BYTES && !batch.is_empty() {
            break;
        }
        batch.extend(queue.pop_front());
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use crate::store::Compare;
    use crate::store::embedded::Embedded;

    #[tokio::test]
    async fn each_is_decided_by_its_own_compares() {
        let environment = Environment::system().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory(&environment).unwrap());
        let group = Group::new(store.clone());
        let put = |key: usize| {
            let key = format!("k{}", key % 150);
            Transaction {
                compares: vec![Compare::Absent { key: key.clone() }],
                success: vec![Operation::put(&key, "1".into())],
                failure: vec![Operation::get(&key)],
            }
        };
        // The last fifty want what others got; two of one key in one batch are none that the store takes.
        let outcomes = futures::future::join_all((0..200).map(|key| group.commit(put(key)))).await;
        let (mut done, mut refused) = (0, 0);
        for outcome in outcomes {
            let outcome = outcome.unwrap();
            if outcome.succeeded {
                done += 1;
            } else {
                refused += 1;
                assert!(matches!(&outcome.answers[0], Answer::Entries(found) if found.len() == 1));
            }
        }
        assert_eq!((done, refused), (150, 50));
        let all = store.range("k").await.unwrap();
        assert_eq!(all.entries.len(), 150);
        assert!(all.revision.0 < 100, "{} transactions for 200", all.revision.0);
    }
}
