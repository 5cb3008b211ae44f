//! Where a placement gets an instance's address from: the managed network answers this.

use crate::resource::assignment::ManagedAddress;
use crate::store::{self, Compare, Operation};
use std::fmt::Debug;
use std::net::Ipv4Addr;

/// An address that is the instance's once a transaction with these compares and operations succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reserved {
    pub address: ManagedAddress,
    /// That nobody has it.
    pub compares: Vec<Compare>,
    /// That the instance has it.
    pub operations: Vec<Operation>,
}

/// Why there is no address.
#[derive(Debug, thiserror::Error)]
pub enum AddressError {
    /// This host has none; another may.
    #[error("no address: {0}")]
    Exhausted(String),
    #[error("no address")]
    Store(#[from] store::Error),
}

/// Gives addresses on the managed network.
#[async_trait::async_trait]
pub trait AddressSource: Debug + Send + Sync {
    /// A free address of `host` for `instance` (`1i54`). Nothing is written; two calls may only give the same address where
    /// the first was given up.
    async fn reserve(&self, host: &str, instance: &str) -> Result<Reserved, AddressError>;

    /// A transaction with a reserved address of `host` found it taken: what is known of the host is old.
    fn conflicted(&self, host: &str);

    /// A reserved address was not used: it may be given again.
    fn abandoned(&self, _host: &str, _address: Ipv4Addr) {}

    /// What makes `address` free again.
    fn release(&self, address: Ipv4Addr) -> Operation;
}
