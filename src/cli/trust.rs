//! What the agent and the commands need of who is who, made from the settings.

use crate::api::{Invitation, OwnLease};
use crate::environment::Environment;
use crate::host::answer::answer;
use crate::host::config::{Config, ConfigError, Encryption};
use crate::membership::Membership;
use crate::membership::peers::Answer;
use crate::membership::trust::{Keyring, SecretPlace, Settings, Trust, tls};
use crate::store::Store;
use crate::store::ledger::Ledger;
use crate::systemd::Supervision;
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};

pub fn secret_place(config: &Config) -> SecretPlace {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    SecretPlace::new(config.secret_file.clone(), credentials, &config.state_directory)
}

pub fn open(config: &Config, environment: &Environment, store: Arc<dyn Store>) -> Trust {
    let settings = Settings {
        state: config.state_directory.clone(),
        keys: Keyring::new(secret_place(config)),
        lifetime: Duration::from_secs(config.certificate.lifetime_seconds),
    };
    Trust::new(store, environment, settings)
}

/// What a host that joins here is told of the store.
///
/// # Errors
/// Where a file for etcd's TLS cannot be read.
pub fn invitation(config: &Config) -> Result<Invitation, ConfigError> {
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.clone(), source })
    };
    let tls = config.store.tls.as_ref();
    Ok(Invitation {
        endpoints: config.store.endpoints.clone(),
        user: config.store.user.clone(),
        password: config.store.password.clone(),
        ca: tls.map(|tls| read(&tls.ca)).transpose()?,
        certificate: tls.and_then(|tls| tls.certificate.as_ref()).map(read).transpose()?,
        key: tls.and_then(|tls| tls.key.as_ref()).map(read).transpose()?,
        encryption: match config.network.encryption {
            Encryption::Ipsec => "ipsec".into(),
            Encryption::Either => "either".into(),
            Encryption::None => "none".into(),
        },
        lease_seconds: config.lease.ttl_seconds,
    })
}

/// What this host says of its lease: nothing before it has one.
#[derive(Debug)]
pub struct LateLease {
    environment: Environment,
    run_directory: PathBuf,
    ledger: Ledger,
    supervision: Arc<dyn Supervision>,
    membership: OnceLock<Membership>,
}

impl LateLease {
    pub fn new(
        config: &Config,
        environment: &Environment,
        ledger: &Ledger,
        supervision: &Arc<dyn Supervision>,
    ) -> Arc<Self> {
        Arc::new(Self {
            environment: environment.clone(),
            run_directory: config.run_directory.clone(),
            ledger: ledger.clone(),
            supervision: supervision.clone(),
            membership: OnceLock::new(),
        })
    }

    pub fn set(&self, membership: Membership) {
        // Set once, by the one who joined.
        let _ = self.membership.set(membership);
    }
}

#[async_trait::async_trait]
impl OwnLease for LateLease {
    async fn answer(&self) -> Answer {
        let Some(membership) = self.membership.get() else { return Answer::Silent };
        answer(membership, &self.environment, &self.run_directory, &self.ledger, self.supervision.as_ref()).await
    }
}

/// TLS towards an agent's API, for a user who has the cluster's authority in a file.
///
/// # Errors
/// Where the file is none, or the agent does not prove that it is of the cluster.
pub async fn visit(ca: &Path, authority: &str, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
    let text = std::fs::read(ca).with_context(|| format!("cannot read {}", ca.display()))?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|found| !found.is_empty())
        .with_context(|| format!("{} holds no certificate (PEM)", ca.display()))?;
    let environment = Environment::system().context("cannot tell which machine this is")?;
    let config = tls::visitor(tls::roots(certificates)?, &environment)?;
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host).trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).with_context(|| format!("`{host}` can be no host's name"))?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.with_context(|| {
        format!("{authority} does not prove that it is of the cluster whose authority is in {}", ca.display())
    })
}
