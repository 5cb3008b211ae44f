//! Stampede: virtual machines and containers side by side on one private network, without a server.
//!
//! The rooms in the order of their imports: each imports only from those above it (`tests/rooms.rs` holds that).

pub mod environment;
pub mod resource;
pub mod store;
pub mod membership;
pub mod placement;
pub mod orchestration;
pub mod systemd;
pub mod storage;
pub mod network;
pub mod compute;
pub mod host;
pub mod api;
pub mod cli;
