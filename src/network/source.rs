//! The managed network as placement sees it: where an instance's address comes from.

use super::address::{Allocator, Error};
use crate::placement::{AddressError, AddressSource, Reserved};
use crate::store::{self, Operation};
use std::net::Ipv4Addr;

#[async_trait::async_trait]
impl AddressSource for Allocator {
    async fn reserve(&self, host: &str, instance: &str) -> Result<Reserved, AddressError> {
        Self::reserve(self, host, instance).await.map_err(|error| match error {
            Error::Store { source, .. } => AddressError::Store(source),
            Error::Unlisted { .. } => AddressError::Store(store::Error::Unavailable { message: error.to_string() }),
            Error::Exhausted { .. } | Error::Contended { .. } => AddressError::Exhausted(error.to_string()),
        })
    }

    fn conflicted(&self, host: &str) {
        Self::conflicted(self, host);
    }

    fn abandoned(&self, _host: &str, address: Ipv4Addr) {
        Self::abandoned(self, address);
    }

    fn release(&self, address: Ipv4Addr) -> Operation {
        Self::release(self, address)
    }
}
