//! Doing something inside another network namespace, without ever moving a worker thread there.
//!
//! A socket belongs for ever to the namespace in which it was made. So a throw-away thread enters the namespace,
//! makes the socket, hands it back and ends; no thread that runs anything else has been elsewhere.

use std::{io, os::fd::BorrowedFd, thread};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Error;

/// Runs `work` on a throw-away thread inside the namespace (a descriptor of /proc/PID/ns/net or of a bind mount of
/// one) and waits for it. `work` should be short: it blocks the caller. Needs CAP_SYS_ADMIN.
pub fn run_in<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let entered = thread::scope(|scope| {
        let inside = move || -> io::Result<T> {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
            Ok(work())
        };
        let thread = thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, inside)?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    });
    entered.map_err(|source| Error::Namespace { source })
}
