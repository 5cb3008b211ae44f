//! One connection to a member, and whether that is silent.

use super::{Fault, Members};
use etcd_client::Client;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a member that is suspected may take to say how it is, which it knows without asking others.
const PROBE: Duration = Duration::from_millis(1500);

/// A connection. Watches are on it for as long as it answers, also when calls go elsewhere by now.
pub(super) struct Link {
    pub client: Client,
    /// It is silent: what waits for something on it waits in vain.
    pub silent: CancellationToken,
    over: CancellationToken,
}

impl Link {
    /// Looked after from now on, for as long as somebody has it: asked whenever somebody suspects its member.
    pub(super) fn new(client: Client, members: &Members) -> Arc<Self> {
        let link = Arc::new(Self { client, silent: CancellationToken::new(), over: CancellationToken::new() });
        tokio::spawn(look_after(Arc::downgrade(&link), link.over.clone(), members.clone()));
        link
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

async fn look_after(link: Weak<Link>, over: CancellationToken, members: Members) {
    let mut suspicion = members.suspicion();
    loop {
        tokio::select! {
            () = over.cancelled() => return,
            // We hold who could say so.
            _ = suspicion.changed() => {}
        }
        let Some(mut client) = link.upgrade().map(|link| link.client.clone()) else { return };
        let answers = match tokio::time::timeout(PROBE, client.status()).await {
            Ok(Ok(_)) => true,
            Ok(Err(error)) => !matches!(Fault::from(error), Fault::Unsent(_) | Fault::Lost(_)),
            Err(_) => false,
        };
        if !answers {
            if let Some(link) = link.upgrade() {
                tracing::debug!("a member of etcd is silent: what is watched on it is watched elsewhere");
                link.silent.cancel();
            }
            return;
        }
    }
}
