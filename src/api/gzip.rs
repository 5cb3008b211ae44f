//! Answers packed by gzip, for clients that take it. Streams are not: each of their events is to arrive at once.

use super::request::text;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;

/// Below that it is not worth it.
const SMALLEST: usize = 1024;
/// Above that it takes a while, and others are not to wait.
const LARGE: usize = 64 * 1024;

/// Whether the client says that it takes it.
pub fn accepted(headers: &HeaderMap) -> bool {
    let list = text(headers, header::ACCEPT_ENCODING).unwrap_or_default();
    list.split(',').any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|part| {
            let quality = part.strip_prefix("q=").and_then(|quality| quality.trim().parse::<f32>().ok());
            quality.is_some_and(|quality| quality <= 0.0)
        });
        (name.eq_ignore_ascii_case("gzip") || name == "*") && !refused
    })
}

/// `body` as the body of `response`, packed where that is wanted and worth it.
pub async fn fill(response: Response<()>, asked: &HeaderMap, body: Vec<u8>) -> Response {
    let body = Bytes::from(body);
    let (mut parts, ()) = response.into_parts();
    parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if body.len() < SMALLEST || !accepted(asked) {
        return Response::from_parts(parts, Body::from(body));
    }
    let packed = if body.len() < LARGE {
        pack(&body)
    } else {
        let body = body.clone();
        tokio::task::spawn_blocking(move || pack(&body)).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
    };
    match packed {
        Ok(packed) => {
            parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            Response::from_parts(parts, Body::from(packed))
        }
        Err(error) => {
            tracing::warn!(%error, "an answer could not be packed; it goes as it is");
            Response::from_parts(parts, Body::from(body))
        }
    }
}

fn pack(body: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut packer = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    packer.write_all(body)?;
    packer.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_accept() {
        for (given, expected) in [
            ("gzip", true),
            ("deflate, GZIP;q=0.5", true),
            ("*", true),
            ("gzip;q=0", false),
            ("br, gzip; q=0.0", false),
            ("identity", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, given.parse().unwrap());
            assert_eq!(accepted(&headers), expected, "{given}");
        }
    }
}
