//! Who encrypts: this host's kernel. What the loop asks of it is in one trait, so that the simulation can put a model of all hosts'
//! kernels in its place.

use super::super::kernel::{Error, Kernel};
use super::super::mesh::PORT;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use stampede_netlink::Outcome;
use stampede_netlink::xfrm::{
    AeadKey, Association, AssociationChange, AssociationTable, Policy, PolicyChange, PolicySpec, Xfrm, XfrmEvent,
};
use std::fmt::Debug;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::sync::{Mutex, OnceLock, PoisonError};

/// A packet that the receiver's overlay drops: a VXLAN header without its one flag (RFC 7348). It has done its work when it
/// came through an association.
const PROBE: [u8; 8] = [0; 8];

/// What happens to associations and policies. An error is the end of it.
pub type Events = BoxStream<'static, Result<XfrmEvent, Error>>;

/// See the module's text. Whatever is not ours is listed too, and left alone.
#[async_trait::async_trait]
pub trait Encryptor: Debug + Send + Sync {
    /// Whether there is IPv6 here at all.
    fn has_ipv6(&self) -> bool;
    /// The policies.
    async fn policies(&self) -> Result<Vec<Policy>, Error>;
    /// Makes our policies those desired.
    async fn reconcile_policies(&self, desired: &[PolicySpec]) -> Result<Outcome<PolicyChange>, Error>;
    /// The associations, and what went through them.
    async fn associations(&self) -> Result<Vec<Association>, Error>;
    /// Makes these changes, in order.
    async fn change_associations(&self, changes: Vec<AssociationChange>) -> Result<Outcome<AssociationChange>, Error>;
    /// Has the table of associations be so large, see [`Xfrm::enlarge_association_table`].
    async fn make_room(&self, buckets: u32, spi: u32, key: &AeadKey) -> Result<AssociationTable, Error>;
    /// What happens from now on.
    fn events(&self) -> Result<Events, Error>;
    /// Sends a peer something through the overlay's port, from this host's own address.
    fn probe(&self, own: IpAddr, peer: IpAddr) -> io::Result<()>;
}

/// The kernel itself.
#[derive(Debug)]
pub struct InKernel {
    kernel: Kernel,
    /// Opened when it is needed first: not every kernel has it.
    xfrm: OnceLock<Xfrm>,
    /// Where probes go from, and through which socket.
    probing: Mutex<Option<(IpAddr, UdpSocket)>>,
}

impl InKernel {
    /// Nothing is opened yet.
    pub fn new(kernel: Kernel) -> Self {
        Self { kernel, xfrm: OnceLock::new(), probing: Mutex::default() }
    }

    fn xfrm(&self) -> Result<&Xfrm, Error> {
        if let Some(xfrm) = self.xfrm.get() {
            return Ok(xfrm);
        }
        let opened = self.kernel.xfrm()?;
        Ok(self.xfrm.get_or_init(|| opened))
    }
}

#[async_trait::async_trait]
impl Encryptor for InKernel {
    fn has_ipv6(&self) -> bool {
        self.kernel.has_ipv6()
    }

    async fn policies(&self) -> Result<Vec<Policy>, Error> {
        self.xfrm()?.policies().await
    }

    async fn reconcile_policies(&self, desired: &[PolicySpec]) -> Result<Outcome<PolicyChange>, Error> {
        self.xfrm()?.reconcile_policies(desired).await
    }

    async fn associations(&self) -> Result<Vec<Association>, Error> {
        self.xfrm()?.associations().await
    }

    async fn change_associations(&self, changes: Vec<AssociationChange>) -> Result<Outcome<AssociationChange>, Error> {
        self.xfrm()?.change_associations(changes).await
    }

    async fn make_room(&self, buckets: u32, spi: u32, key: &AeadKey) -> Result<AssociationTable, Error> {
        self.xfrm()?.enlarge_association_table(buckets, spi, key).await
    }

    fn events(&self) -> Result<Events, Error> {
        let monitor = self.kernel.xfrm_monitor()?;
        Ok(stream::unfold(monitor, |mut monitor| async move { Some((monitor.next().await, monitor)) }).boxed())
    }

    fn probe(&self, own: IpAddr, peer: IpAddr) -> io::Result<()> {
        let mut probing = self.probing.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, socket) = match probing.take().filter(|(at, _)| *at == own) {
            Some(open) => open,
            None => (own, self.kernel.socket_at(own).map_err(io::Error::other)??),
        };
        let sent = socket.send_to(&PROBE, (peer, PORT));
        *probing = Some((at, socket));
        sent.map(drop)
    }
}
