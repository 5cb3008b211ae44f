//! This host's network as the kernel has it: netlink, the settings under /proc/sys, and which way packets go; all in one
//! network namespace, which is the agent's own but for tests.

use stampede_netlink::{
    Netlink,
    conntrack::Flow,
    namespace,
    notify::{Monitor, RulesMonitor},
    nudge,
    sysctl::{Family, Setting},
    xfrm::{Statistics, Xfrm, XfrmMonitor},
};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

pub use stampede_netlink::Error;

/// One kernel setting as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wish {
    Ipv4(&'static str, &'static str),
    Interface4(String, &'static str, &'static str),
    Neighbour4(String, &'static str, &'static str),
    /// Where this kernel has IPv6 at all.
    Interface6(String, &'static str, &'static str),
}

impl Wish {
    fn ensure(&self) -> Result<bool, Error> {
        match self {
            Self::Ipv4(name, value) => Setting::Global(Family::Ipv4, name).ensure(value),
            Self::Interface4(link, name, value) => Setting::Interface(Family::Ipv4, link, name).ensure(value),
            Self::Neighbour4(link, name, value) => Setting::Neighbour(Family::Ipv4, link, name).ensure(value),
            Self::Interface6(..) if !Path::new("/proc/sys/net/ipv6").exists() => Ok(false),
            Self::Interface6(link, name, value) => Setting::Interface(Family::Ipv6, link, name).ensure(value),
        }
    }
}

/// See the module's text. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub netlink: Netlink,
    namespace: Option<Arc<OwnedFd>>,
}

impl Kernel {
    /// The network this process is in. To be called within a tokio runtime.
    pub fn open() -> Result<Self, Error> {
        Ok(Self { netlink: Netlink::open()?, namespace: None })
    }

    /// Another network namespace.
    pub fn open_in(namespace: OwnedFd) -> Result<Self, Error> {
        Ok(Self { netlink: Netlink::open_in(namespace.as_fd())?, namespace: Some(Arc::new(namespace)) })
    }

    /// What changes in links, addresses and routes from now on.
    pub fn monitor(&self) -> Result<Monitor, Error> {
        Monitor::open(self.namespace.as_ref().map(AsFd::as_fd))
    }

    /// Who commits to nftables from now on.
    pub fn rules_monitor(&self) -> Result<RulesMonitor, Error> {
        RulesMonitor::open(self.namespace.as_ref().map(AsFd::as_fd))
    }

    /// IPsec; fails where this kernel has none.
    pub fn xfrm(&self) -> Result<Xfrm, Error> {
        self.namespace.as_ref().map_or_else(Xfrm::open, |namespace| Xfrm::open_in(namespace.as_fd()))
    }

    /// What happens to associations and policies from now on.
    pub fn xfrm_monitor(&self) -> Result<XfrmMonitor, Error> {
        XfrmMonitor::open(self.namespace.as_ref().map(AsFd::as_fd), false)
    }

    /// Why packets were dropped on their way through IPsec, where any were; nothing in a kernel that does not count.
    pub fn xfrm_drops(&self) -> BTreeMap<String, u64> {
        let read = self.within(Statistics::read);
        let mut counters = read.and_then(|counted| counted).unwrap_or_default().counters;
        counters.retain(|_, count| *count > 0);
        counters
    }

    /// Whether there is IPv6 here at all.
    pub fn has_ipv6(&self) -> bool {
        Path::new("/proc/sys/net/ipv6").exists()
    }

    /// A socket to send from this address.
    pub fn socket_at(&self, own: IpAddr) -> Result<io::Result<UdpSocket>, Error> {
        self.within(|| {
            let socket = UdpSocket::bind((own, 0))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
    }

    /// Has both ends of connections that were forgotten look what became of them; what the nudges themselves are tracked as.
    pub fn nudge(&self, flows: &[Flow], mark: u32) -> Result<io::Result<usize>, Error> {
        self.within(|| nudge::nudge(flows, mark))
    }

    /// Runs something short and blocking in the namespace.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        match &self.namespace {
            None => Ok(work()),
            Some(namespace) => namespace::run_in(namespace.as_fd(), work),
        }
    }

    /// Makes the settings so; how many were written, and each failure.
    pub fn ensure_settings(&self, wishes: &[Wish]) -> (usize, Vec<Error>) {
        let work = || {
            let (mut written, mut failed) = (0, Vec::new());
            for wish in wishes {
                match wish.ensure() {
                    Ok(changed) => written += usize::from(changed),
                    Err(error) => failed.push(error),
                }
            }
            (written, failed)
        };
        self.within(work).unwrap_or_else(|error| (0, vec![error]))
    }

    /// Whether iptables-legacy holds filter rules here (its module lists its tables).
    pub fn legacy_filter(&self) -> bool {
        let names = self.within(|| std::fs::read_to_string("/proc/net/ip_tables_names"));
        names.is_ok_and(|names| names.is_ok_and(|names| names.lines().any(|name| name == "filter")))
    }

    /// The address packets to `other` would be sent from. Nothing is sent.
    pub fn source_towards(&self, other: SocketAddr) -> Option<IpAddr> {
        let any: IpAddr = if other.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let source = || {
            let socket = UdpSocket::bind((any, 0))?;
            socket.connect(other)?;
            socket.local_addr()
        };
        self.within(source).ok()?.ok().map(|source| source.ip())
    }

    /// The MTU of the link that has an address; `None` where none has it.
    pub async fn mtu_of(&self, address: IpAddr) -> Result<Option<u32>, Error> {
        let addresses = self.netlink.addresses().await?;
        let Some(found) = addresses.iter().find(|found| found.spec.address == address) else { return Ok(None) };
        let links = self.netlink.links().await?;
        Ok(links.iter().find(|link| link.index == found.link).map(|link| link.mtu))
    }
}
