//! What one agent does for its host: the loop that makes the host as it should be.
//!
//! For each instance that this host has a claim on, or finds a trace of: **fetch** what is wanted and what is there, **plan**
//! in a pure function ([`plan`]), **apply**, and look again ([`instances`]); a first start is the agent's own ([`first`]). What Docker started by itself is followed ([`natives`]). What wakes it: its claims in the store, its
//! units' changes, and a timer where something failed. With no store, it does nothing but keep what runs.

pub mod answer;
pub mod boot;
pub mod config;
pub mod description;
pub mod exclusive;
pub mod first;
pub mod floating;
pub mod instances;
pub mod natives;
pub mod links;
pub mod machines;
pub mod plan;
mod queue;
pub mod reclaim;
pub mod shutdown;
pub mod volumes;
pub mod watch;

/// An error with all its sources, for one line of the log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
