//! A conversation as a plain answer, for who only listens: output as it was written, or one row of figures.

use super::super::error::ApiError;
use super::conversation::{Conversation, End, Told};
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::io;
use std::time::Duration;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");

/// For what was written to be sent.
const SENT: Duration = Duration::from_millis(200);

/// Where the output does not end as it should, its last line says so and the answer is cut off: to the client it is not whole.
pub fn output(conversation: Conversation) -> Response {
    let pieces = futures::stream::unfold(Some((conversation, None)), |state| async {
        let (mut conversation, failed) = state?;
        if let Some(error) = failed {
            // What is cut off takes along what was not sent yet: the last line.
            tokio::time::sleep(SENT).await;
            return Some((Err(error), None));
        }
        match conversation.told.recv().await.unwrap_or_else(|| Told::End(End::lost())) {
            Told::Output(piece) => Some((Ok(piece.bytes), Some((conversation, None)))),
            Told::Figures(text) => Some((Ok(Bytes::from(text)), Some((conversation, None)))),
            Told::End(end) if end.is_good() => None,
            Told::End(end) => {
                let words = format!("\n[stampede: {}: {}]\n", end.code, end.message);
                Some((Ok(Bytes::from(words)), Some((conversation, Some(io::Error::other(end.message))))))
            }
        }
    });
    (StatusCode::OK, [(header::CONTENT_TYPE, TEXT)], Body::from_stream(pieces)).into_response()
}

/// The first figures.
pub async fn figures(mut conversation: Conversation) -> Result<Response, ApiError> {
    match conversation.told.recv().await.unwrap_or_else(|| Told::End(End::lost())) {
        Told::Figures(text) => Ok(([(header::CONTENT_TYPE, JSON)], text).into_response()),
        Told::End(end) => {
            Err(ApiError { code: end.code, ..ApiError::new(StatusCode::SERVICE_UNAVAILABLE, end.message) })
        }
        Told::Output(_) => Err(ApiError::internal()),
    }
}
