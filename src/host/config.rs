//! What an agent is told: defaults, `/etc/stampede/config.toml`, environment, flags, in that order.
//!
//! Unknown keys are errors, so that a typing error does not quietly leave a default in force.

use crate::membership::record::Overcommit;
use crate::membership::trust;
use crate::placement::Policy;
use crate::resource::constraint;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where it is looked for unless `--config` says otherwise.
pub const DEFAULT_PATH: &str = "/etc/stampede/config.toml";

/// All settings of an agent.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// This host's name in the cluster; the host name unless told.
    pub name: Option<String>,
    /// What outlives a reboot: identity and ledger.
    pub state_directory: PathBuf,
    /// What does not: lease, deadline, sockets.
    pub run_directory: PathBuf,
    pub labels: BTreeMap<String, String>,
    /// Whether simulated hosts may be brought up over the API of this agent.
    pub allow_simulated: bool,
    /// Where the cluster secret is; else systemd's credential `stampede.secret`, or `<state directory>/secret`.
    pub secret_file: Option<PathBuf>,
    pub certificate: CertificateConfig,
    pub store: StoreConfig,
    pub lease: LeaseConfig,
    pub api: ApiConfig,
    pub docker: DockerConfig,
    pub network: NetworkConfig,
    pub placement: PlacementConfig,
}

/// Where the cluster's state lives.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// etcd's client addresses: `["http://10.0.0.1:2379"]`.
    pub endpoints: Vec<String>,
    /// In place of etcd: a file, for one host.
    pub file: Option<PathBuf>,
    pub user: Option<String>,
    pub password: Option<String>,
    pub tls: Option<StoreTls>,
}

/// PEM files for etcd over TLS.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoreTls {
    pub ca: PathBuf,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LeaseConfig {
    /// Seconds after which a silent host counts as gone.
    pub ttl_seconds: u64,
}

/// This host's own certificate.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CertificateConfig {
    /// How long one is good for; the next is made at about half of it.
    pub lifetime_seconds: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiConfig {
    pub address: SocketAddr,
    /// Further names and addresses that the host's certificate is good for: a load balancer's, a second network's.
    pub names: Vec<String>,
    /// What other agents and people are to use instead of `address` (which may be 0.0.0.0).
    pub advertise: Option<String>,
    /// Whether others than this machine may speak without TLS.
    pub plain_text: bool,
    /// Whether everyone on this machine is an administrator, without a key. Only where `address` is of the loopback.
    pub no_auth: bool,
    /// Root's way in; `<run directory>/api.sock` unless told.
    pub socket: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DockerConfig {
    pub socket: PathBuf,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkConfig {
    /// Whether this host has the managed network at all.
    pub enabled: bool,
    pub encryption: Encryption,
    /// The UDP port at which this host takes in ESP in UDP, for wires that drop IP protocol 50; used with those that have one too.
    pub esp_udp_port: Option<u16>,
    /// Which of this host's addresses carries the overlay; that of the route to the others unless told.
    pub underlay: Option<IpAddr>,
    /// Where hosts of other sites reach it, where its own address is translated on the way (1:1).
    pub public_address: Option<IpAddr>,
    /// Hosts of one site reach each other at their own addresses.
    pub site: Option<String>,
    /// Where Docker looks for the network driver.
    pub driver_socket: PathBuf,
    pub subnet: Ipv4Addr,
    /// Length of the subnet's prefix.
    pub prefix: u8,
    /// Length of a block's prefix: what a host takes at once.
    pub block: u8,
}

impl NetworkConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |message: &str| Err(ConfigError::Wrong(message.to_owned()));
        if self.prefix < 8 || self.block <= self.prefix || self.block > 29 {
            return wrong("network.prefix must be at least 8, network.block longer than it and at most 29");
        }
        let Some(public) = self.public_address else { return Ok(()) };
        let differs = self.underlay.is_some_and(|own| own.is_ipv4() != public.is_ipv4());
        if differs || public.is_unspecified() || public.is_loopback() || public.is_multicast() {
            return wrong(
                "network.public_address is where other hosts reach this one, of the same family as network.underlay",
            );
        }
        if self.site.is_none() {
            return wrong(
                "network.public_address is for hosts of other sites: give hosts that reach each other at their own addresses one \
                 network.site, and the others another or none",
            );
        }
        Ok(())
    }

    /// The subnet's first address but one: every host's own, for its instances.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet) + 1)
    }
}

/// What of this host may be promised, and how instances that are asked for here are placed.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PlacementConfig {
    /// How many times over processors, memory and disk may be promised.
    pub cpu_overcommit: f64,
    pub memory_overcommit: f64,
    pub disk_overcommit: f64,
    /// Of instances that say nothing themselves.
    pub policy: Policy,
}

impl PlacementConfig {
    pub fn overcommit(&self) -> Overcommit {
        // Within bounds: see `check`.
        let hundredths = |times: f64| (times * 100.0).round() as u32;
        Overcommit {
            cpu: hundredths(self.cpu_overcommit),
            memory: hundredths(self.memory_overcommit),
            disk: hundredths(self.disk_overcommit),
        }
    }
}

impl Default for PlacementConfig {
    fn default() -> Self {
        let usual = Overcommit::default();
        let times = |hundredths: u32| f64::from(hundredths) / 100.0;
        Self {
            cpu_overcommit: times(usual.cpu),
            memory_overcommit: times(usual.memory),
            disk_overcommit: times(usual.disk),
            policy: Policy::default(),
        }
    }
}

/// How traffic between hosts is kept from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encryption {
    /// ESP between all hosts. The default: what is sent in plain text is so because somebody said it by name.
    Ipsec,
    /// ESP with those that encrypt, plain text with the others: while a cluster goes from one to the other.
    Either,
    /// None: for wires that are trusted.
    None,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: None,
            state_directory: "/var/lib/stampede".into(),
            run_directory: "/run/stampede".into(),
            labels: BTreeMap::new(),
            allow_simulated: false,
            secret_file: None,
            certificate: CertificateConfig::default(),
            store: StoreConfig::default(),
            lease: LeaseConfig::default(),
            api: ApiConfig::default(),
            docker: DockerConfig::default(),
            network: NetworkConfig::default(),
            placement: PlacementConfig::default(),
        }
    }
}

impl Default for LeaseConfig {
    fn default() -> Self {
        Self { ttl_seconds: 10 }
    }
}

impl Default for CertificateConfig {
    fn default() -> Self {
        Self { lifetime_seconds: trust::certificate::LIFETIME.as_secs() }
    }
}

impl Default for ApiConfig {
    fn default() -> Self {
        Self {
            // Others are answered by TLS alone; other agents come here too.
            address: SocketAddr::from(([0, 0, 0, 0], 9080)),
            names: Vec::new(),
            advertise: None,
            plain_text: false,
            no_auth: false,
            socket: None,
        }
    }
}

impl Default for DockerConfig {
    fn default() -> Self {
        Self { socket: "/run/docker.sock".into() }
    }
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            encryption: Encryption::Ipsec,
            esp_udp_port: None,
            underlay: None,
            public_address: None,
            site: None,
            driver_socket: "/run/docker/plugins/stampede.sock".into(),
            subnet: Ipv4Addr::new(10, 42, 0, 0),
            prefix: 16,
            block: 26,
        }
    }
}

/// What is wrong with the settings, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {message}", path.display())]
    Parse { path: PathBuf, message: String },
    #[error("{0}")]
    Wrong(String),
}

impl Config {
    /// From a file; `required` is false for the one that need not be there.
    pub fn read(path: &Path, required: bool) -> Result<Self, ConfigError> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text)
                .map_err(|error| ConfigError::Parse { path: path.to_owned(), message: error.to_string() }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !required => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
        }
    }

    /// That there is one store, and no more.
    pub fn check_store(&self) -> Result<(), ConfigError> {
        let wrong = |message: &str| Err(ConfigError::Wrong(message.to_owned()));
        match (&self.store.file, self.store.endpoints.is_empty()) {
            (Some(_), false) => {
                wrong("store.endpoints and store.file exclude each other: name etcd or a file, not both")
            }
            (None, true) => wrong(
                "no store is named: set store.endpoints (or --store http://HOST:2379) to etcd's addresses, \
                 or use `stampede up` for one host without etcd",
            ),
            _ => Ok(()),
        }
    }

    /// What no type can hold.
    pub fn check(&self) -> Result<(), ConfigError> {
        let wrong = |message: &str| Err(ConfigError::Wrong(message.to_owned()));
        self.check_store()?;
        if self.api.no_auth && !self.api.address.ip().is_loopback() {
            return wrong(
                "api.no_auth makes everyone who reaches the API an administrator: it is for an address of the loopback alone \
                 (api.address = \"127.0.0.1:9080\"); elsewhere make a key with `stampede api-key create`",
            );
        }
        if !(2..=600).contains(&self.lease.ttl_seconds) {
            return wrong("lease.ttl_seconds must be between 2 and 600");
        }
        if !(10..=90 * 24 * 3600).contains(&self.certificate.lifetime_seconds) {
            return wrong("certificate.lifetime_seconds must be between 10 and 7776000 (90 days)");
        }
        let PlacementConfig { cpu_overcommit, memory_overcommit, disk_overcommit, .. } = self.placement;
        if [cpu_overcommit, memory_overcommit, disk_overcommit].iter().any(|times| !(0.01..=1000.0).contains(times)) {
            return wrong("placement.cpu_overcommit, memory_overcommit and disk_overcommit are between 0.01 and 1000");
        }
        if self.labels.contains_key(constraint::NAME) {
            return wrong(
                "no label can be called `name`: in constraints that is the host's own name; take another key",
            );
        }
        self.network.check()
    }

    pub fn lease_ttl(&self) -> Duration {
        Duration::from_secs(self.lease.ttl_seconds)
    }

    pub fn socket(&self) -> PathBuf {
        self.api.socket.clone().unwrap_or_else(|| self.run_directory.join("api.sock"))
    }

    /// The name it goes by: told, or the machine's own.
    pub fn host_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| {
            let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
            name.split('.').next().unwrap_or(&name).to_lowercase()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Config, toml::de::Error> {
        toml::from_str(text)
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_it() {
        let error = parse("[api]\nadress = \"0.0.0.0:9080\"").unwrap_err().to_string();
        assert!(error.contains("adress") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn without_authentication_it_listens_on_the_loopback_alone() {
        let config = |address: &str| {
            parse(&format!("[store]\nfile = \"s\"\n[api]\nno_auth = true\naddress = \"{address}\"")).unwrap()
        };
        config("127.0.0.1:9080").check().unwrap();
        config("[::1]:9080").check().unwrap();
        for open in ["0.0.0.0:9080", "198.18.0.1:9080"] {
            assert!(config(open).check().unwrap_err().to_string().contains("api.no_auth"), "{open}");
        }
    }

    #[test]
    fn what_is_sent_is_encrypted_unless_told_otherwise_by_name() {
        let config = parse("[store]\nendpoints = [\"http://a:2379\"]").unwrap();
        config.check().unwrap();
        assert_eq!(config.network.encryption, Encryption::Ipsec);
        assert_eq!(parse("[network]\nencryption = \"none\"").unwrap().network.encryption, Encryption::None);
        assert_eq!(parse("[network]\nencryption = \"either\"").unwrap().network.encryption, Encryption::Either);
        assert!(parse("[network]\nencryption = \"\"").is_err());
        let elsewhere =
            |text: &str| parse(&format!("[network]\nunderlay = \"10.0.0.7\"\n{text}")).unwrap().network.check();
        assert!(elsewhere("public_address = \"203.0.113.7\"\nsite = \"there\"").is_ok());
        for wrong in ["public_address = \"203.0.113.7\"", "public_address = \"fd00::7\"\nsite = \"there\""] {
            assert!(elsewhere(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn one_store_and_no_more() {
        for text in ["", "[store]\nendpoints = [\"http://a:2379\"]\nfile = \"/x\""] {
            assert!(parse(text).unwrap().check().is_err(), "{text}");
        }
    }
}
