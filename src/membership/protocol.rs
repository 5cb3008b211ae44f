//! Which agents can work together, as a number.
//!
//! Each host says in `host/<host>` what its agent speaks. Fields that are added do not count: an older agent keeps what it
//! does not know, in every record that it writes again. What an older one could not read, or would do wrong, gets the next
//! number; agents of two neighbouring numbers must work together. Once it is in use, `cluster` says what is needed at least,
//! and older agents stay away.

use super::Cluster;
use crate::store;

/// What this agent speaks.
pub const PROTOCOL: u32 = 1;

/// Whether an agent that speaks `protocol` may work on `cluster`.
///
/// # Errors
/// [`store::Error::Unusable`], in words for the operator.
pub fn check(cluster: &Cluster, protocol: u32) -> Result<(), store::Error> {
    let needed = cluster.minimum_protocol;
    if protocol >= needed {
        return Ok(());
    }
    Err(store::Error::Unusable(format!(
        "this cluster needs agents that speak protocol {needed} or a later one; this one (Stampede {}) speaks {protocol}: \
         install a newer Stampede on this host. What runs here goes on",
        env!("CARGO_PKG_VERSION")
    )))
}
