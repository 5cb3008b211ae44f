//! What can go wrong, and what was asked for when it did.
//!
//! The kernel answers with an errno and, since 4.12, often with a sentence (NLMSGERR_ATTR_MSG). Both are kept, under
//! the action that was asked for: "add route 10.42.0.0/16 dev stampede0: File exists (os error 17)".

use std::io;

use rustix::io::Errno;

/// A step that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be made: no such protocol in this kernel, or no runtime with I/O around.
    #[error("open a netlink socket for {protocol}")]
    Open {
        /// `NETLINK_ROUTE`, `NETLINK_NETFILTER` or `NETLINK_XFRM`.
        protocol: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A network namespace could not be entered.
    #[error("enter a network namespace")]
    Namespace {
        /// Why: EPERM without CAP_SYS_ADMIN, EINVAL if the descriptor is no network namespace.
        source: io::Error,
    },
    /// The kernel refused what was asked, or did not answer.
    #[error("{action}: {source}")]
    Request {
        /// What was asked, in words.
        action: String,
        /// What came back.
        source: RequestError,
    },
    /// A link named in what should be is not there.
    #[error("link {name} is not there")]
    NoSuchLink {
        /// Its name.
        name: String,
    },
    /// A link of that name is there, but of another kind. It is somebody else's and stays as it is.
    #[error("link {name} is there as {found}, wanted {wanted}")]
    KindDiffers {
        /// Its name.
        name: String,
        /// The kind found, as `ip -d link` names it; empty for a physical device.
        found: String,
        /// The kind wanted.
        wanted: String,
    },
    /// A name cannot be an interface's: empty, longer than 15 bytes, or with `/`, a space or a colon in it.
    #[error("{name:?} cannot be the name of a network interface")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// What should be cannot be put into netlink messages (an attribute ends at 64 KiB, a name at its limit).
    #[error("{what} does not fit into a netlink message")]
    TooLarge {
        /// What.
        what: String,
    },
    /// A value is not of the type that its set, map or range has.
    #[error("{value} is not of the type of {set}")]
    WrongType {
        /// The set's name.
        set: String,
        /// The value.
        value: String,
    },
    /// A rule for somebody else's chain has no comment that begins with the mark; it would never be found again.
    #[error("a rule for a chain of others has no comment that begins with {mark:?}")]
    Unmarked {
        /// The mark.
        mark: String,
    },
    /// An association is there with the same key, or is somebody else's. To take its place would begin its sequence again.
    #[error("{association} is there otherwise, and its key must not begin anew")]
    KeyInUse {
        /// Which.
        association: String,
    },
    /// A file under /proc could not be read or written.
    #[error("{action} {path}")]
    Sysctl {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// How one request failed.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The kernel refused.
    #[error("{}{}", io::Error::from(*errno), message.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
    Refused {
        /// Its errno.
        errno: Errno,
        /// Its sentence, where it gave one.
        message: Option<String>,
    },
    /// The socket failed. ENOBUFS means that answers were lost and the outcome is unknown: dump and plan again.
    #[error("the netlink socket failed: {0}")]
    Socket(#[source] io::Error),
    /// A dump was interrupted by changes, again and again.
    #[error("the dump was interrupted by changes each time")]
    Interrupted,
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(std::time::Duration),
    /// An answer was not understood.
    #[error("an answer that is not understood: {0}")]
    Malformed(String),
}

impl Error {
    pub(crate) fn request(action: impl Into<String>, source: RequestError) -> Self {
        Self::Request { action: action.into(), source }
    }

    /// The errno the kernel refused with, if that is what happened.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Request { source: RequestError::Refused { errno, .. }, .. } => Some(*errno),
            _ => None,
        }
    }

    /// It is there already (EEXIST).
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(Errno::EXIST)
    }

    /// It, or the link it belongs to, is not there (ENOENT, ESRCH, ENODEV, ENXIO, EADDRNOTAVAIL, [`Error::NoSuchLink`]).
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NoSuchLink { .. })
            || matches!(
                self.errno(),
                Some(Errno::NOENT | Errno::SRCH | Errno::NODEV | Errno::NXIO | Errno::ADDRNOTAVAIL)
            )
    }

    /// This kernel cannot do it at all (EOPNOTSUPP, EAFNOSUPPORT, EPROTONOSUPPORT).
    pub fn is_unsupported(&self) -> bool {
        matches!(self.errno(), Some(Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT))
    }

    /// The privilege is missing (EPERM, EACCES): CAP_NET_ADMIN in the network namespace.
    pub fn is_permission_denied(&self) -> bool {
        matches!(self.errno(), Some(Errno::PERM | Errno::ACCESS))
    }
}
