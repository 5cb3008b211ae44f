//! Docker's errors as ours: gone, late, refused, or not understood.

use crate::compute::{Daemon, Error};
use std::time::Duration;

pub(super) fn gone(action: &'static str, source: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Gone { daemon: Daemon::Docker, action, source: Box::new(source) }
}

/// What this client's error means.
pub(super) fn refused(action: &'static str, source: bollard::errors::Error) -> Error {
    use bollard::errors::Error as Client;
    match source {
        Client::DockerResponseServerError { status_code, message } => {
            Error::Refused { action, status: Some(status_code), message }
        }
        Client::DockerStreamError { error } => Error::Refused { action, status: None, message: error },
        Client::RequestTimeoutError
        | Client::IOError { .. }
        | Client::HyperResponseError { .. }
        | Client::HyperLegacyError { .. }
        | Client::SocketNotFoundError(_) => gone(action, source),
        // An answer cut short in the middle of a line reads as one that makes no sense, and is nothing to build on either.
        Client::JsonDataError { .. } | Client::JsonSerdeError { .. } | Client::StrParseError { .. } => {
            Error::Answer { daemon: Daemon::Docker, action, source: Box::new(source) }
        }
        other => Error::Answer { daemon: Daemon::Docker, action, source: Box::new(other) },
    }
}

/// Asks Docker, with a limit.
pub(super) async fn within<T>(
    action: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, bollard::errors::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(limit, work).await {
        Ok(result) => result.map_err(|source| refused(action, source)),
        Err(_) => Err(Error::Late { daemon: Daemon::Docker, action, limit }),
    }
}
