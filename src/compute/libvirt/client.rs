//! The way to `stampede-libvirt`: a question and an answer a connection, each with a limit.

use crate::compute::{Daemon, Error};
use futures::stream::{BoxStream, StreamExt};
use stampede_libvirt_protocol::{Answer, Cause, Event, LONGEST_LINE, Request, line, parse};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A line that follows comes at least this often, be it empty.
const SILENCE: Duration = Duration::from_secs(90);
const CONNECT: Duration = Duration::from_secs(10);

/// Where to ask.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    /// libvirt's own: without it there is nobody to ask about.
    libvirt: PathBuf,
}

impl Client {
    pub fn new(socket: &Path, libvirt: &Path) -> Self {
        Self { socket: socket.to_owned(), libvirt: libvirt.to_owned() }
    }

    /// Whether libvirt, and the program that speaks to it, are on this host.
    pub fn is_there(&self) -> bool {
        self.libvirt.exists() && self.socket.exists()
    }

    async fn open(&self, request: &Request) -> io::Result<BufReader<UnixStream>> {
        if !self.libvirt.exists() {
            let absent = format!("{} is not there", self.libvirt.display());
            return Err(io::Error::new(io::ErrorKind::NotFound, absent));
        }
        let mut stream = UnixStream::connect(&self.socket).await?;
        stream.write_all(&line(request)?).await?;
        Ok(BufReader::new(stream))
    }

    async fn exchange(&self, request: &Request) -> io::Result<Vec<u8>> {
        let mut answer = Vec::new();
        self.open(request).await?.take(LONGEST_LINE as u64).read_until(b'\n', &mut answer).await?;
        if answer.last() == Some(&b'\n') { Ok(answer) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Asks one question.
    ///
    /// # Errors
    /// That libvirt is gone, late, or said no.
    pub async fn ask(&self, action: &'static str, limit: Duration, request: Request) -> Result<Answer, Error> {
        let daemon = Daemon::Libvirt;
        let answer = match timeout(limit, self.exchange(&request)).await {
            Err(_) => return Err(Error::Late { daemon, action, limit }),
            Ok(Err(source)) => return Err(Error::Gone { daemon, action, source: Box::new(source) }),
            Ok(Ok(answer)) => answer,
        };
        match parse(&answer).map_err(|source| Error::Answer { daemon, action, source: Box::new(source) })? {
            Answer::Gone { message } => Err(Error::Gone { daemon, action, source: message.into() }),
            Answer::Refused { cause, message } => {
                Err(Error::Refused { action, status: (cause == Cause::Absent).then_some(404), message })
            }
            answer => Ok(answer),
        }
    }

    /// What happens to domains from now on; ends where the line is lost. The first says how it is.
    pub fn follow(&self) -> BoxStream<'static, Event> {
        let this = self.clone();
        let opened = async move {
            match timeout(CONNECT, this.open(&Request::Follow)).await {
                Ok(Ok(reader)) => Some(reader),
                Ok(Err(error)) => {
                    tracing::debug!(%error, "nobody tells of domains");
                    None
                }
                Err(_) => None,
            }
        };
        futures::stream::once(opened).filter_map(async |reader| reader).flat_map(events).boxed()
    }
}

fn events(reader: BufReader<UnixStream>) -> BoxStream<'static, Event> {
    futures::stream::unfold(reader, |mut reader| async move {
        loop {
            let mut text = Vec::new();
            let read = async { (&mut reader).take(LONGEST_LINE as u64).read_until(b'\n', &mut text).await };
            match timeout(SILENCE, read).await {
                Ok(Ok(1)) if text == b"\n" => {}
                Ok(Ok(1..)) => match parse(&text) {
                    Ok(event) => return Some((event, reader)),
                    Err(error) => tracing::debug!(%error, "an event that is not understood"),
                },
                _ => return None,
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixListener;

    /// Says `words` to whoever asks.
    async fn asked(words: &'static [u8]) -> Result<Answer, Error> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(words).await.unwrap();
            if words.is_empty() {
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
        });
        let client = Client::new(&socket, directory.path());
        client.ask("ask", Duration::from_millis(300), Request::Ping).await
    }

    #[tokio::test]
    async fn whatever_is_answered_means_something() {
        assert_eq!(asked(b"{\"answer\":\"done\"}\n").await.unwrap(), Answer::Done);
        assert!(asked(b"{\"answer\":\"gone\",\"message\":\"x\"}\n").await.unwrap_err().is_gone());
        let absent = asked(b"{\"answer\":\"refused\",\"cause\":\"absent\",\"message\":\"x\"}\n").await.unwrap_err();
        assert!(absent.is_absent() && absent.to_string() == "x");
        assert!(asked(b"{\"answer\":\"do").await.unwrap_err().is_gone(), "it broke off");
        assert!(matches!(asked(b"hello\n").await.unwrap_err(), Error::Answer { .. }));
        assert!(matches!(asked(b"").await.unwrap_err(), Error::Late { .. }));
        let nobody = Client::new(Path::new("/nonexistent"), Path::new("/nonexistent"));
        assert!(nobody.ask("ask", Duration::from_secs(1), Request::Ping).await.unwrap_err().is_gone());
    }
}
