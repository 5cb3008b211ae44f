//! Against other sites' pages: a browser sends its cookies and remembered passwords with any page's requests, but only
//! our own page can read the cookie `CSRF` and say it again in a header.

use super::error::ApiError;
use super::request::text;
use crate::environment::Environment;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use subtle::ConstantTimeEq;

const COOKIE: &str = "CSRF";
const HEADER: header::HeaderName = header::HeaderName::from_static("x-api-csrf");

fn browser(headers: &HeaderMap) -> bool {
    text(headers, header::USER_AGENT).is_some_and(|agent| agent.to_ascii_lowercase().contains("mozilla"))
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE && !value.is_empty()).then_some(value))
}

/// Refuses a browser's write without the token.
pub fn check(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    if matches!(*method, Method::GET | Method::HEAD) || !browser(headers) {
        return Ok(());
    }
    match (cookie(headers), text(headers, HEADER)) {
        (Some(cookie), Some(header)) if bool::from(cookie.as_bytes().ct_eq(header.as_bytes())) => Ok(()),
        _ => Err(ApiError::with_code(
            StatusCode::FORBIDDEN,
            "InvalidCSRFToken",
            "a browser says the value of its cookie CSRF again in the header X-API-CSRF; GET any page to be given one",
        )),
    }
}

/// The cookie for a browser that has none yet.
pub fn token(environment: &Environment, headers: &HeaderMap) -> Option<HeaderValue> {
    if !browser(headers) || cookie(headers).is_some() {
        return None;
    }
    let mut bytes = [0; 16];
    environment.random.fill(&mut bytes);
    HeaderValue::try_from(format!("{COOKIE}={:032x}; Path=/; SameSite=Strict", u128::from_le_bytes(bytes))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn only_browsers_need_it_and_only_to_write() {
        let agent = ("user-agent", "Mozilla/5.0 (X11)");
        assert!(check(&Method::GET, &headers(&[agent])).is_ok());
        assert!(check(&Method::POST, &headers(&[("user-agent", "curl/8")])).is_ok());
        assert_eq!(check(&Method::POST, &headers(&[agent])).unwrap_err().code, "InvalidCSRFToken");
        let cookie = ("cookie", "a=b; CSRF=x");
        assert!(check(&Method::POST, &headers(&[agent, cookie])).is_err());
        assert!(check(&Method::POST, &headers(&[agent, cookie, ("x-api-csrf", "y")])).is_err());
        assert!(check(&Method::POST, &headers(&[agent, cookie, ("x-api-csrf", "x")])).is_ok());
        assert!(check(&Method::POST, &headers(&[agent, ("cookie", "CSRF="), ("x-api-csrf", "")])).is_err());
    }
}
