//! The API as programs meet it: over HTTP, with all of orchestration behind it and a host that does what it is told. External
//! handlers, what is shown of processes and of parts, and the original's own client.

// Programs of others are run here: shell, Python, etcd.
#![allow(clippy::disallowed_types)]
// All of this is test code, also what stands outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod client;
mod counting;
mod examples;
mod faults;
mod floating;
mod flow;
mod host;
mod library;
mod links;
mod older;
mod processes;
mod quota;
#[path = "../store/server.rs"]
#[allow(dead_code, reason = "the store's own tests use more of it")]
mod server;
mod rubbish;
mod views;
mod walk;
mod world;

use stampede::environment::Environment;
use std::time::Duration;

/// More than anything here may take.
const LIMIT: Duration = Duration::from_secs(60);

fn environment() -> Environment {
    Environment::system().unwrap()
}

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LIMIT, waiting).await.unwrap_or_else(|_| panic!("{what} did not come within {LIMIT:?}"));
}
