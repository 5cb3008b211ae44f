//! Flags and environment of `agent` and `up`, laid over the configuration file.

use crate::host::config::{Config, ConfigError, DEFAULT_PATH, Encryption};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// `stampede agent`.
#[derive(Debug, clap::Args)]
pub struct AgentOptions {
    /// The configuration file; /etc/stampede/config.toml if it is there.
    #[arg(long, env = "STAMPEDE_CONFIG")]
    config: Option<PathBuf>,
    /// An etcd client address, http://HOST:2379; may be given several times.
    #[arg(long = "store", env = "STAMPEDE_STORE", value_delimiter = ',')]
    store: Vec<String>,
    #[command(flatten)]
    common: CommonOptions,
    /// Which of this host's addresses carries traffic to the other hosts.
    #[arg(long, env = "STAMPEDE_UNDERLAY")]
    underlay: Option<IpAddr>,
    /// How traffic between hosts is protected: `ipsec`, or `none` for wires that are trusted.
    #[arg(long, env = "STAMPEDE_ENCRYPTION")]
    encryption: Option<String>,
}

/// `stampede up`.
#[derive(Debug, clap::Args)]
pub struct UpOptions {
    /// Where the state is kept; <state directory>/store.redb unless told.
    #[arg(long, env = "STAMPEDE_STORE_FILE")]
    store_file: Option<PathBuf>,
    #[command(flatten)]
    common: CommonOptions,
    /// Leaves the managed network out: containers are on Docker's own.
    #[arg(long)]
    no_network: bool,
}

#[derive(Debug, clap::Args)]
struct CommonOptions {
    /// This host's name in the cluster; the host name unless told.
    #[arg(long, env = "STAMPEDE_NAME")]
    name: Option<String>,
    /// Where the API listens.
    #[arg(long, env = "STAMPEDE_API_ADDRESS")]
    api_address: Option<SocketAddr>,
    /// Lets others than this machine speak to the API without TLS too.
    #[arg(long, env = "STAMPEDE_API_PLAIN_TEXT")]
    api_plain_text: bool,
    /// Makes everyone on this machine an administrator, without a key; only where the API listens on the loopback.
    #[arg(long, env = "STAMPEDE_NO_AUTH")]
    no_auth: bool,
    #[arg(long, env = "STAMPEDE_STATE_DIRECTORY")]
    state_directory: Option<PathBuf>,
    #[arg(long, env = "STAMPEDE_RUN_DIRECTORY")]
    run_directory: Option<PathBuf>,
    #[arg(long, env = "STAMPEDE_DOCKER_SOCKET")]
    docker_socket: Option<PathBuf>,
    /// Lets administrators bring up simulated hosts in this agent, for tests and demos: `POST /v1/agents {"uri": "sim://NAME"}`.
    #[arg(long, env = "STAMPEDE_ALLOW_SIMULATED")]
    allow_simulated: bool,
}

/// `stampede network-driver`.
#[derive(Debug, clap::Args)]
pub struct NetworkDriverOptions {
    /// The agent's configuration file.
    #[arg(long, env = "STAMPEDE_CONFIG", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
}

impl CommonOptions {
    fn lay_over(self, config: &mut Config) {
        config.name = self.name.or(config.name.take());
        config.api.address = self.api_address.unwrap_or(config.api.address);
        config.api.plain_text |= self.api_plain_text;
        config.api.no_auth |= self.no_auth;
        config.allow_simulated |= self.allow_simulated;
        for (told, kept) in [
            (self.state_directory, &mut config.state_directory),
            (self.run_directory, &mut config.run_directory),
            (self.docker_socket, &mut config.docker.socket),
        ] {
            if let Some(told) = told {
                *kept = told;
            }
        }
    }
}

impl AgentOptions {
    /// # Errors
    /// What is wrong with file or flags, and what to do.
    pub fn config(self) -> Result<Config, ConfigError> {
        let path = self.config.clone().unwrap_or_else(|| DEFAULT_PATH.into());
        let mut config = Config::read(&path, self.config.is_some())?;
        if !self.store.is_empty() {
            config.store.endpoints = self.store;
        }
        config.network.underlay = self.underlay.or(config.network.underlay);
        match self.encryption.as_deref() {
            None => {}
            Some("none") => config.network.encryption = Encryption::None,
            Some("either") => config.network.encryption = Encryption::Either,
            Some("ipsec") => config.network.encryption = Encryption::Ipsec,
            Some(other) => {
                return Err(ConfigError::Wrong(format!("--encryption is `ipsec`, `either` or `none`, not `{other}`")));
            }
        }
        self.common.lay_over(&mut config);
        config.check()?;
        Ok(config)
    }
}

impl UpOptions {
    /// # Errors
    /// As above.
    pub fn config(self) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        // Nobody else has business here, unless told.
        config.api.address = SocketAddr::from(([127, 0, 0, 1], 9080));
        self.common.lay_over(&mut config);
        config.store.file = Some(self.store_file.unwrap_or_else(|| config.state_directory.join("store.redb")));
        // One host has no wire to others that could be listened to.
        config.network.encryption = Encryption::None;
        config.network.enabled = !self.no_network;
        config.check()?;
        Ok(config)
    }
}
