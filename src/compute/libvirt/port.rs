//! A guest's port of the managed network: libvirt makes it with the domain, and before the guest runs its first instruction the
//! network driver, which may do that, lays the network's rules on it.

use crate::compute::{Daemon, Error};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::time::timeout;

const ACTION: &str = "make the port of the virtual machine";
const LIMIT: Duration = Duration::from_secs(10);
const LARGEST: usize = 64 << 10;

/// Has the port of the instance that has `address` be its own.
///
/// # Errors
/// Where the network driver is not there, or says no.
pub async fn pin(socket: &Path, address: &str) -> Result<(), Error> {
    let asked = timeout(LIMIT, ask(socket, address)).await;
    let (status, answer) = match asked {
        Err(_) => return Err(refused("the network driver does not answer")),
        Ok(Err(error)) => return Err(refused(&format!("the network driver cannot be reached: {error}"))),
        Ok(Ok(answer)) => answer,
    };
    if status == StatusCode::OK {
        return Ok(());
    }
    let words =
        serde_json::from_slice::<Value>(&answer).ok().and_then(|value| Some(value.get("Err")?.as_str()?.to_owned()));
    Err(refused(&words.unwrap_or_else(|| format!("the network driver says {status}"))))
}

fn refused(message: &str) -> Error {
    Error::Refused { action: ACTION, status: None, message: message.to_owned() }
}

async fn ask(socket: &Path, address: &str) -> Result<(StatusCode, Bytes), Error> {
    let gone = |source: Box<dyn std::error::Error + Send + Sync>| Error::Gone {
        daemon: Daemon::Libvirt,
        action: ACTION,
        source,
    };
    let stream = UnixStream::connect(socket).await.map_err(|error| gone(error.into()))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| gone(error.into()))?;
    tokio::spawn(connection);
    let request = Request::post(crate::network::driver::PIN)
        .header(HOST, "stampede")
        .body(Full::new(Bytes::from(json!({"Address": address}).to_string())))
        .map_err(|error| gone(error.into()))?;
    let answer = sender.send_request(request).await.map_err(|error| gone(error.into()))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LARGEST).collect().await.map_err(gone)?;
    Ok((status, body.to_bytes()))
}
