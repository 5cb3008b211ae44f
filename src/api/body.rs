//! Bodies, whatever they call themselves.
//!
//! Many clients send no content type, and `curl -d` calls everything a form: what a body is, is told from its first
//! bytes. All of them end as one JSON object.

use super::error::ApiError;
use crate::resource::validation::InvalidCode;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Multipart};
use axum::http::{Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::{Map, Value};
use std::time::Duration;

/// A request's body in bytes.
pub const LIMIT: usize = 1 << 20;
/// To send it.
const PATIENCE: Duration = Duration::from_secs(20);

/// The whole body.
pub async fn read(body: Body) -> Result<Bytes, ApiError> {
    match tokio::time::timeout(PATIENCE, Limited::new(body, LIMIT).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "a body is at most 1 MiB; send less"))
        }
        Ok(Err(error)) => Err(ApiError::new(StatusCode::BAD_REQUEST, format!("the body broke off: {error}"))),
        Err(_) => Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not come within 20 s; send it again")),
    }
}

/// What it says.
pub async fn parse(content_type: &str, bytes: Bytes) -> Result<Map<String, Value>, ApiError> {
    let text = bytes.trim_ascii();
    match text.first() {
        None => Ok(Map::new()),
        Some(b'{') => match serde_json::from_slice(text) {
            Ok(Value::Object(map)) => Ok(map),
            Ok(_) => Err(unreadable("it is no object")),
            Err(error) => Err(unreadable(&error.to_string())),
        },
        Some(b'-') if text.starts_with(b"--") => multipart(content_type, &bytes).await,
        Some(_) if content_type.to_ascii_lowercase().contains("json") => Err(unreadable(
            &serde_json::from_slice::<Map<String, Value>>(text)
                .map_or_else(|error| error.to_string(), |_| "it is no object".to_owned()),
        )),
        Some(b'[' | b'"') => Err(unreadable("it is no object")),
        // The null that some clients send for nothing.
        Some(_) if text == b"null" => Ok(Map::new()),
        Some(_) if text.contains(&b'=') => {
            Ok(gather(form_urlencoded::parse(text).map(|(name, value)| (name.into_owned(), value.into_owned()))))
        }
        Some(_) => Err(unreadable("it is neither JSON nor a form")),
    }
}

fn unreadable(why: &str) -> ApiError {
    ApiError {
        detail: Some(why.to_owned()),
        ..ApiError::invalid(
            InvalidCode::InvalidBodyContent,
            format!("the body cannot be read: {why}; send a JSON object like {{\"name\": \"web\"}}"),
        )
    }
}

/// A name that comes several times is a list.
fn gather(pairs: impl Iterator<Item = (String, String)>) -> Map<String, Value> {
    let mut map = Map::new();
    for (name, value) in pairs {
        let value = Value::from(value);
        match map.get_mut(&name) {
            None => {
                map.insert(name, value);
            }
            Some(Value::Array(list)) => list.push(value),
            Some(one) => *one = Value::Array(vec![one.take(), value]),
        }
    }
    map
}

async fn multipart(content_type: &str, bytes: &Bytes) -> Result<Map<String, Value>, ApiError> {
    let bytes = bytes.slice(bytes.len() - bytes.trim_ascii_start().len()..);
    // The boundary is the first line, whether or not the content type names it.
    let line = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii();
    let boundary = std::str::from_utf8(&line[2..]).map_err(|_| unreadable("its boundary is no text"))?;
    let named = format!("multipart/form-data; boundary=\"{boundary}\"");
    let content_type = if content_type.contains("boundary=") { content_type } else { &named };
    let broken = |error: &dyn std::fmt::Display| unreadable(&format!("a broken multipart form: {error}"));
    let request = Request::builder()
        .header(header::CONTENT_TYPE, content_type)
        .body(Body::from(bytes))
        .map_err(|error| broken(&error))?;
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| broken(&error))?;
    let mut pairs = Vec::new();
    while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
        let Some(name) = field.name().map(str::to_owned) else { continue };
        pairs.push((name, field.text().await.map_err(|error| broken(&error))?));
    }
    Ok(gather(pairs.into_iter()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    async fn parsed(content_type: &str, text: &str) -> Result<Value, String> {
        match parse(content_type, Bytes::copy_from_slice(text.as_bytes())).await {
            Ok(map) => Ok(Value::Object(map)),
            Err(error) => Err(error.code.into_owned()),
        }
    }

    #[tokio::test]
    async fn told_from_their_first_bytes() {
        let form = "application/x-www-form-urlencoded";
        for (content_type, text, expected) in [
            ("", r#" {"a": 1}"#, json!({"a": 1})),
            (form, r#"{"a": 1}"#, json!({"a": 1})),
            ("", "a=1&b=x%20y&a=2", json!({"a": ["1", "2"], "b": "x y"})),
            ("", "", json!({})),
            ("application/json", "", json!({})),
            ("", "--X\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--X--\r\n", json!({"a": "1"})),
        ] {
            assert_eq!(parsed(content_type, text).await, Ok(expected), "{text}");
        }
        for text in ["{", "[1]", "\"a\"", "{\"a\"}", "hello", "--", "--X\r\nrubbish", "{\"a\":1}}"] {
            assert_eq!(parsed("", text).await, Err("InvalidBodyContent".into()), "{text}");
            assert_eq!(parsed("application/json", text).await, Err("InvalidBodyContent".into()), "{text}");
        }
        let deep = "{\"a\":".repeat(1000);
        assert_eq!(parsed("", &deep).await, Err("InvalidBodyContent".into()));
    }
}
