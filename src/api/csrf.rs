//! Against other sites' pages: a browser sends its cookies and remembered passwords with any page's requests, but only
//! our own page can read the cookie `CSRF` and say it again in a header.

use super::error::ApiError;
use super::request::{by_browser, cookie, text};
use super::session;
use crate::environment::Environment;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts};
use subtle::ConstantTimeEq;

const COOKIE: &str = "CSRF";
const HEADER: header::HeaderName = header::HeaderName::from_static("x-api-csrf");

/// Refuses a write without the token from a browser, and from whoever shows a session: a user agent can be anything.
pub fn check(parts: &Parts) -> Result<(), ApiError> {
    let reads = matches!(parts.method, Method::GET | Method::HEAD);
    if reads || !by_browser(&parts.headers) && session::token(parts).is_none() {
        return Ok(());
    }
    demand(&parts.headers)
}

/// Refuses what comes without the token.
pub fn demand(headers: &HeaderMap) -> Result<(), ApiError> {
    match (cookie(headers, COOKIE), text(headers, HEADER)) {
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
    if !by_browser(headers) || cookie(headers, COOKIE).is_some() {
        return None;
    }
    let mut bytes = [0; 16];
    environment.random.fill(&mut bytes);
    HeaderValue::try_from(format!("{COOKIE}={:032x}; Path=/; SameSite=Strict", u128::from_le_bytes(bytes))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(method: Method, pairs: &[(&'static str, &'static str)]) -> Result<(), ApiError> {
        let mut request = axum::http::Request::builder().method(method).uri("/v1/containers");
        for (name, value) in pairs {
            request = request.header(*name, *value);
        }
        check(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn only_browsers_need_it_and_only_to_write() {
        let agent = ("user-agent", "Mozilla/5.0 (X11)");
        assert!(asked(Method::GET, &[agent]).is_ok());
        assert!(asked(Method::POST, &[("user-agent", "curl/8")]).is_ok());
        assert_eq!(asked(Method::POST, &[agent]).unwrap_err().code, "InvalidCSRFToken");
        let cookie = ("cookie", "a=b; CSRF=x");
        assert!(asked(Method::POST, &[agent, cookie]).is_err());
        assert!(asked(Method::POST, &[agent, cookie, ("x-api-csrf", "y")]).is_err());
        assert!(asked(Method::POST, &[agent, cookie, ("x-api-csrf", "x")]).is_ok());
        assert!(asked(Method::POST, &[agent, ("cookie", "CSRF="), ("x-api-csrf", "")]).is_err());
    }

    #[test]
    fn a_session_needs_it_whatever_the_user_agent_says() {
        let session = ("cookie", "stampede=00; CSRF=x");
        assert!(asked(Method::GET, &[session]).is_ok());
        assert!(asked(Method::DELETE, &[session, ("user-agent", "curl/8")]).is_err());
        assert!(asked(Method::DELETE, &[session, ("x-api-csrf", "x")]).is_ok());
    }
}
