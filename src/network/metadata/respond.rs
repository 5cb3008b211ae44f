//! What is answered to whom: by who asks, how, and for what.

use super::known::Known;
use super::token::Tokens;
use super::tree::{Directory, Found, Kind, Path};
use super::{ec2, openstack};
use crate::network::dns::{Asker, Askers};
use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use std::net::IpAddr;
use std::time::Duration;

/// How long a token is to live, asked and answered; and the token with a question.
const TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");
const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
/// Who asks through somebody else asks for what is that one's.
const FORWARDED: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Where tokens come from.
const TOKENS: &[&str] = &["latest", "api", "token"];
/// How long one may live, seconds.
const LIVES: std::ops::RangeInclusive<u64> = 1..=21_600;
const OPENSTACK: &str = "openstack";

pub type Answer = Response<Full<Bytes>>;

/// Everything an answer needs.
#[derive(Debug)]
pub struct Responder {
    pub askers: Askers,
    pub known: Known,
    pub tokens: Tokens,
}

impl Responder {
    /// Whether who is at this address is answered at all.
    pub fn hears(&self, source: IpAddr) -> bool {
        self.askers.who(source, &self.known.subnet) != Asker::Outsider
    }

    /// The answer to a request, whose body says nothing.
    pub async fn respond<B>(&self, request: &Request<B>, source: IpAddr) -> Answer {
        let Asker::Instance(tenant) = self.askers.who(source, &self.known.subnet) else {
            return plain(StatusCode::NOT_FOUND, "you are no instance of this host\n");
        };
        let headers = request.headers();
        if headers.contains_key(FORWARDED) {
            return plain(StatusCode::FORBIDDEN, "not through somebody else (X-Forwarded-For)\n");
        }
        let bearer = format!("{} {}", tenant.instance, source.to_canonical());
        let path = Path::of(request.uri().path());
        if path.is(TOKENS) {
            return if *request.method() == Method::PUT { self.token(headers, &bearer) } else { only("PUT") };
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return only("GET, HEAD");
        }
        if headers.get(TOKEN).is_some_and(|token| !self.tokens.holds(&bearer, token.as_bytes())) {
            return plain(
                StatusCode::UNAUTHORIZED,
                "the token is none, or over: get another by PUT /latest/api/token\n",
            );
        }
        match self.find(&tenant.instance, &path).await {
            Found::Leaf(kind, value) => answer(StatusCode::OK, kind, value),
            Found::Listing(names) => answer(StatusCode::OK, Kind::Text, names.into()),
            Found::Nothing => plain(StatusCode::NOT_FOUND, "there is no such name\n"),
            Found::Unknown => {
                let mut answer = plain(StatusCode::SERVICE_UNAVAILABLE, "not known now: the store cannot be reached\n");
                answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                answer
            }
        }
    }

    fn token(&self, headers: &HeaderMap, bearer: &str) -> Answer {
        let asked = headers.get(TTL).and_then(|life| life.to_str().ok());
        let life = asked.and_then(|life| life.trim().parse::<u64>().ok()).filter(|life| LIVES.contains(life));
        let Some(life) = life else {
            let message = "say how long it is to live: X-aws-ec2-metadata-token-ttl-seconds, 1 to 21600\n";
            return plain(StatusCode::BAD_REQUEST, message);
        };
        let Some(token) = self.tokens.issue(bearer, Duration::from_secs(life)) else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "no token can be made\n");
        };
        let mut answer = answer(StatusCode::OK, Kind::Text, token.into());
        answer.headers_mut().insert(TTL, HeaderValue::from(life));
        answer
    }

    async fn find(&self, instance: &str, path: &Path) -> Found {
        let (first, second) = (path.names.first().map(String::as_str), path.names.get(1).map(String::as_str));
        let openstack = first == Some(OPENSTACK);
        // As both have them, and their readers compare them: without a slash behind.
        let (version, versions) = if openstack { (second, openstack::VERSIONS) } else { (first, ec2::VERSIONS) };
        let Some(version) = version else { return Found::Listing(versions.join("\n")) };
        if !versions.contains(&version) {
            return Found::Nothing;
        }
        let Some(facts) = self.known.of(instance).await else { return Found::Nothing };
        let directory: Directory = if openstack { openstack::version(version, &facts) } else { ec2::version(&facts) };
        directory.find(&path.below(if openstack { 2 } else { 1 }))
    }
}

fn only(methods: &'static str) -> Answer {
    let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "not by this method\n");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    answer
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    answer(status, Kind::Text, Bytes::from_static(text.as_bytes()))
}

fn answer(status: StatusCode, kind: Kind, value: Bytes) -> Answer {
    let kind = match kind {
        Kind::Text => "text/plain; charset=utf-8",
        Kind::Json => "application/json",
        Kind::Bytes => "application/octet-stream",
    };
    let mut answer = Response::new(Full::from(value));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
