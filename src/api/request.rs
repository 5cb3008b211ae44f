//! A request, taken apart: what it is about, who asks, and under which addresses the answer's links are to be.

use super::authentication::Principal;
use super::error::ApiError;
use super::listener::Peer;
use super::precondition::Preconditions;
use axum::http::{HeaderMap, Method, header, request::Parts};
use form_urlencoded::Serializer;

const IDEMPOTENCY_KEY: header::HeaderName = header::HeaderName::from_static("idempotency-key");

/// See the module's text.
#[derive(Debug)]
pub struct Request {
    pub method: Method,
    /// `http://h:9080/v1`.
    pub base: String,
    /// What comes behind `/v1/`.
    pub path: Vec<String>,
    pub query: Vec<(String, String)>,
    pub content_type: String,
    pub principal: Principal,
    pub preconditions: Preconditions,
    pub idempotency_key: Option<String>,
}

impl Request {
    pub fn new(parts: &Parts, principal: Principal) -> Self {
        let path = parts.uri.path().split('/').filter(|segment| !segment.is_empty()).skip(1).map(str::to_owned);
        Self {
            method: parts.method.clone(),
            base: format!("{}/v1", origin(parts)),
            path: path.collect(),
            query: form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes())
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect(),
            content_type: text(&parts.headers, header::CONTENT_TYPE).unwrap_or_default().to_owned(),
            principal,
            preconditions: Preconditions {
                matches: text(&parts.headers, header::IF_MATCH).map(str::to_owned),
                none_match: text(&parts.headers, header::IF_NONE_MATCH).map(str::to_owned),
            },
            idempotency_key: text(&parts.headers, IDEMPOTENCY_KEY).map(str::to_owned),
        }
    }

    /// The first parameter of that name.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// Its own address without the query.
    pub fn address(&self) -> String {
        format!("{}/{}", self.base, self.path.join("/"))
    }

    /// Its own address with some parameters changed (`None` takes one out), the others as they were.
    pub fn address_with(&self, changes: &[(&str, Option<&str>)]) -> String {
        let mut query = Serializer::new(String::new());
        for (name, value) in &self.query {
            if !changes.iter().any(|(changed, _)| changed == name) {
                query.append_pair(name, value);
            }
        }
        for (name, value) in changes {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        let query = query.finish();
        if query.is_empty() { self.address() } else { format!("{}?{query}", self.address()) }
    }
}

pub fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The cookie of that name; one without a value is none.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(given, value)| (given == name && !value.is_empty()).then_some(value))
}

/// Whether a browser asks.
pub fn by_browser(headers: &HeaderMap) -> bool {
    text(headers, header::USER_AGENT).is_some_and(|agent| agent.to_ascii_lowercase().contains("mozilla"))
}

/// A browser sends remembered passwords with another site's sockets too.
///
/// # Errors
/// 403 where a page of another site asks.
pub fn same_site(parts: &Parts) -> Result<(), ApiError> {
    let Some(origin) = text(&parts.headers, header::ORIGIN) else { return Ok(()) };
    let host = origin.split_once("://").map_or(origin, |(_, host)| host);
    if text(&parts.headers, header::HOST).is_none_or(|own| !own.eq_ignore_ascii_case(host)) {
        return Err(ApiError::forbidden("a page of another site may not do this in its reader's name"));
    }
    Ok(())
}

/// `http://h:9080`, as the client sees us.
pub fn origin(parts: &Parts) -> String {
    let tls = matches!(parts.extensions.get::<Peer>(), Some(Peer::Tls { .. }));
    origin_of(&parts.headers, if tls { "https" } else { "http" })
}

/// `own` is how the client reached this host; a proxy before it may say more.
fn origin_of(headers: &HeaderMap, own: &'static str) -> String {
    let forwarded = |name: &'static str| {
        // Behind several proxies, the first entry is what the client said.
        text(headers, header::HeaderName::from_static(name))
            .map(|list| list.split(',').next().unwrap_or_default().trim())
            .filter(|value| !value.is_empty())
    };
    let host = forwarded("x-forwarded-host")
        .or_else(|| text(headers, header::HOST))
        .filter(|host| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte)))
        .filter(|host| !host.is_empty())
        .unwrap_or("localhost:9080");
    let scheme = match forwarded("x-forwarded-proto") {
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => "https",
        Some(_) => "http",
        None => own,
    };
    format!("{scheme}://{host}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(own: &'static str, pairs: &[(&'static str, &'static str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        origin_of(&headers, own)
    }

    fn from(pairs: &[(&'static str, &'static str)]) -> String {
        by("http", pairs)
    }

    #[test]
    fn links_are_where_the_client_looks() {
        assert_eq!(from(&[("host", "h:9080")]), "http://h:9080");
        assert_eq!(from(&[("host", "h"), ("x-forwarded-proto", "https")]), "https://h");
        assert_eq!(from(&[("host", "h"), ("x-forwarded-host", "a.example, b")]), "http://a.example");
        assert_eq!(from(&[("host", "h"), ("x-forwarded-proto", "javascript")]), "http://h");
        assert_eq!(from(&[("host", "[fd00::1]:9080")]), "http://[fd00::1]:9080");
        assert_eq!(from(&[("host", "h\"><script>")]), "http://localhost:9080");
        assert_eq!(from(&[]), "http://localhost:9080");
        assert_eq!(by("https", &[("host", "h:9080")]), "https://h:9080");
        assert_eq!(by("https", &[("host", "h"), ("x-forwarded-proto", "http")]), "http://h");
    }
}
