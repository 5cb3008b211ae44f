//! The encrypted overlay, without IKE: docs/ipsec.md explains the scheme and what an attacker gets from what.
//!
//! | part | what it does |
//! |---|---|
//! | [`secret`] | the cluster's secret, which seals records and goes into every key |
//! | [`half`] | a host's half of a key agreement: an X25519 pair and a nonce |
//! | [`record`] | what a host publishes of itself, sealed |
//! | [`derive`] | from two halves and the secret to one direction's key and SPI |
//! | [`rotation`] | which associations there should be, and when halves come and go |
//! | [`peers`] | whose records hold, and why the others do not |
//! | [`policy`] | which packets must be in ESP |
//! | [`view`] | the kernel's associations by peer and direction |
//! | [`pulse`] | whether the peers are heard |
//! | [`capability`] | whether this kernel can do it |
//! | [`engine`] | the loop that does it |
//!
//! All but the last two, and the policies' application, are pure: no socket, no clock, no store.

pub mod capability;
pub mod derive;
pub mod engine;
pub mod half;
pub mod peers;
pub mod policy;
pub mod pulse;
pub mod record;
pub mod rotation;
pub mod secret;
pub mod view;
