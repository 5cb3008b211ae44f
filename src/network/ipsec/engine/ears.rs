//! The kernel's word that associations or policies went.

use crate::network::kernel::Kernel;
use stampede_netlink::xfrm::{XfrmEvent, XfrmMonitor};

/// Listens, and begins anew where it cannot any more.
#[derive(Debug, Default)]
pub struct Ears(Option<XfrmMonitor>);

impl Ears {
    /// Listens where it does not yet; what it cannot hear, in words.
    pub fn listen(&mut self, kernel: &Kernel) -> Option<String> {
        if self.0.is_none() {
            match kernel.xfrm_monitor() {
                Ok(monitor) => self.0 = Some(monitor),
                Err(error) => return Some(format!("associations that go are noticed some seconds late: {error}")),
            }
        }
        None
    }

    /// Waits for something that may concern us.
    pub async fn hear(&mut self) {
        let Some(monitor) = &mut self.0 else { return std::future::pending().await };
        loop {
            match monitor.next().await {
                Ok(event) if concerns_us(&event) => return,
                Ok(_) => {}
                Err(error) => {
                    tracing::warn!(%error, "notifications of IPsec end; listening anew");
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
