//! Speaks to another host's agent, and to no other: it has to prove that it is the host it should be.

use super::Trust;
use super::certificate::agent_name;
use crate::membership::peers::{Answer, Peers};
use crate::membership::record::Host;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Body;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use std::io;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Who asks has to go on.
const ASK: Duration = Duration::from_secs(1);
/// Who asks for a person can wait a little.
const QUESTION: Duration = Duration::from_secs(5);
const ANSWER_SIZE: usize = 8 << 20;
/// Where an agent is asked about its lease.
pub const LEASE: &str = "/agent/v1/lease";
/// Where it is asked how it reaches the others.
pub const MESH: &str = "/agent/v1/mesh";

/// Why another agent could not be spoken to.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    #[error("this host has no certificate yet")]
    NoCertificate,
    #[error("`{0}` can be no host's name in a certificate")]
    Name(String),
    #[error("{address} cannot be reached")]
    Unreachable { address: String, source: io::Error },
    /// It is another host, or of another cluster, or one of both refuses the other's certificate.
    #[error("the agent at {address} and this one do not prove to each other who they are")]
    Unproven { address: String, source: io::Error },
    #[error("the agent at {address} ended the conversation")]
    Broken { address: String, source: hyper::Error },
    #[error("the agent at {address} answered {status}")]
    Refused { address: String, status: StatusCode },
    #[error("the agent at {address} has not answered within {} s", QUESTION.as_secs())]
    Late { address: String },
    #[error("the answer of the agent at {address} cannot be read")]
    Unreadable { address: String },
}

impl Trust {
    /// A connection to the agent of that very host, by mutual TLS, to send requests on: one after the other, or one that is
    /// upgraded. It has no limit of its own.
    ///
    /// # Errors
    /// Where it cannot be reached, or does not prove that it is that host.
    pub async fn connect<B>(&self, host: &Host, address: &str) -> Result<SendRequest<B>, PeerError>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let tls = self.tls().ok_or(PeerError::NoCertificate)?;
        let name = agent_name(&host.name, &host.identity);
        let name = ServerName::try_from(name.clone()).map_err(|_| PeerError::Name(name))?;
        let unreachable = |source| PeerError::Unreachable { address: address.to_owned(), source };
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let stream = TlsConnector::from(tls.client.clone())
            .connect(name, stream)
            .await
            .map_err(|source| PeerError::Unproven { address: address.to_owned(), source })?;
        let (sender, connection) = handshake(TokioIo::new(stream))
            .await
            .map_err(|source| PeerError::Broken { address: address.to_owned(), source })?;
        let peer = address.to_owned();
        tokio::spawn(async move {
            // What went wrong shows as the failure of the request.
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(peer, %error, "a connection to an agent ended badly");
            }
        });
        Ok(sender)
    }

    /// What the agent of that very host answers at one of its paths for agents.
    ///
    /// # Errors
    /// Where it does not, or not in time.
    pub async fn question<T: DeserializeOwned>(&self, host: &Host, address: &str, path: &str) -> Result<T, PeerError> {
        let late = |_| PeerError::Late { address: address.to_owned() };
        tokio::time::timeout(QUESTION, self.get(host, address, path)).await.map_err(late)?
    }

    async fn get<T: DeserializeOwned>(&self, host: &Host, address: &str, path: &str) -> Result<T, PeerError> {
        let mut sender = self.connect::<Full<Bytes>>(host, address).await?;
        let broken = |source| PeerError::Broken { address: address.to_owned(), source };
        let unreadable = || PeerError::Unreadable { address: address.to_owned() };
        let request = Request::get(path).header("host", address).body(Full::default()).map_err(|_| unreadable())?;
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status() != StatusCode::OK {
            return Err(PeerError::Refused { address: address.to_owned(), status: response.status() });
        }
        let body = Limited::new(response.into_body(), ANSWER_SIZE).collect().await.map_err(|_| unreadable())?;
        serde_json::from_slice(&body.to_bytes()).map_err(|_| unreadable())
    }
}

#[async_trait::async_trait]
impl Peers for Trust {
    async fn ask(&self, host: &Host, address: &str) -> Answer {
        let silent = match tokio::time::timeout(ASK, self.get(host, address, LEASE)).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(error)) => chain(&error),
            Err(_) => format!("no answer within {ASK:?}"),
        };
        tracing::info!(host = host.name, address, reason = silent, "a host that seems gone does not say how it is");
        Answer::Silent
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
