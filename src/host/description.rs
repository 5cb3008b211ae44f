//! What this host says of itself: what it has, what it can, what is installed.

use super::config::Config;
use crate::compute::Driver;
use crate::compute::libvirt::Libvirt;
use crate::membership::HostDescription;
use crate::membership::record::{Capability, Capacity, SecretNames};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

/// Docker, and libvirt, have this long to say that they are there.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

/// Looks at the machine. `network_ready` says whether containers can be joined to the managed network.
pub async fn describe(
    config: &Config,
    driver: &dyn Driver,
    libvirt: Option<&Libvirt>,
    network_ready: bool,
    underlay: Option<IpAddr>,
    secrets: Option<SecretNames>,
) -> HostDescription {
    let mut capabilities = BTreeSet::new();
    let system = rustix::system::uname();
    let mut versions = BTreeMap::from([
        ("stampede".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("kernel".to_owned(), system.release().to_string_lossy().into_owned()),
    ]);
    if let Ok(Ok(info)) = tokio::time::timeout(PROBE_LIMIT, driver.probe()).await {
        capabilities.insert(Capability::Container);
        versions.insert("docker".to_owned(), info.version);
    }
    let mut warnings = Vec::new();
    if let Some(libvirt) = libvirt.filter(|libvirt| libvirt.is_there())
        && let Ok(Ok(probed)) = tokio::time::timeout(PROBE_LIMIT, libvirt.probed()).await
    {
        versions.insert("libvirt".to_owned(), probed.libvirt);
        versions.insert("qemu".to_owned(), probed.qemu);
        if let Some(accelerator) = probed.accelerator {
            capabilities.insert(Capability::VirtualMachine);
            versions.insert("accelerator".to_owned(), accelerator.name().to_owned());
        }
        warnings.extend(probed.warning);
    }
    if network_ready {
        capabilities.insert(Capability::Network);
    }
    HostDescription {
        name: config.host_name(),
        labels: config.labels.clone(),
        capabilities,
        capacity: capacity(config),
        overcommit: config.placement.overcommit(),
        versions,
        warnings,
        address: advertised(config, underlay),
        secrets,
    }
}

/// Where other agents and people reach this one: as told, or where it listens; for one that listens everywhere, at the
/// address that carries the network, or the one that leads to the store.
pub fn advertised(config: &Config, underlay: Option<IpAddr>) -> String {
    if let Some(address) = &config.api.advertise {
        return address.clone();
    }
    let mut address = config.api.address;
    if address.ip().is_unspecified()
        && let Some(own) = config.network.underlay.or(underlay).or_else(|| towards_store(config))
    {
        address.set_ip(own);
    }
    address.to_string()
}

/// The names and addresses by which others reach this host, for its certificate.
pub fn names(config: &Config, underlay: Option<IpAddr>) -> BTreeSet<String> {
    let advertised = advertised(config, underlay);
    // Without the port, and an IPv6 address without its brackets.
    let host = advertised.rsplit_once(':').map_or(advertised.as_str(), |(host, _)| host);
    let listens = Some(config.api.address.ip()).filter(|address| !address.is_unspecified());
    let own = [listens, config.network.underlay, underlay, towards_store(config)];
    own.into_iter()
        .flatten()
        .map(|address| address.to_string())
        .chain([host.trim_matches(['[', ']']).to_owned()])
        .chain([rustix::system::uname().nodename().to_string_lossy().into_owned()])
        .chain(config.api.names.iter().cloned())
        .collect()
}

/// This host's address on the way to the store. Nothing is sent to find it.
fn towards_store(config: &Config) -> Option<IpAddr> {
    store_addresses(config).into_iter().find_map(|other| {
        let any = if other.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0; 16]) };
        let socket = UdpSocket::bind((any, 0)).ok()?;
        socket.connect(other).ok()?;
        socket.local_addr().ok().map(|own| own.ip())
    })
}

/// Where etcd is, as socket addresses.
pub fn store_addresses(config: &Config) -> Vec<SocketAddr> {
    let authorities = config.store.endpoints.iter().filter_map(|endpoint| endpoint.split("://").nth(1));
    authorities.filter_map(|authority| authority.trim_end_matches('/').to_socket_addrs().ok()).flatten().collect()
}

fn capacity(config: &Config) -> Capacity {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u64;
    Capacity { cpu_millis: processors * 1000, memory_mb: memory_mb(), disk_mb: disk_mb(config) }
}

/// `MemTotal` of /proc/meminfo (proc(5)), in kibibytes there.
fn memory_mb() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    total.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// Size of the file system that holds the host's state; its free space changes all the time and is none of this.
fn disk_mb(config: &Config) -> u64 {
    rustix::fs::statvfs(&config.state_directory).map_or(0, |stat| stat.f_blocks * stat.f_frsize / (1 << 20))
}
