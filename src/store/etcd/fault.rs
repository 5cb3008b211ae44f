//! What went wrong in a call to etcd, and above all: whether it may have been done.
//!
//! etcd tells its errors apart by their text; the codes alone do not suffice.

use crate::store::{Error, LeaseId, Revision};
use std::error::Error as _;

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Fault {
    /// It was not sent: no connection came about.
    Unsent(String),
    /// It was sent and no answer came, or one that does not tell.
    Lost(String),
    /// The member did nothing; another one may.
    Elsewhere(String),
    /// The lease it names is gone.
    LeaseGone,
    /// It was answered for good, and nothing was done.
    Final(Error),
}

impl Fault {
    /// As the store's error, where nothing was to be written.
    pub(super) fn read(self) -> Error {
        match self {
            Self::Unsent(message) | Self::Lost(message) | Self::Elsewhere(message) => Error::Unavailable { message },
            Self::LeaseGone => Error::LeaseGone(LeaseId(0)),
            Self::Final(error) => error,
        }
    }

    /// As the store's error, where something was to be written.
    pub(super) fn write(self, lease: Option<LeaseId>) -> Error {
        match self {
            Self::Lost(message) => Error::OutcomeUnknown { message },
            Self::LeaseGone => Error::LeaseGone(lease.unwrap_or(LeaseId(0))),
            other => other.read(),
        }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl From<etcd_client::Error> for Fault {
    fn from(error: etcd_client::Error) -> Self {
        use etcd_client::Error as Etcd;
        match error {
            Etcd::GRpcStatus(status) => {
                let unsent = sources(&status).any(never_left);
                let from_below = status.source().is_some();
                let message = with_sources(&status, status.message());
                match (unsent, from_below) {
                    (true, _) => Self::Unsent(message),
                    (false, true) => Self::Lost(message),
                    (false, false) => spoken(status.code(), message),
                }
            }
            Etcd::TransportError(error) => Self::Unsent(with_sources(&error, &error.to_string())),
            Etcd::InvalidArgs(_) | Etcd::InvalidUri(_) | Etcd::InvalidMetadataValue(_) => {
                Self::Final(Error::Unusable(format!("etcd cannot be used so: {error}")))
            }
            other => Self::Lost(other.to_string()),
        }
    }
}

/// No connection came about, or it ended while the call was still waiting for its turn on it.
fn never_left(source: Source<'_>) -> bool {
    source.is::<tonic::ConnectError>() || source.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled)
}

/// What etcd itself said.
pub(super) fn spoken(code: tonic::Code, message: String) -> Fault {
    use tonic::Code;
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    if says(&["lease not found"]) {
        Fault::LeaseGone
    } else if says(&["database space exceeded"]) {
        Fault::Final(Error::Full { message })
    } else if says(&["request is too large", "too many operations", "larger than max"]) {
        Fault::Final(Error::TooLarge { message })
    } else if says(&["has been compacted"]) {
        Fault::Final(Error::Compacted { revision: Revision(0) })
    } else if says(&["auth", "permission denied", "user name", "password"])
        || matches!(code, Code::Unauthenticated | Code::PermissionDenied)
    {
        Fault::Final(Error::Denied { message })
    } else if says(&["no leader", "too many requests", "learner", "not capable"]) {
        // Checked before anything is proposed.
        Fault::Elsewhere(message)
    } else if matches!(
        code,
        Code::InvalidArgument | Code::NotFound | Code::FailedPrecondition | Code::OutOfRange | Code::Unimplemented
    ) {
        Fault::Final(Error::Refused { message })
    } else {
        // "request timed out", "leader changed", "server stopped": proposed, and then nobody knows.
        Fault::Lost(message)
    }
}

type Source<'a> = &'a (dyn std::error::Error + 'static);

fn sources(error: Source<'_>) -> impl Iterator<Item = Source<'_>> {
    std::iter::successors(error.source(), |error: &Source<'_>| (*error).source())
}

/// The message and what it came from, each said once.
fn with_sources(error: &(dyn std::error::Error + 'static), message: &str) -> String {
    sources(error).fold(message.to_owned(), |mut whole, source| {
        let text = source.to_string();
        if !whole.contains(&text) {
            whole = format!("{whole}: {text}");
        }
        whole
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    #[test]
    fn what_may_have_been_done_is_never_called_undone() {
        for message in [
            "etcdserver: request timed out",
            "etcdserver: request timed out, possibly due to previous leader failure",
            "etcdserver: leader changed",
            "etcdserver: server stopped",
            "something new",
        ] {
            let fault = spoken(Code::Unavailable, message.into());
            assert!(matches!(fault.write(None), Error::OutcomeUnknown { .. }), "{message}");
        }
    }

    #[test]
    fn etcds_words_have_their_errors() {
        let error = |code, message: &str| spoken(code, message.into()).write(Some(LeaseId(7)));
        assert!(matches!(error(Code::NotFound, "etcdserver: requested lease not found"), Error::LeaseGone(LeaseId(7))));
        assert!(matches!(
            error(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            Error::Full { .. }
        ));
        assert!(matches!(error(Code::InvalidArgument, "etcdserver: request is too large"), Error::TooLarge { .. }));
        assert!(matches!(error(Code::Unauthenticated, "etcdserver: invalid auth token"), Error::Denied { .. }));
        assert!(matches!(error(Code::Unavailable, "etcdserver: no leader"), Error::Unavailable { .. }));
        assert!(matches!(error(Code::ResourceExhausted, "etcdserver: too many requests"), Error::Unavailable { .. }));
        assert!(matches!(
            error(Code::InvalidArgument, "etcdserver: duplicate key given in txn request"),
            Error::Refused { .. }
        ));
    }
}
