//! The store's contract, over every backend: etcd (a real one, started by the test on loopback) and the embedded file.

// Tests run etcd and kill it; that is what processes are for here.
#![allow(clippy::disallowed_types)]
// All of this is test code, also what stands outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod backend;
mod conformance;
mod embedded;
mod etcd;
mod mirror;
mod model;
#[allow(dead_code, reason = "other tests use more of it")]
mod server;

use futures::StreamExt;
use stampede::environment::Environment;
use stampede::store::{Error, Watch, WatchEvent};
use std::time::Duration;

/// More than anything here may take.
const LIMIT: Duration = Duration::from_secs(20);

fn environment() -> Environment {
    Environment::system().unwrap()
}

/// What comes within the limit.
async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not come within {LIMIT:?}"),
    }
}

/// The next of a watch that is not progress.
async fn next(watch: &mut Watch) -> Result<WatchEvent, Error> {
    within("an event", async {
        loop {
            match watch.next().await {
                Some(Ok(WatchEvent::Progress { .. })) => {}
                Some(other) => return other,
                None => panic!("the watch ended without an error"),
            }
        }
    })
    .await
}

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}
