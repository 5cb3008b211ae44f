//! Fetching over HTTP: whole, or an error. What breaks off is gone on with where it was, if the server still has the same.

use super::Error;
use super::checksum::Hasher;
use crate::environment::{Backoff, Environment};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_ENCODING, CONTENT_LENGTH, ETAG, HOST, HeaderValue, IF_RANGE, LAST_MODIFIED, LOCATION, RANGE, USER_AGENT,
};
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncSeekExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

/// Until there is a connection, and until there is an answer.
const CONNECT: Duration = Duration::from_secs(20);
const ANSWER: Duration = Duration::from_secs(60);
/// Between two pieces.
const SILENCE: Duration = Duration::from_secs(60);
const REDIRECTS: usize = 8;
/// Tries in a row in which nothing came.
const TRIES: u32 = 5;

/// How far it is, in words.
pub type Progress<'a> = &'a (dyn for<'b> Fn(&'b str) + Send + Sync);

/// Why one try ended.
enum Broken {
    /// It is of no use to try again.
    For(Error),
    /// It may be better next time.
    Now(String),
}

/// What a fetch goes by.
pub struct Fetch<'a> {
    pub url: &'a str,
    pub environment: &'a Environment,
    /// In bytes.
    pub most: u64,
    pub progress: Progress<'a>,
    /// Addresses that nothing is fetched from.
    pub refused: Refused,
}

/// See [`is_own`].
pub type Refused = fn(IpAddr) -> bool;

/// Whether an address is the host itself, or known on its own wire alone: whoever names an image is not to have it fetch what only
/// the host may ask for, above all what a cloud tells its machine at 169.254.169.254 (RFC 3927, RFC 4291).
pub fn is_own(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_loopback() || address.is_link_local() || address.is_unspecified(),
        IpAddr::V6(address) => address.is_loopback() || address.is_unicast_link_local() || address.is_unspecified(),
    }
}

/// How far a fetch is.
struct State {
    got: u64,
    hasher: Option<Hasher>,
    /// By which the server knows that it is still the same.
    same: Option<HeaderValue>,
}

impl Fetch<'_> {
    /// Fetches into `file`, which is empty; the digits of its checksum, where one is reckoned.
    ///
    /// # Errors
    /// Where it does not come, or is larger than it may be.
    pub async fn write_into(&self, file: &mut File, hasher: Option<Hasher>) -> Result<Option<String>, Error> {
        let fresh = hasher.clone();
        let mut state = State { got: 0, hasher, same: None };
        let mut backoff = Backoff::new(self.environment, Duration::from_secs(1), Duration::from_secs(15));
        let mut failures = 0;
        loop {
            let before = state.got;
            let reason = match self.go_on(file, &mut state, fresh.as_ref()).await {
                Ok(()) => return Ok(state.hasher.map(Hasher::finish)),
                Err(Broken::For(error)) => return Err(error),
                Err(Broken::Now(reason)) => reason,
            };
            if state.got > before {
                failures = 0;
                backoff.reset();
            }
            failures += 1;
            if failures >= TRIES {
                return Err(Error::Fetch { url: self.url.to_owned(), reason });
            }
            tracing::info!(url = self.url, reason, got = state.got, "tried again");
            (self.progress)(&format!("fetching {}: {reason}; trying again", self.url));
            backoff.wait().await;
        }
    }

    async fn go_on(&self, file: &mut File, state: &mut State, fresh: Option<&Hasher>) -> Result<(), Broken> {
        let file_failed = |source| Broken::For(Error::File { path: "the image's file".into(), source });
        let response = self.answer(state).await?;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            // From the start, on the first try and where it is another by now.
            (state.got, state.hasher) = (0, fresh.cloned());
            file.set_len(0).await.map_err(file_failed)?;
            file.rewind().await.map_err(file_failed)?;
        }
        let header = |name| response.headers().get(name).cloned();
        state.same = header(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")).or_else(|| header(LAST_MODIFIED));
        let rest = header(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let whole = rest.map(|rest| state.got.saturating_add(rest));
        let large = || Broken::For(Error::Large { url: self.url.to_owned(), most: self.most });
        if whole.is_some_and(|whole| whole > self.most) {
            return Err(large());
        }
        let mut body = response.into_body();
        let mut told = None;
        loop {
            let frame = match timeout(SILENCE, body.frame()).await {
                Err(_) => return Err(Broken::Now(format!("nothing came for {}s", SILENCE.as_secs()))),
                Ok(None) => break,
                Ok(Some(Err(error))) => return Err(Broken::Now(error.to_string())),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(piece) = frame.into_data() else { continue };
            if state.got + piece.len() as u64 > self.most {
                return Err(large());
            }
            if let Some(hasher) = &mut state.hasher {
                hasher.update(&piece);
            }
            file.write_all(&piece).await.map_err(file_failed)?;
            state.got += piece.len() as u64;
            let megabytes = state.got >> 20;
            if told != Some(megabytes) {
                told = Some(megabytes);
                (self.progress)(&match whole {
                    Some(whole) => format!("fetching {}: {megabytes} of {} MB", self.url, whole.div_ceil(1 << 20)),
                    None => format!("fetching {}: {megabytes} MB", self.url),
                });
            }
        }
        file.flush().await.map_err(file_failed)?;
        match whole {
            Some(whole) if state.got < whole => Err(Broken::Now(format!("it broke off after {} bytes", state.got))),
            _ => Ok(()),
        }
    }

    /// What the server says, after redirects.
    async fn answer(&self, state: &State) -> Result<Response<Incoming>, Broken> {
        let mut url = self.url.to_owned();
        for _ in 0..REDIRECTS {
            let response = ask(&url, state, self.refused).await?;
            let status = response.status();
            let location = response.headers().get(LOCATION).and_then(|location| location.to_str().ok());
            match (status, location) {
                (StatusCode::OK | StatusCode::PARTIAL_CONTENT, _) => return Ok(response),
                (status, Some(location)) if status.is_redirection() => url = joined(&url, location),
                _ if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                    return Err(Broken::Now(format!("the server says {status}")));
                }
                _ => return Err(for_good(self.url, format!("the server says {status}"))),
            }
        }
        Err(for_good(self.url, "it leads from one address to the next".to_owned()))
    }
}

fn for_good(url: &str, reason: String) -> Broken {
    Broken::For(Error::Fetch { url: url.to_owned(), reason })
}

/// A redirect may name a whole address, or a path of the same server.
fn joined(url: &str, location: &str) -> String {
    let server = || url.splitn(4, '/').take(3).collect::<Vec<_>>().join("/");
    match location {
        _ if location.starts_with("http://") || location.starts_with("https://") => location.to_owned(),
        _ if location.starts_with("//") => format!("{}{location}", url.split("//").next().unwrap_or_default()),
        _ if location.starts_with('/') => format!("{}{location}", server()),
        _ => format!("{}/{location}", url.rsplit_once('/').map_or(url, |(folder, _)| folder)),
    }
}

trait Wire: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Wire for T {}

async fn ask(url: &str, state: &State, refused: Refused) -> Result<Response<Incoming>, Broken> {
    let wrong = || Broken::For(Error::Url { url: url.to_owned() });
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
    let tls = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => return Err(wrong()),
    };
    let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let now = |error: &dyn std::fmt::Display| Broken::Now(error.to_string());
    let connecting = async {
        let found: Vec<SocketAddr> = lookup_host((host.as_str(), port)).await.map_err(|error| now(&error))?.collect();
        // What is looked at is what is gone to.
        let allowed: Vec<SocketAddr> = found.iter().filter(|at| !refused(at.ip())).copied().collect();
        if allowed.is_empty() && !found.is_empty() {
            let reason = format!(
                "{host} is an address that means the host itself or its own wire, and nothing is fetched from there"
            );
            return Err(for_good(url, reason));
        }
        let stream = TcpStream::connect(&*allowed).await.map_err(|error| now(&error))?;
        Ok::<Box<dyn Wire>, Broken>(if tls { Box::new(secured(stream, &host, url).await?) } else { Box::new(stream) })
    };
    let stream =
        timeout(CONNECT, connecting).await.map_err(|_| Broken::Now("the server does not answer".to_owned()))??;
    let authority =
        uri.authority().map(|authority| authority.as_str().rsplit('@').next().unwrap_or_default().to_owned());
    let mut request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, authority.unwrap_or_default())
        .header(USER_AGENT, concat!("stampede/", env!("CARGO_PKG_VERSION")))
        // What is fetched is what its checksum is of.
        .header(ACCEPT_ENCODING, "identity");
    if let (1.., Some(same)) = (state.got, &state.same) {
        request = request.header(RANGE, format!("bytes={}-", state.got)).header(IF_RANGE, same);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|_| wrong())?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| now(&error))?;
    tokio::spawn(connection);
    let answer = timeout(ANSWER, sender.send_request(request)).await;
    answer
        .map_err(|_| Broken::Now("the server takes the request and does not answer".to_owned()))?
        .map_err(|error| now(&error))
}

async fn secured(stream: TcpStream, host: &str, url: &str) -> Result<impl Wire + use<>, Broken> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err(for_good(url, "this host knows no certificate authorities: install ca-certificates".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| for_good(url, error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name =
        rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|error| for_good(url, error.to_string()))?;
    let secured = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    secured.map_err(|error| match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        // That it is another, or has run out, is no matter of trying again.
        Some(rustls::Error::InvalidCertificate(_)) => for_good(url, error.to_string()),
        _ => Broken::Now(error.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_the_host_may_ask_is_not_asked_for_others() {
        for own in
            ["127.0.0.1", "127.9.9.9", "169.254.169.254", "0.0.0.0", "::1", "::", "fe80::1", "::ffff:169.254.169.254"]
        {
            assert!(is_own(own.parse().unwrap()), "{own}");
        }
        for other in ["10.1.2.3", "192.168.1.1", "198.18.0.254", "203.0.113.7", "2001:db8::1", "fd00::1"] {
            assert!(!is_own(other.parse().unwrap()), "{other}");
        }
    }

    #[test]
    fn where_redirects_lead() {
        let url = "https://a.example:8443/x/image.qcow2";
        assert_eq!(joined(url, "http://b.example/y"), "http://b.example/y");
        assert_eq!(joined(url, "//b.example/y"), "https://b.example/y");
        assert_eq!(joined(url, "/y"), "https://a.example:8443/y");
        assert_eq!(joined(url, "y"), "https://a.example:8443/x/y");
    }
}
