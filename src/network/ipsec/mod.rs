//! Keys for the encrypted overlay, without IKE: docs/ipsec.md explains the scheme and what an attacker gets from what.
//!
//! Everything here is pure: no socket, no clock, no store.
//!
//! | part | what it does |
//! |---|---|
//! | [`secret`] | the cluster's secret, which seals records and goes into every key |
//! | [`half`] | a host's half of a key agreement: an X25519 pair and a nonce |
//! | [`record`] | what a host publishes of itself, sealed |
//! | [`derive`] | from two halves and the secret to one direction's key and SPI |
//! | [`rotation`] | which associations there should be, and when halves come and go |

pub mod derive;
pub mod half;
pub mod record;
pub mod rotation;
pub mod secret;
