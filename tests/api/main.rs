//! The API by real HTTP over sockets: the contract, what real clients send, and rubbish.

// All of this is test code, also what stands outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod browser;
mod events;
mod lists;
mod openapi;
mod resources;
mod rubbish;
mod safe;
mod service;
mod signin;
mod store_gone;
mod ui;
mod world;
