//! The socket: one question a connection, each on a thread of its own, since libvirt's calls block.

use crate::answer::answer;
use crate::daemon::Daemon;
use stampede_libvirt_protocol::{Answer, Cause, Event, LONGEST_LINE, Request, line, parse};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How long a question may take to come, and an answer to be taken.
const LIMIT: Duration = Duration::from_secs(10);
/// Who follows hears this often that the line is up.
const BEAT: Duration = Duration::from_secs(30);
/// Connections at once: one for each supervisor, some for questions.
const MOST: usize = 2000;
/// libvirt's client needs little.
const STACK: usize = 256 << 10;
/// After a connection could not be taken.
const REST: Duration = Duration::from_millis(100);

/// The socket that systemd hands in, else one of our own at `path`.
pub fn listener(path: &Path) -> io::Result<UnixListener> {
    if let Some(listener) = listenfd::ListenFd::from_env().take_unix_listener(0)? {
        return Ok(listener);
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    // Root's alone: who may ask here may do what libvirt can.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Takes connections for ever.
pub fn serve(listener: &UnixListener, daemon: &Arc<Daemon>) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection cannot be taken");
                std::thread::park_timeout(REST);
                continue;
            }
        };
        let counted = Counted::new(&open);
        if open.load(Ordering::Relaxed) > MOST {
            tracing::warn!("too many connections: one is turned away");
            continue;
        }
        let daemon = daemon.clone();
        let thread = std::thread::Builder::new().name("answer".into()).stack_size(STACK).spawn(move || {
            let _counted = counted;
            if let Err(error) = converse(&stream, &daemon) {
                tracing::debug!(%error, "a connection ended");
            }
        });
        if let Err(error) = thread {
            tracing::warn!(%error, "no thread for a connection");
            std::thread::park_timeout(REST);
        }
    }
}

/// Counts for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn converse(mut stream: &UnixStream, daemon: &Daemon) -> io::Result<()> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let mut question = Vec::new();
    BufReader::new(stream).take(LONGEST_LINE as u64).read_until(b'\n', &mut question)?;
    let answer = match read(&question) {
        Ok(Request::Follow) => return follow(stream, &daemon.follow()),
        Ok(request) => answer(request, daemon),
        Err(message) => Answer::Refused { cause: Cause::Question, message },
    };
    stream.write_all(&line(&answer)?)
}

fn read(question: &[u8]) -> Result<Request, String> {
    // C's strings end there.
    if question.windows(6).any(|part| part == b"\\u0000") {
        return Err("a question has no byte 0 in it".to_owned());
    }
    parse(question).map_err(|error| format!("it is not understood: {error}"))
}

fn follow(mut stream: &UnixStream, events: &Receiver<Event>) -> io::Result<()> {
    loop {
        match events.recv_timeout(BEAT) {
            Ok(event) => stream.write_all(&line(&event)?)?,
            // An empty line is nothing; that nobody is there any more is seen by it.
            Err(RecvTimeoutError::Timeout) => stream.write_all(b"\n")?,
            // Too far behind: who follows begins anew.
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}
