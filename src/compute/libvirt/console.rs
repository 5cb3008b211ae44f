//! What a guest writes to its serial console, from the file that libvirt's log daemon keeps of it.
//!
//! The kernel tells when it grows (inotify): nothing is looked at in vain. The log daemon begins another file when one is large; a moment
//! ([`LogLine::at`]) is a file's beginning and a place in it.

use crate::compute::{Error, LogLine};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;
use std::time::{Duration, UNIX_EPOCH};
use tokio::io::unix::AsyncFd;

const PIECE: usize = 32 << 10;
/// The file comes with the domain's start.
const APPEARS: Duration = Duration::from_millis(200);
const LOOKS: usize = 50;
const ACTION: &str = "read the console";

/// A moment as text: all as long, so that they sort.
fn moment(begun: u64, place: u64) -> String {
    format!("{begun:012}-{place:020}")
}

/// A moment of ours; `None` where it is another's, and all is wanted.
fn parse(moment: &str) -> Option<(u64, u64)> {
    let (begun, place) = moment.split_once('-').filter(|(begun, place)| begun.len() == 12 && place.len() == 20)?;
    Some((begun.parse().ok()?, place.parse().ok()?))
}

/// Follows the file from `since`; ends when its writer has closed it.
pub fn follow(path: PathBuf, since: &str) -> BoxStream<'static, Result<LogLine, Error>> {
    let from = parse(since);
    let opened = async move { Following::open(path, from).await };
    let pieces = |opened: Result<Following, Error>| match opened {
        Ok(following) => futures::stream::try_unfold(following, Following::next).boxed(),
        Err(error) => futures::stream::once(async { Err(error) }).boxed(),
    };
    futures::stream::once(opened).flat_map(pieces).boxed()
}

struct Following {
    path: PathBuf,
    file: File,
    begun: u64,
    place: u64,
    watch: AsyncFd<OwnedFd>,
    /// Its writer has closed it.
    closed: bool,
}

fn failed(source: io::Error) -> Error {
    Error::Disk { action: ACTION, source }
}

impl Following {
    async fn open(path: PathBuf, from: Option<(u64, u64)>) -> Result<Self, Error> {
        for _ in 0..LOOKS {
            if path.exists() {
                break;
            }
            tokio::time::sleep(APPEARS).await;
        }
        let (file, begun, watch) = opened(&path).map_err(failed)?;
        let place = from.filter(|(file, _)| *file == begun).map_or(0, |(_, place)| place);
        Ok(Self { path, file, begun, place, watch, closed: false })
    }

    async fn next(mut self) -> Result<Option<(LogLine, Self)>, Error> {
        loop {
            let mut piece = vec![0; PIECE];
            let length = self.file.read_at(&mut piece, self.place).map_err(failed)?;
            if length > 0 {
                piece.truncate(length);
                self.place += length as u64;
                let line = LogLine { at: moment(self.begun, self.place), text: Bytes::from(piece) };
                return Ok(Some((line, self)));
            }
            if self.closed {
                if self.is_current().map_err(failed)? {
                    return Ok(None);
                }
                (self.file, self.begun, self.watch) = opened(&self.path).map_err(failed)?;
                (self.place, self.closed) = (0, false);
                continue;
            }
            self.closed = self.changed().await.map_err(failed)?;
        }
    }

    /// Whether the path leads to the file that is open.
    fn is_current(&self) -> io::Result<bool> {
        Ok(match std::fs::metadata(&self.path) {
            Ok(there) => there.ino() == self.file.metadata()?.ino(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(error),
        })
    }

    /// Waits until it grows; whether its writer is done with it.
    async fn changed(&mut self) -> io::Result<bool> {
        loop {
            let mut ready = self.watch.readable().await?;
            let mut buffer = [MaybeUninit::uninit(); 1024];
            let mut reader = Reader::new(self.watch.get_ref(), &mut buffer);
            let (mut seen, mut closed) = (false, false);
            loop {
                match reader.next() {
                    Ok(event) => {
                        seen = true;
                        closed |= event
                            .events()
                            .intersects(ReadFlags::CLOSE_WRITE | ReadFlags::DELETE_SELF | ReadFlags::IGNORED);
                    }
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            ready.clear_ready();
            if seen {
                return Ok(closed);
            }
        }
    }
}

fn opened(path: &std::path::Path) -> io::Result<(File, u64, AsyncFd<OwnedFd>)> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, path, WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::DELETE_SELF)?;
    let file = File::open(path)?;
    // Not every file system knows; then all files are one.
    let begun = file.metadata()?.created().ok().and_then(|begun| begun.duration_since(UNIX_EPOCH).ok());
    // What it is deprecated for are descriptors that somebody else closes; this one is owned.
    #[allow(deprecated)]
    let watch = AsyncFd::new(watch)?;
    Ok((file, begun.map_or(0, |begun| begun.as_secs()), watch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn what_is_written_is_heard_once_and_its_end_too() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("console.log");
        let mut writer = File::create(&path).unwrap();
        writer.write_all(b"one\n").unwrap();
        let mut pieces = follow(path.clone(), "2026-11-22T23:24:05.123000000Z");
        let first = pieces.next().await.unwrap().unwrap();
        assert_eq!(first.text, "one\n");
        writer.write_all(b"two\n").unwrap();
        let second = pieces.next().await.unwrap().unwrap();
        assert!(second.text == "two\n" && second.at > first.at);
        // Another follower goes on there.
        let mut rest = follow(path.clone(), &first.at);
        assert_eq!(rest.next().await.unwrap().unwrap().text, "two\n");
        // Another file in its place, as the log daemon does it.
        std::fs::rename(&path, directory.path().join("console.log.0")).unwrap();
        let mut next = File::create(&path).unwrap();
        drop(writer);
        next.write_all(b"three\n").unwrap();
        assert_eq!(pieces.next().await.unwrap().unwrap().text, "three\n");
        drop(next);
        let end = tokio::time::timeout(Duration::from_secs(10), pieces.next()).await.unwrap();
        assert!(end.is_none(), "its writer is done");
    }

    #[test]
    fn moments_are_ours_or_another_s() {
        assert_eq!(parse(&moment(5, 7)), Some((5, 7)));
        assert_eq!(parse("2026-11-22T23:24:05.123000000Z"), None);
        assert!(moment(5, 7) < moment(5, 10) && moment(5, 10) < moment(6, 1));
    }
}
