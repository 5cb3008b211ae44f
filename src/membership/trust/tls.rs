//! The three ways in which an agent speaks TLS, made from its certificate and the authorities that it trusts.
//!
//! On the API's port ALPN tells who knocks: [`AGENT`] is another agent, which has to show a certificate of the cluster's
//! authority before it is asked anything; all else is a user of the API, who shows a key later. So one port has to be open
//! between the hosts, one address is known of each, and neither kind ever reaches the other's routes.

use super::certificate::NodeCertificate;
use crate::environment::Environment;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;
use std::time::Duration;

/// What agents say to each other.
pub const AGENT: &[u8] = b"stampede/1";

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the host's certificate and its key are no good for TLS: {0}")]
    Tls(#[from] rustls::Error),
    #[error("the authorities' certificates are no good for TLS: {0}")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    #[error("the host's certificate has no key")]
    Key,
}

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Tls {
    /// For users of the API.
    pub api: Arc<ServerConfig>,
    /// For other agents: only certificates of the cluster's authority.
    pub agents: Arc<ServerConfig>,
    /// Towards other agents.
    pub client: Arc<ClientConfig>,
}

/// Certificates are good or not by the time that the environment tells.
#[derive(Debug)]
struct Time(Environment);

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.clock.now().0 / 1000).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub fn time(environment: &Environment) -> Arc<dyn TimeProvider> {
    Arc::new(Time(environment.clone()))
}

/// # Errors
/// Where one of them is no certificate.
pub fn roots<'a>(trusted: impl IntoIterator<Item = CertificateDer<'a>>) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.into_owned())?;
    }
    Ok(Arc::new(roots))
}

/// Who trusts these authorities and has no certificate of its own.
///
/// # Errors
/// Where the authorities are no good.
pub fn visitor(roots: Arc<RootCertStore>, environment: &Environment) -> Result<ClientConfig, TlsError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?;
    Ok(ClientConfig::builder_with_details(provider(), time(environment))
        .with_safe_default_protocol_versions()?
        .with_webpki_verifier(verifier)
        .with_no_client_auth())
}

impl Tls {
    /// # Errors
    /// Where the certificate does not fit its key, or the authorities are no good.
    pub fn new(
        own: &NodeCertificate,
        trusted: Arc<RootCertStore>,
        environment: &Environment,
    ) -> Result<Self, TlsError> {
        let key = || own.key().ok_or(TlsError::Key);
        let mut api = ServerConfig::builder_with_details(provider(), time(environment))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(own.chain.clone(), key()?)?;
        api.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];

        let clients = WebPkiClientVerifier::builder_with_provider(trusted.clone(), provider()).build()?;
        let mut agents = ServerConfig::builder_with_details(provider(), time(environment))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(clients)
            .with_single_cert(own.chain.clone(), key()?)?;
        agents.alpn_protocols = vec![AGENT.to_vec()];
        // Each connection shows its certificate anew: what is not trusted any more does not get in by a ticket.
        agents.session_storage = Arc::new(NoServerSessionStorage {});
        agents.send_tls13_tickets = 0;

        let servers = WebPkiServerVerifier::builder_with_provider(trusted, provider()).build()?;
        let mut client = ClientConfig::builder_with_details(provider(), time(environment))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_webpki_verifier(servers)
            .with_client_auth_cert(own.chain.clone(), key()?)?;
        client.alpn_protocols = vec![AGENT.to_vec()];
        client.resumption = rustls::client::Resumption::disabled();
        Ok(Self { api: Arc::new(api), agents: Arc::new(agents), client: Arc::new(client) })
    }
}
