//! One watch: what it has to tell, when, and over which way.

use super::link::{Link, Way};
use crate::store::{Change, Error, Revision, Watch, WatchEvent};
use futures::StreamExt;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A watch that hears nothing over a cut way for so long is given up, as a connection's keepalive does it.
const SILENCE: Duration = Duration::from_secs(10);

type Message = Result<WatchEvent, Error>;

/// The store's end of a watch.
#[derive(Debug)]
pub(super) struct Watcher {
    pub prefix: String,
    from: Revision,
    line: Mutex<Line>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Line {
    messages: VecDeque<(Instant, Message)>,
    last: Option<Instant>,
    /// Nothing follows what is in it.
    ended: bool,
}

impl Watcher {
    pub fn new(prefix: &str, from: Revision) -> Self {
        Self { prefix: prefix.to_owned(), from, line: Mutex::default(), more: Notify::new() }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What of `changes` it is about.
    pub fn concerns(&self, revision: Revision, changes: &[Change]) -> Option<WatchEvent> {
        if revision < self.from {
            return None;
        }
        let mut found = changes.iter().filter(|change| change.key().starts_with(&self.prefix)).peekable();
        found.peek()?;
        Some(WatchEvent::Changed { revision, changes: found.cloned().collect() })
    }

    /// It tells `message` after `delay`, and never before what it had to tell already.
    pub fn tell(&self, message: Message, delay: Duration) {
        let mut line = self.line();
        if line.ended {
            return;
        }
        let due = (Instant::now() + delay).max(line.last.unwrap_or_else(Instant::now));
        line.last = Some(due);
        line.ended = message.is_err();
        line.messages.push_back((due, message));
        drop(line);
        self.more.notify_one();
    }

    /// It was so slow that what it has not told of `revision` and before is gone.
    pub fn compacted(&self, revision: Revision) {
        let mut line = self.line();
        let behind = line.messages.iter().any(
            |(_, message)| matches!(message, Ok(WatchEvent::Changed { revision: untold, .. }) if *untold <= revision),
        );
        if behind {
            line.messages.clear();
            line.messages.push_back((Instant::now(), Err(Error::Compacted { revision })));
            line.ended = true;
            drop(line);
            self.more.notify_one();
        }
    }

    fn next(&self) -> Option<Instant> {
        self.line().messages.front().map(|(due, _)| *due)
    }

    fn take(&self) -> Option<Message> {
        self.line().messages.pop_front().map(|(_, message)| message)
    }
}

/// The other end.
pub(super) fn listen(watcher: Arc<Watcher>, link: Link) -> Watch {
    let begun = (watcher, link, false);
    futures::stream::unfold(begun, |(watcher, link, ended)| async move {
        if ended {
            return None;
        }
        let message = hear(&watcher, &link).await;
        let ended = message.is_err();
        Some((message, (watcher, link, ended)))
    })
    .boxed()
}

async fn hear(watcher: &Watcher, link: &Link) -> Message {
    loop {
        match watcher.next() {
            None => {
                tokio::select! {
                    biased;
                    () = watcher.more.notified() => {}
                    () = silent(link) => return Err(silence()),
                }
            }
            Some(due) if due > Instant::now() => tokio::time::sleep_until(due).await,
            Some(_) => {
                if link.pass().await {
                    if let Some(message) = watcher.take() {
                        return message;
                    }
                } else if tokio::time::timeout(SILENCE, link.until(|way| way != Way::Cut)).await.is_err() {
                    return Err(silence());
                }
            }
        }
    }
}

/// Returns when nothing was heard for too long.
async fn silent(link: &Link) {
    loop {
        link.until(|way| way == Way::Cut).await;
        if tokio::time::timeout(SILENCE, link.until(|way| way != Way::Cut)).await.is_err() {
            return;
        }
    }
}

fn silence() -> Error {
    Error::Unavailable { message: "the watch hears nothing".into() }
}
