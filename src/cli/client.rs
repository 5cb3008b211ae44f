//! Asks an agent: over its Unix socket as root, or over TCP with a key.

use anyhow::{Context, Result, bail};
use base64::Engine;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::tungstenite::{self, client::IntoClientRequest};
use tokio_tungstenite::{WebSocketStream, client_async};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);

/// How long it may take until something comes of an instance, which may wait for Docker.
const OPEN: Duration = Duration::from_secs(60);

/// A connection of any kind.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

pub type Socket = WebSocketStream<Box<dyn Stream>>;

/// A connection to an agent, and what goes with each request on it.
struct Way {
    stream: Box<dyn Stream>,
    authority: String,
    authorization: Option<String>,
}

/// Where to ask, and as whom.
#[derive(Clone, Debug, clap::Args)]
pub struct Target {
    /// An agent's API, https://HOST:9080; this host's own by its Unix socket unless told.
    #[arg(long, env = "STAMPEDE_URL")]
    url: Option<String>,
    /// The key's public value.
    #[arg(long, env = "STAMPEDE_ACCESS_KEY", requires = "url")]
    access_key: Option<String>,
    /// The key's secret value; better in the environment than on the command line.
    #[arg(long, env = "STAMPEDE_SECRET_KEY", hide_env_values = true, requires = "access_key")]
    secret_key: Option<String>,
    /// The cluster's authority, as `stampede ca show` prints it: for https.
    #[arg(long, env = "STAMPEDE_CA", requires = "url")]
    ca: Option<PathBuf>,
    /// The agent's Unix socket.
    #[arg(long, env = "STAMPEDE_SOCKET", default_value = "/run/stampede/api.sock")]
    socket: PathBuf,
}

/// Runs one command's work.
pub fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?.block_on(work)
}

impl Target {
    /// One request; the body of a good answer, or its error in words.
    pub async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        tokio::time::timeout(LIMIT, self.ask_unlimited(method, path, body))
            .await
            .with_context(|| format!("no answer within {} s", LIMIT.as_secs()))?
    }

    async fn ask_unlimited(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let bytes = body.map(serde_json::to_vec).transpose()?.unwrap_or_default();
        let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let way = self.connect().await?;
        if let Some(authorization) = &way.authorization {
            request = request.header("authorization", authorization);
        }
        let request = request.header("host", &way.authority).body(Full::new(Bytes::from(bytes)))?;
        let (status, body) = exchange(way.stream, request).await?;
        let answer: Value =
            serde_json::from_slice(&body).context("the answer is no JSON: is that a Stampede agent?")?;
        if !status.is_success() {
            bail!("{status}: {}", words(&answer));
        }
        Ok(answer)
    }

    /// A WebSocket at that path, or the error that was answered, in words.
    pub async fn open(&self, path: &str) -> Result<Socket> {
        tokio::time::timeout(OPEN, self.open_unlimited(path))
            .await
            .with_context(|| format!("no answer within {} s", OPEN.as_secs()))?
    }

    async fn open_unlimited(&self, path: &str) -> Result<Socket> {
        let way = self.connect().await?;
        let mut request = format!("ws://{}{path}", way.authority).into_client_request()?;
        if let Some(authorization) = &way.authorization {
            request.headers_mut().insert("authorization", authorization.parse()?);
        }
        match client_async(request, way.stream).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(response)) => {
                let body = response.body().as_deref().unwrap_or_default();
                let answer: Value =
                    serde_json::from_slice(body).context("the answer is no JSON: is that a Stampede agent?")?;
                bail!("{}: {}", response.status(), words(&answer))
            }
            Err(error) => Err(error).context("the agent ended the conversation"),
        }
    }

    /// A connection to the agent.
    async fn connect(&self) -> Result<Way> {
        match &self.url {
            Some(url) => {
                let (tls, authority) = match url.trim_end_matches('/').split_once("://") {
                    Some(("https", authority)) => (true, authority.to_owned()),
                    Some(("http", authority)) => (false, authority.to_owned()),
                    _ => bail!("--url is https://HOST:PORT"),
                };
                let stream = tokio::net::TcpStream::connect(&authority).await.with_context(|| {
                    format!("cannot reach {authority}: is the agent there, and its API open to others?")
                })?;
                let authorization = self.access_key.as_ref().zip(self.secret_key.as_ref()).map(|(access, secret)| {
                    let text = base64::engine::general_purpose::STANDARD.encode(format!("{access}:{secret}"));
                    format!("Basic {text}")
                });
                let stream: Box<dyn Stream> = if tls {
                    let ca = self.ca.as_deref().context(
                        "https needs the cluster's authority: --ca FILE (or STAMPEDE_CA) with what `stampede ca show` prints on \
                         one of its hosts",
                    )?;
                    Box::new(super::trust::visit(ca, &authority, stream).await?)
                } else {
                    Box::new(stream)
                };
                Ok(Way { stream, authority, authorization })
            }
            None => {
                let stream = tokio::net::UnixStream::connect(&self.socket).await.with_context(|| {
                    format!(
                        "cannot reach the agent at {}: is it running (systemctl status stampede), and are you root?",
                        self.socket.display()
                    )
                })?;
                Ok(Way { stream: Box::new(stream), authority: "localhost".into(), authorization: None })
            }
        }
    }
}

/// An error's answer.
fn words(answer: &Value) -> String {
    let text = |field: &str| answer.get(field).and_then(Value::as_str).unwrap_or_default();
    format!("{} {} {}", text("code"), text("message"), text("detail"))
}

pub async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(hyper::StatusCode, Bytes)>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // Its failure shows as the failure of the request.
        let _ = connection.await;
    });
    let response = sender.send_request(request).await.context("the agent ended the conversation")?;
    let status = response.status();
    Ok((status, response.into_body().collect().await?.to_bytes()))
}
