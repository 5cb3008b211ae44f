//! Answers of 400 and above: the contract's error body.

use crate::orchestration::ServiceError;
use crate::resource::validation::{Invalid, InvalidCode};
use crate::store;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::borrow::Cow;

/// What went wrong, as the client is told it.
#[derive(Clone, Debug)]
pub struct ApiError {
    pub status: StatusCode,
    pub code: Cow<'static, str>,
    /// In plain words, what to do.
    pub message: Option<String>,
    pub detail: Option<String>,
    pub field: Option<String>,
    /// The methods that there are instead.
    pub allow: Option<Box<str>>,
}

impl ApiError {
    /// With the code that HTTP has for the status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code: Cow::Borrowed(status.canonical_reason().unwrap_or("Error")),
            message: Some(message.into()),
            detail: None,
            field: None,
            allow: None,
        }
    }

    pub fn with_code(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { code: Cow::Borrowed(code), ..Self::new(status, message) }
    }

    /// 405, and what there is.
    pub fn not_allowed(method: &Method, allowed: &[&str]) -> Self {
        let allow = allowed.join(", ");
        let there = if allow.is_empty() { "nothing" } else { &allow };
        let message = format!("{method} is not possible here; {there} is");
        Self { allow: Some(allow.clone().into()), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, message) }
    }

    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, what)
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    pub fn invalid(code: InvalidCode, message: impl Into<String>) -> Self {
        Self::with_code(StatusCode::UNPROCESSABLE_ENTITY, code.name(), message)
    }

    /// It is not any more what the client's If-Match says.
    pub fn changed() -> Self {
        let message = "it was changed since: GET it again, and decide by what it is now";
        Self::with_code(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", message)
    }

    /// Nobody can say now; try again.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self {
            detail: Some(detail.into()),
            ..Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "the cluster's store does not answer this host; everything that runs keeps running; try again, or ask another host",
            )
        }
    }

    /// A fault of ours. What it was goes to the log, under the id that the client is told.
    pub fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "a fault in the agent; its log tells more under this error's id")
    }

    /// As the contract writes it; `id` is the request's.
    pub fn body(&self, id: &str) -> Value {
        json!({
            "id": id,
            "type": "error",
            "links": {},
            "actions": {},
            "status": self.status.as_u16(),
            "code": self.code,
            "message": self.message,
            "detail": self.detail,
            "fieldName": self.field,
        })
    }

    /// As an answer; `id` is the request's.
    pub fn response(&self, id: &str) -> Response {
        let mut response = (self.status, self.body(id).to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        if let Some(allow) = self.allow.as_deref().and_then(|allow| HeaderValue::try_from(allow).ok()) {
            headers.insert(header::ALLOW, allow);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Stampede\""));
        }
        response
    }
}

impl From<Invalid> for ApiError {
    fn from(invalid: Invalid) -> Self {
        Self { field: Some(invalid.field), ..Self::invalid(invalid.code, invalid.message) }
    }
}

impl From<store::Error> for ApiError {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Unavailable { .. } | store::Error::Compacted { .. } | store::Error::LeaseGone(_) => {
                Self::unavailable(error.to_string())
            }
            store::Error::OutcomeUnknown { .. } => Self {
                message: Some(
                    "no answer came to the write: it may have been done or not; look before you try again".into(),
                ),
                ..Self::unavailable(error.to_string())
            },
            store::Error::Full { .. } | store::Error::Denied { .. } | store::Error::Unusable(_) => Self {
                message: Some(
                    "the cluster's store refuses writes; nothing was changed; its operator has to see to it".into(),
                ),
                ..Self::unavailable(error.to_string())
            },
            store::Error::TooLarge { message } => Self {
                detail: Some(message),
                ..Self::invalid(
                    InvalidCode::MaxLengthExceeded,
                    "that is more than one resource can hold; make it smaller",
                )
            },
            store::Error::Refused { message } => {
                tracing::error!(message, "a write was none the store takes");
                Self { detail: Some(message), ..Self::internal() }
            }
            store::Error::Unreadable { key, message } => {
                tracing::error!(key, message, "a record cannot be read");
                Self { detail: Some(format!("{key} cannot be read")), ..Self::internal() }
            }
        }
    }
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::NotFound => Self::not_found("there is no such resource"),
            ServiceError::Changed => Self::changed(),
            ServiceError::Conflict(message) => Self::with_code(StatusCode::CONFLICT, "Conflict", message),
            ServiceError::ActionNotAvailable { action, state } => Self::invalid(
                InvalidCode::ActionNotAvailable,
                format!("{action} is not possible while it is {state}; its actions say what is"),
            ),
            ServiceError::Invalid { code, field, message } => {
                Self { field, ..Self::with_code(StatusCode::UNPROCESSABLE_ENTITY, code, message) }
            }
            ServiceError::Store(error) => error.into(),
        }
    }
}
