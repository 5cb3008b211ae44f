//! The web UI, below `/ui/`: what `webui/` was built to, kept in the binary. It speaks the same API as everyone else.
//!
//! Files that text packs well in lie in the binary as `NAME.gz`, packed once when they were built. Their names hold a hash
//! of what is in them, so a browser keeps them for good; the page itself is asked for anew each time. Any address that is
//! no file is the page: which screen it means is the page's own affair.
//!
//! The page's policy runs the UI's own scripts alone and lets no other site show it in a frame. Styles are files, and what
//! carries the nonce that is drawn anew for each page.

use super::browser::nonce;
use super::error::ApiError;
use super::gzip;
use super::request::origin;
use crate::environment::Environment;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use flate2::read::GzDecoder;
use rust_embed::{EmbeddedFile, RustEmbed};
use std::io::Read;

pub const ROOT: &str = "/ui/";
const PAGE: &str = "index.html";
/// Stands in the page where the nonce is to be.
const NONCE: &str = "{nonce}";
/// No other site's page keeps a hand on this one.
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");
/// In place of the page, in a binary that was built without it.
const NOT_BUILT: &str = include_str!("ui_not_built.html");

/// Empty where the UI was not built before the binary was.
#[derive(RustEmbed)]
#[folder = "webui/dist/ui"]
#[allow_missing = true]
struct Files;

/// Answers what is for the UI, to anyone: it holds nothing that is of the cluster. `None` for all other requests.
pub fn open(environment: &Environment, parts: &Parts) -> Option<Result<Response, ApiError>> {
    let path = parts.uri.path();
    if path != ROOT.trim_end_matches('/') && !path.starts_with(ROOT) {
        return None;
    }
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Some(Err(ApiError::not_allowed(&parts.method, &["GET", "HEAD"])));
    }
    let Some(name) = path.strip_prefix(ROOT) else {
        return Some(Ok((StatusCode::FOUND, [(header::LOCATION, ROOT)]).into_response()));
    };
    // A browser that still has an older page may ask for a file of it: the page in its place would be no script.
    if name.starts_with("assets/") || name.rsplit('/').next().is_some_and(|last| last.contains('.')) {
        return Some(file(parts, name));
    }
    Some(Ok(page(environment, parts)))
}

fn page(environment: &Environment, parts: &Parts) -> Response {
    let nonce = nonce(environment);
    let found = Files::get(PAGE);
    let (status, text) = match &found {
        Some(page) => (StatusCode::OK, String::from_utf8_lossy(&page.data)),
        None => (StatusCode::NOT_FOUND, NOT_BUILT.into()),
    };
    let policy = format!(
        "default-src 'none'; script-src 'self'; style-src 'self' 'nonce-{nonce}'; img-src 'self' data: blob:; font-src 'self'; \
         connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, policy.as_str()),
    ];
    let mut response = (status, headers, text.replace(NONCE, &nonce)).into_response();
    // In plain text browsers only complain of it.
    if origin(parts).starts_with("https:") {
        response.headers_mut().insert(OPENER_POLICY, HeaderValue::from_static("same-origin"));
    }
    response
}

fn file(parts: &Parts, name: &str) -> Result<Response, ApiError> {
    let none = || ApiError::not_found(format!("the UI has no file {name:.80}; load the page anew"));
    if let Some(packed) = Files::get(&format!("{name}.gz")) {
        return if gzip::accepted(&parts.headers) {
            let mut response = whole(name, packed);
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            Ok(response)
        } else {
            let mut plain = Vec::new();
            GzDecoder::new(&*packed.data).read_to_end(&mut plain).map_err(|error| {
                tracing::error!(name, %error, "a file of the UI could not be unpacked");
                ApiError::internal()
            })?;
            let mut response = whole(name, packed);
            *response.body_mut() = Body::from(plain);
            Ok(response)
        };
    }
    Files::get(name).map(|plain| whole(name, plain)).ok_or_else(none)
}

fn whole(name: &str, file: EmbeddedFile) -> Response {
    // Only what lies there has a hash in its name.
    let keep = if name.starts_with("assets/") { "public, max-age=31536000, immutable" } else { "no-cache" };
    let headers =
        [(header::CONTENT_TYPE, form(name)), (header::CACHE_CONTROL, keep), (header::VARY, "Accept-Encoding")];
    (headers, file.data.into_owned()).into_response()
}

fn form(name: &str) -> &'static str {
    match name.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        Some("txt") => "text/plain; charset=utf-8",
        Some("html") => "text/html; charset=utf-8",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether or not the UI was built: what is embedded is what this serves, and nothing of it asks elsewhere.
    #[test]
    fn what_is_embedded_has_a_form_and_the_page_runs_no_script_of_its_own() {
        for name in Files::iter() {
            assert_ne!(form(name.trim_end_matches(".gz")), "application/octet-stream", "{name}");
        }
        let built = Files::get(PAGE).map(|page| String::from_utf8(page.data.into_owned()).unwrap());
        for page in [NOT_BUILT, built.as_deref().unwrap_or(NOT_BUILT)] {
            for refused in ["<script>", " style=", "http://", "https://", " onload="] {
                assert!(!page.contains(refused), "{refused} in {page}");
            }
        }
    }
}
