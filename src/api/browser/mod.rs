//! The API in a browser: an answer's JSON in a page that shows it and lets one act on it. The page, its style and its
//! scripts are in the binary and ask no other address.
//!
//! The page's policy runs only what carries the nonce that is drawn anew for each; the JSON in it is written so that
//! nothing in it can end the script that holds it. The scripts beside this file put everything on the page as text.

use super::Context;
use super::authentication::Principal;
use super::error::ApiError;
use super::exchange::Answer;
use super::gzip;
use super::request::{by_browser, origin, text};
use super::router::respond;
use super::ui;
use crate::environment::Environment;
use crate::resource::identifier;
use axum::http::{HeaderValue, Method, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

const PAGE: &str = include_str!("page.html");
/// How the page's curl lines sign in: the names that the command line takes.
const CURL_USER: &str = "${STAMPEDE_ACCESS_KEY}:${STAMPEDE_SECRET_KEY}";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// By their addresses.
const FILES: &[(&str, &str, &str)] = &[
    ("/browser/browser.css", "text/css; charset=utf-8", include_str!("browser.css")),
    ("/browser/browser.js", SCRIPT, include_str!("browser.js")),
    ("/browser/client.js", SCRIPT, include_str!("client.js")),
    ("/browser/collection.js", SCRIPT, include_str!("collection.js")),
    ("/browser/element.js", SCRIPT, include_str!("element.js")),
    ("/browser/form.js", SCRIPT, include_str!("form.js")),
    ("/browser/resource.js", SCRIPT, include_str!("resource.js")),
    ("/browser/value.js", SCRIPT, include_str!("value.js")),
];

/// What anyone is given, signed in or not: the page's files, and from `/` the way to it.
pub async fn open(parts: &Parts) -> Option<Response> {
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return None;
    }
    let path = parts.uri.path();
    if path == "/" && asks_html(parts) {
        let vary = (header::VARY, "Accept, User-Agent");
        return Some((StatusCode::FOUND, [(header::LOCATION, ui::ROOT), vary]).into_response());
    }
    let (_, form, content) = FILES.iter().find(|(address, ..)| *address == path)?;
    let mut response = Response::new(());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(form));
    Some(gzip::fill(response, &parts.headers, content.as_bytes().to_vec()).await)
}

/// Whether the answer is to be a page.
pub fn wanted(parts: &Parts) -> bool {
    parts.uri.path().split('/').find(|segment| !segment.is_empty()) == Some("v1") && asks_html(parts)
}

/// The contract's rule: a browser's user agent that takes anything, or one that says so.
fn asks_html(parts: &Parts) -> bool {
    let query = form_urlencoded::parse(parts.uri.query().unwrap_or_default().as_bytes());
    if let Some((_, format)) = query.into_iter().find(|(name, _)| name == "_format") {
        return format == "html";
    }
    let accepts = text(&parts.headers, header::ACCEPT).unwrap_or_default();
    by_browser(&parts.headers) && (accepts.contains("*/*") || accepts.contains("text/html"))
}

/// An answer as a page.
pub async fn page(context: &Context, parts: &Parts, asker: Option<&Principal>, answer: Answer) -> Response {
    let nonce = nonce(&context.environment);
    let body = PAGE.replace("{nonce}", &nonce).replacen("{variables}", &variables(parts, asker, &answer.body), 1);
    // The tag is the JSON's.
    let answer = Answer { body: body.into_bytes(), etag: None, ..answer };
    let mut response = respond(answer, &parts.headers).await;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    // What an account saw is not for whoever uses the browser next; and the same address has JSON too.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.append(header::VARY, HeaderValue::from_static("Accept, User-Agent"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// An error as a page; for who is not signed in, the page where to do that. It asks for no key by HTTP's own means: the
/// browser's question would come before the page.
pub async fn error_page(context: &Context, parts: &Parts, error: &ApiError, id: &str) -> Response {
    let body = error.body(id).to_string().into_bytes();
    let answer = Answer { status: error.status, body, stale: None, etag: None, waited: None };
    let mut response = page(context, parts, None, answer).await;
    if let Some(allow) = error.response(id).headers_mut().remove(header::ALLOW) {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// For one page: what carries it is the page's own.
pub fn nonce(environment: &Environment) -> String {
    let mut bytes = [0; 16];
    environment.random.fill(&mut bytes);
    format!("{:032x}", u128::from_le_bytes(bytes))
}

/// The contract's four variables.
fn variables(parts: &Parts, asker: Option<&Principal>, json: &[u8]) -> String {
    let user = asker.map(|asker| identifier::format("account", asker.account));
    let written = |value: Value| in_script(&value.to_string());
    // An answer without a body, like a 304, has nothing to show.
    let data = if json.is_empty() { "null".into() } else { in_script(&String::from_utf8_lossy(json)) };
    format!(
        "var schemas = {};\nvar user = {};\nvar curlUser = {};\nvar data = {data};",
        written(format!("{}/v1/schemas", origin(parts)).into()),
        written(user.into()),
        written(CURL_USER.into()),
    )
}

/// The same JSON without the characters by which HTML could see an end, a comment or another script in it. In JSON they
/// stand in strings alone.
fn in_script(json: &str) -> String {
    let mut written = String::with_capacity(json.len() + json.len() / 16);
    for letter in json.chars() {
        match letter {
            '/' => written.push_str("\\/"),
            '<' => written.push_str("\\u003c"),
            '>' => written.push_str("\\u003e"),
            '&' => written.push_str("\\u0026"),
            '\u{2028}' => written.push_str("\\u2028"),
            '\u{2029}' => written.push_str("\\u2029"),
            other => written.push(other),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wants(address: &str, agent: &str, accept: &str) -> bool {
        let request = axum::http::Request::builder().uri(address).header("user-agent", agent).header("accept", accept);
        wanted(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn browsers_are_shown_pages_and_programs_are_not() {
        let (firefox, page) = ("Mozilla/5.0 (X11) Firefox/145.0", "text/html,application/xhtml+xml,*/*;q=0.8");
        for (address, agent, accept, expected) in [
            ("/v1", firefox, page, true),
            ("/v1/containers?limit=5", firefox, "*/*", true),
            ("//v1/containers", firefox, page, true),
            ("/v1/containers", firefox, "application/json", false),
            ("/v1/containers?_format=json", firefox, page, false),
            ("/v1/containers", "curl/8", "*/*", false),
            ("/v1/containers?_format=html", "curl/8", "", true),
            ("/v1/containers?_format=table", "python-requests/2", "*/*", false),
            ("/cluster/tokens", firefox, page, false),
        ] {
            assert_eq!(wants(address, agent, accept), expected, "{address} {agent} {accept}");
        }
    }

    #[test]
    fn nothing_ends_the_script() {
        let nasty = json!({ "name": "</script><!--<script>&\u{2028}", "/": ["\\/"] });
        let written = in_script(&nasty.to_string());
        assert!(!written.contains(['<', '>', '&', '\u{2028}']));
        assert!(!written.replace("\\/", "").contains('/'));
        assert_eq!(serde_json::from_str::<Value>(&written).unwrap(), nasty);
    }

    #[test]
    fn the_page_brings_no_scripts_without_a_nonce_and_asks_nobody_else() {
        assert_eq!(PAGE.matches("<script").count(), PAGE.matches("nonce=\"{nonce}\"").count());
        for (address, _, content) in FILES.iter().chain(&[("page", "", PAGE)]) {
            for refused in
                ["http://", "https://", "innerHTML", "insertAdjacentHTML", "document.write", "style=", "eval("]
            {
                assert!(!content.contains(refused), "{address}: {refused}");
            }
        }
    }
}
