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

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(30);

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
        let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        let (status, body) = match &self.url {
            Some(url) => {
                let (tls, authority) = match url.trim_end_matches('/').split_once("://") {
                    Some(("https", authority)) => (true, authority.to_owned()),
                    Some(("http", authority)) => (false, authority.to_owned()),
                    _ => bail!("--url is https://HOST:PORT"),
                };
                let stream = tokio::net::TcpStream::connect(&authority).await.with_context(|| {
                    format!("cannot reach {authority}: is the agent there, and its API open to others?")
                })?;
                let mut request = request.header("host", &authority);
                if let (Some(access), Some(secret)) = (&self.access_key, &self.secret_key) {
                    let text = base64::engine::general_purpose::STANDARD.encode(format!("{access}:{secret}"));
                    request = request.header("authorization", format!("Basic {text}"));
                }
                let request = request.body(Full::new(Bytes::from(bytes)))?;
                if tls {
                    let ca = self.ca.as_deref().context(
                        "https needs the cluster's authority: --ca FILE (or STAMPEDE_CA) with what `stampede ca show` prints on \
                         one of its hosts",
                    )?;
                    exchange(super::trust::visit(ca, &authority, stream).await?, request).await?
                } else {
                    exchange(stream, request).await?
                }
            }
            None => {
                let stream = tokio::net::UnixStream::connect(&self.socket).await.with_context(|| {
                    format!(
                        "cannot reach the agent at {}: is it running (systemctl status stampede), and are you root?",
                        self.socket.display()
                    )
                })?;
                let request = request.header("host", "localhost").body(Full::new(Bytes::from(bytes)))?;
                exchange(stream, request).await?
            }
        };
        let answer: Value =
            serde_json::from_slice(&body).context("the answer is no JSON: is that a Stampede agent?")?;
        if !status.is_success() {
            let text = |field: &str| answer.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
            bail!("{status}: {} {} {}", text("code"), text("message"), text("detail"));
        }
        Ok(answer)
    }
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
