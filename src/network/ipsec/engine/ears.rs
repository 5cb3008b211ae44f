//! The kernel's word that associations or policies went.

use super::super::encryptor::{Encryptor, Events};
use futures::StreamExt;
use stampede_netlink::xfrm::XfrmEvent;

/// Listens, and begins anew where it cannot any more.
#[derive(Default)]
pub struct Ears(Option<Events>);

impl Ears {
    /// Listens where it does not yet; what it cannot hear, in words.
    pub fn listen(&mut self, encryptor: &dyn Encryptor) -> Option<String> {
        if self.0.is_none() {
            match encryptor.events() {
                Ok(events) => self.0 = Some(events),
                Err(error) => return Some(format!("associations that go are noticed some seconds late: {error}")),
            }
        }
        None
    }

    /// Waits for something that may concern us.
    pub async fn hear(&mut self) {
        let Some(events) = &mut self.0 else { return std::future::pending().await };
        loop {
            match events.next().await {
                Some(Ok(event)) if concerns_us(&event) => return,
                Some(Ok(_)) => {}
                end => {
                    if let Some(Err(error)) = end {
                        tracing::warn!(%error, "notifications of IPsec end; listening anew");
                    }
                    self.0 = None;
                    return;
                }
            }
        }
    }
}

/// What comes is our own doing, or nobody's business.
fn concerns_us(event: &XfrmEvent) -> bool {
    !matches!(event, XfrmEvent::AssociationAdded(_) | XfrmEvent::AssociationUpdated(_) | XfrmEvent::Wanted { .. })
}
