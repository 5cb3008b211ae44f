//! What people made with Docker alone, on the managed network: seen, and driven where the API asks for that.

use super::Error;
use crate::resource::native::Native;
use futures::stream::BoxStream;
use std::fmt::Debug;
use std::time::Duration;

/// One of a list. Where it is another than last time, something about it changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glimpse {
    pub external_id: String,
    /// It was started once, and is not on its way out.
    pub counts: bool,
    /// Docker's id of its place on the network, while it has one.
    pub endpoint: Option<String>,
    /// Name, state and place, in no form of meaning.
    pub looks: String,
}

/// What runs them. Calls may be done again.
#[async_trait::async_trait]
pub trait Natives: Send + Sync + Debug {
    /// Whether it can be asked, found out without starting it where somebody has stopped it.
    async fn answers(&self) -> bool;

    /// All that there are.
    async fn natives(&self) -> Result<Vec<Glimpse>, Error>;

    /// One of them; `None` where it is gone, or not on the managed network any more.
    async fn native(&self, external_id: &str) -> Result<Option<Native>, Error>;

    /// Starts it.
    async fn start_native(&self, external_id: &str) -> Result<(), Error>;

    /// Stops it and starts it again; after `grace` it is killed.
    async fn restart_native(&self, external_id: &str, grace: Duration) -> Result<(), Error>;

    /// Stops it: asks, and after `grace` kills. Fine where it does not run or is not there.
    async fn stop_native(&self, external_id: &str, grace: Duration) -> Result<(), Error>;

    /// Removes it, running or not. Fine where it is not there.
    async fn remove_native(&self, external_id: &str) -> Result<(), Error>;

    /// Tells that something may have happened to one of them. Never ends; survives the daemon.
    fn native_events(&self) -> BoxStream<'static, ()>;
}
