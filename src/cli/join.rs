//! `stampede join TOKEN`: makes this host one of a cluster, without its agent.
//!
//! ```text
//! token ──► an agent of the cluster, known by the fingerprint in the token ──► secret, authority, where etcd is
//!       ──► this host's identity, key and certificate; config.toml where there is none ──► systemctl start stampede
//! ```
//! The key is made here and stays here. Cut off before the end, it is begun anew with another token.

use super::{client, trust};
use crate::api::{Invitation, Invited};
use crate::environment::Environment;
use crate::host::config::{Config, DEFAULT_PATH};
use crate::host::description::names;
use crate::membership::identity;
use crate::membership::trust::certificate::{self, NodeCertificate, Subject};
use crate::membership::trust::pin::pinned;
use crate::membership::trust::secret::write_private;
use crate::membership::trust::token::{Claim, Token};
use crate::membership::trust::{Authorities, ClusterSecret, Held, authority};
use crate::store::{encode, key};
use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, StatusCode};
use serde_json::Value;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{self, CertificateError};
use zeroize::Zeroizing;

/// For one agent to answer.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub struct JoinOptions {
    /// What `stampede token create` printed; `-` reads it from standard input, so that no list of processes shows it.
    #[arg(env = "STAMPEDE_TOKEN", hide_env_values = true)]
    token: String,
    /// Where the configuration is, or is written.
    #[arg(long, env = "STAMPEDE_CONFIG", default_value = DEFAULT_PATH)]
    config: PathBuf,
    /// This host's name in the cluster; the host name unless told.
    #[arg(long, env = "STAMPEDE_NAME")]
    name: Option<String>,
    /// Where etcd is for this host, if not where the others see it.
    #[arg(long = "store", env = "STAMPEDE_STORE", value_delimiter = ',')]
    store: Vec<String>,
    /// An agent to ask, HOST:PORT, if not those in the token.
    #[arg(long = "address")]
    addresses: Vec<String>,
}

pub async fn run(options: JoinOptions) -> Result<()> {
    let mut text = Zeroizing::new(options.token.clone());
    if text.as_str() == "-" {
        text.clear();
        std::io::stdin().take(4096).read_to_string(&mut text).context("cannot read the token")?;
    }
    let token = Token::parse(&text)?;
    let environment = Environment::system().context("cannot tell which machine this is (/etc/machine-id)")?;
    // All that can be wrong on this side, before the token is used.
    let known = options.config.exists();
    let mut config = Config::read(&options.config, false)?;
    if known && config.store.endpoints.is_empty() {
        bail!(
            "{} is there and names no etcd: add store.endpoints to it, or move it away and have it written",
            options.config.display()
        );
    }
    if options.name.is_some() {
        config.name.clone_from(&options.name);
    }
    let host = config.host_name();
    identity::create_directory(&config.state_directory)?;
    let own = trust::secret_place(&config).find()?;

    let invited = ask(&token, &options, &environment).await?;
    let secret = ClusterSecret::parse(&invited.secret).context("the answer holds no secret")?;
    let next = invited
        .next_secret
        .as_deref()
        .map(|next| ClusterSecret::parse(next).context("the answer's next secret is none"));
    let next = next.transpose()?;
    if own.as_ref().is_some_and(|own| *own != secret) {
        bail!(
            "this host has the secret of another cluster, in {} or where secret_file says: if it is to change over, move \
             it away and join with a new token",
            config.state_directory.join("secret").display()
        );
    }
    // Sealed with either, while the secret is changed.
    let held = Held { current: secret.clone(), other: next.clone(), changing: false };
    let (authorities, _) = invited.authority.under(&environment, &invited.cluster, &held)?;
    if !authorities.authorities.iter().any(|it| it.fingerprint().is_ok_and(|found| found == token.pin)) {
        bail!("the answer is of another authority than the token: make a new token");
    }
    let mut store = invited.store.clone();
    if !options.store.is_empty() {
        store.endpoints.clone_from(&options.store);
    }
    if !known {
        config.store.endpoints.clone_from(&store.endpoints);
        reachable(&store)?;
    }
    write_trust(&config, &environment, &host, &invited.cluster, &held, &authorities)?;
    if !known {
        write_config(&options, &store)?;
    }
    println!(
        "{host} may be one of the cluster {}. {}: {}\nNow: systemctl enable --now stampede-network.socket stampede.service",
        invited.cluster,
        if known { "As it was" } else { "Written" },
        options.config.display()
    );
    Ok(())
}

/// etcd as this host would reach it.
fn reachable(store: &Invitation) -> Result<()> {
    let own = |endpoint: &String| {
        ["127.", "localhost", "[::1]"]
            .iter()
            .any(|own| endpoint.split("://").nth(1).is_some_and(|it| it.starts_with(own)))
    };
    if store.endpoints.is_empty() {
        bail!("that host keeps its state in a file and is alone (`stampede up`): others join a cluster with etcd");
    }
    if store.endpoints.iter().all(own) {
        bail!(
            "the other host reaches etcd at {} only, which leads nowhere from here: say where it is with --store \
             http://HOST:2379 and a new token",
            store.endpoints.join(", ")
        );
    }
    Ok(())
}

/// Asks the agents one after the other. One that refuses the token has the last word.
async fn ask(token: &Token, options: &JoinOptions, environment: &Environment) -> Result<Invited> {
    let addresses = if options.addresses.is_empty() { &token.addresses } else { &options.addresses };
    let mut failures = Vec::new();
    for address in addresses {
        match tokio::time::timeout(LIMIT, ask_one(token, address, environment)).await {
            Ok(Ok(Said::Invited(invited))) => return Ok(*invited),
            Ok(Ok(Said::Refused(why))) => return Err(why),
            Ok(Err(error)) => failures.push(format!("{address}: {error:#}")),
            Err(_) => failures.push(format!("{address}: no answer within {} s", LIMIT.as_secs())),
        }
    }
    bail!(
        "no agent of the cluster could be asked; is TCP port 9080 open from here to there? --address HOST:PORT asks \
         another one\n  {}",
        failures.join("\n  ")
    )
}

enum Said {
    Invited(Box<Invited>),
    Refused(anyhow::Error),
}

async fn ask_one(token: &Token, address: &str, environment: &Environment) -> Result<Said> {
    let stream = TcpStream::connect(address).await.context("cannot be reached")?;
    let name = ServerName::try_from(certificate::AGENTS)?;
    let connector = TlsConnector::from(Arc::new(pinned(token.pin, environment)?));
    let stream = connector.connect(name, stream).await.map_err(explained)?;
    let claim = Zeroizing::new(serde_json::to_vec(&Claim::of(token))?);
    let request = Request::post("/cluster/join")
        .header("host", address)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::copy_from_slice(&claim)))?;
    let (status, body) = client::exchange(stream, request).await?;
    if status == StatusCode::OK {
        return Ok(Said::Invited(Box::new(serde_json::from_slice(&body).context("its answer cannot be read")?)));
    }
    let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = answer.get("message").and_then(Value::as_str).unwrap_or("no reason is given").to_owned();
    if status.is_server_error() {
        // Another agent may do better.
        bail!("{status}: {message}");
    }
    Ok(Said::Refused(anyhow!("{message} ({address}: {status})")))
}

/// What a failed handshake means for who joins.
fn explained(error: std::io::Error) -> anyhow::Error {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let why = match cause {
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "it is of another cluster than the token, or the cluster's authority is another by now: make a new token"
        }
        Some(rustls::Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        )) => "its certificate is over or not good yet: does the clock stand right, here and there?",
        Some(rustls::Error::AlertReceived(_)) => "it has no certificate: its log says what it waits for",
        _ => "it does not speak TLS: is that a Stampede agent?",
    };
    anyhow::Error::from(error).context(why)
}

fn write_trust(
    config: &Config,
    environment: &Environment,
    host: &str,
    cluster: &str,
    held: &Held,
    authorities: &Authorities,
) -> Result<()> {
    let state = &config.state_directory;
    let identity = identity::ensure(state, environment)?;
    let now = environment.clock.now();
    let subject = Subject { host: host.to_owned(), identity, names: names(config, None) };
    let signer = authorities.signer(now).context("the cluster has no authority")?;
    let lifetime = Duration::from_secs(config.certificate.lifetime_seconds);
    let own = NodeCertificate::issue(signer, cluster, &held.current, &subject, now, lifetime)?;
    let trusted: String = authorities.trusted(now).iter().map(|it| it.certificate.as_str()).collect();
    write_private(&state.join("authority.json"), &encode(&key::authority(), authorities)?)?;
    write_private(&state.join("ca.pem"), trusted.as_bytes())?;
    own.save(state)?;
    let place = trust::secret_place(config);
    if place.find()?.is_none() {
        write_private(place.own(), format!("{}\n", held.current.text().as_str()).as_bytes())?;
    }
    if let Some(next) = &held.other {
        write_private(&place.next(), format!("{}\n", next.text().as_str()).as_bytes())?;
    }
    tracing::debug!(authority = authority::shown(&signer.fingerprint()?), "joined");
    Ok(())
}

/// `config.toml`, and beside it what etcd's TLS takes.
fn write_config(options: &JoinOptions, told: &Invitation) -> Result<()> {
    let directory = options.config.parent().unwrap_or(Path::new("/etc/stampede"));
    identity::create_directory(directory)?;
    let mut store = toml::Table::from_iter([("endpoints".to_owned(), toml::Value::from(told.endpoints.clone()))]);
    for (name, value) in [("user", &told.user), ("password", &told.password)] {
        if let Some(value) = value {
            store.insert(name.into(), value.as_str().into());
        }
    }
    let mut tls = toml::Table::new();
    for (name, pem) in [("ca", &told.ca), ("certificate", &told.certificate), ("key", &told.key)] {
        if let Some(pem) = pem {
            let path = directory.join(format!("etcd-{name}.pem"));
            write_private(&path, pem.as_bytes())?;
            tls.insert(name.into(), path.display().to_string().into());
        }
    }
    if !tls.is_empty() {
        store.insert("tls".into(), tls.into());
    }
    let mut config = toml::Table::new();
    if let Some(name) = &options.name {
        config.insert("name".into(), name.as_str().into());
    }
    config.insert("store".into(), store.into());
    let table = |name: &str, value: toml::Value| toml::Value::from(toml::Table::from_iter([(name.to_owned(), value)]));
    config.insert("network".into(), table("encryption", told.encryption.as_str().into()));
    let seconds = i64::try_from(told.lease_seconds).context("the answer's lease is too long")?;
    config.insert("lease".into(), table("ttl_seconds", seconds.into()));
    let text = Zeroizing::new(format!("# Written by `stampede join`.\n\n{}", toml::to_string(&config)?));
    write_private(&options.config, text.as_bytes())?;
    Ok(())
}
