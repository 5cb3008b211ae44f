//! Who is who, over real TCP and TLS: agents that know each other, hosts that join, and whoever is refused.

// All of this is test code, also what stands outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod agents;
mod api;
mod authority;
mod joining;
mod machine;
mod streams;
mod secrets;
mod world;
