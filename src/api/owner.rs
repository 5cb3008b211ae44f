//! Another host's agent, as the store knows it: for what only that one can answer.

use super::Context;
use super::error::ApiError;
use crate::membership::record::{Alive, Host};
use crate::store::{decode, key};

impl Context {
    /// The agent of a host; `None` where the host or its agent is not there.
    ///
    /// # Errors
    /// 503 where that cannot be found out.
    pub async fn agent_of(&self, name: &str) -> Result<Option<(Host, Alive)>, ApiError> {
        let (host, alive) = (key::host(name), key::alive(name));
        let (host, alive) = tokio::join!(self.store.get(&host), self.store.get(&alive));
        let (host, alive) = (host?.entry, alive?.entry);
        Ok(match (host, alive) {
            (Some(host), Some(alive)) => Some((decode::<Host>(&host)?, decode::<Alive>(&alive)?)),
            _ => None,
        })
    }
}
