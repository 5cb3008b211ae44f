//! One connection to a member, and whether that is silent.

use super::{Fault, Members};
use etcd_client::Client;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a member that is suspected may take to say how it is, which it knows without asking others.
const PROBE: Duration = Duration::from_millis(1500);

/// The same where somebody waits for it, who would rather ask another member.
const ATTEND: Duration = Duration::from_secs(1);

/// A connection. Watches are on it for as long as it answers, also when calls go elsewhere by now.
pub(super) struct Link {
    pub client: Client,
    /// The number of its member.
    pub endpoint: usize,
    /// It is silent: what waits for something on it waits in vain.
    pub silent: CancellationToken,
    over: CancellationToken,
    /// When its member was last asked how it is, and said so.
    attended: Mutex<Option<Instant>>,
}

impl Link {
    /// Looked after from now on, for as long as somebody has it: asked whenever somebody suspects its member.
    pub(super) fn new(client: Client, endpoint: usize, members: &Members) -> Arc<Self> {
        let link = Arc::new(Self {
            client,
            endpoint,
            silent: CancellationToken::new(),
            over: CancellationToken::new(),
            attended: Mutex::default(),
        });
        tokio::spawn(look_after(Arc::downgrade(&link), link.over.clone(), members.clone()));
        link
    }

    /// Whether what is watched on it can come: its member answers, and has a leader. Who asks while another does waits for the
    /// same answer. Where it is not so, it is silent from now on.
    pub(super) async fn attend(&self) -> bool {
        let asked = Instant::now();
        let mut attended = self.attended.lock().await;
        if self.silent.is_cancelled() {
            return false;
        }
        if attended.is_some_and(|last| last >= asked) {
            return true;
        }
        let mut client = self.client.clone();
        let leads = match tokio::time::timeout(ATTEND, client.status()).await {
            Ok(Ok(status)) => status.leader() != 0,
            // It answers, if only that it does not tell us.
            Ok(Err(error)) => matches!(Fault::from(error), Fault::Final(_)),
            Err(_) => false,
        };
        if leads {
            *attended = Some(Instant::now());
        } else {
            tracing::debug!(
                "a member of etcd is silent or knows no leader: what is watched on it is watched elsewhere"
            );
            self.silent.cancel();
        }
        leads
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
