//! A person's way to a guest's screen and serial console: libvirt says where qemu has them, and bytes go to and fro.
//!
//! The screen is VNC on a Unix socket in a folder that qemu and root alone can enter; it has no password of its own. The serial console is a
//! terminal, as `virsh console` has it: of two who read, each hears a part.

use super::{Libvirt, refused};
use crate::compute::streams::{
    Channel, Command, Console, Execution, Figures, OutputWish, Piece, Pieces, Running, Size, Streams,
};
use crate::compute::{Driver, Error, Observed};
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use rustix::fs::{Mode, OFlags};
use stampede_libvirt_protocol::{Answer, Request};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

const ACTION: &str = "open the console";
const PIECE: usize = 32 << 10;

#[async_trait::async_trait]
impl Streams for Libvirt {
    async fn find(&self, id: &str) -> Result<Option<Observed>, Error> {
        self.observe(id).await
    }

    async fn output(&self, _: &str, _: &OutputWish) -> Result<Pieces, Error> {
        Err(refused("read the output", "what a virtual machine says is in its console, and in its unit's journal"))
    }

    async fn execute(&self, _: &str, _: &Command) -> Result<Execution, Error> {
        Err(refused("run the command", "nothing can be run in a virtual machine from outside; open its serial console"))
    }

    async fn figures(&self, _: &str) -> Result<BoxStream<'static, Result<Figures, Error>>, Error> {
        Err(refused("look at what it uses", "what a virtual machine uses is not measured yet"))
    }

    async fn console(&self, external_id: &str, console: Console) -> Result<Execution, Error> {
        let described = self.ask(ACTION, super::LIMIT, Request::Describe { uuid: external_id.to_owned() }).await?;
        let Answer::Xml { xml } = described else { return Err(super::astray(ACTION, &described)) };
        let path = place(&xml, console).ok_or_else(|| refused(ACTION, "it has no such console, or does not run"))?;
        let failed = |source| Error::Disk { action: ACTION, source };
        Ok(match console {
            Console::Screen => {
                let (read, write) = UnixStream::connect(path).await.map_err(failed)?.into_split();
                execution(read, write)
            }
            Console::Serial => {
                let (read, write) = terminal(&path).map_err(failed)?;
                execution(read, write)
            }
        })
    }
}

/// Where qemu has it, by the domain's XML as it runs.
fn place(xml: &str, console: Console) -> Option<String> {
    let document = roxmltree::Document::parse(xml).ok()?;
    let mut elements = document.descendants();
    let found = match console {
        Console::Screen => elements
            .find(|node| node.has_tag_name("listen") && node.attribute("type") == Some("socket"))?
            .attribute("socket"),
        Console::Serial => elements.find(|node| node.has_tag_name("console"))?.attribute("tty"),
    };
    found.map(str::to_owned)
}

fn execution(read: impl AsyncRead + Send + Unpin + 'static, write: impl AsyncWrite + Send + 'static) -> Execution {
    let pieces = futures::stream::unfold(read, |mut read| async move {
        let mut piece = vec![0; PIECE];
        let heard = match read.read(&mut piece).await {
            Ok(0) => return None,
            Ok(length) => {
                piece.truncate(length);
                Ok(Piece { channel: Channel::Stdout, bytes: Bytes::from(piece) })
            }
            // As a terminal ends whose other side is gone.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => return None,
            Err(source) => Err(Error::Disk { action: "read the console", source }),
        };
        Some((heard, read))
    });
    Execution { output: pieces.boxed(), input: Box::pin(write), running: Box::new(Attached) }
}

/// Both ends of the terminal are one file, opened once.
fn terminal(path: &str) -> io::Result<(Terminal, Terminal)> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    let other = file.try_clone()?;
    Ok((Terminal::new(file)?, Terminal::new(other)?))
}

#[derive(Debug)]
struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    fn new(file: OwnedFd) -> io::Result<Self> {
        // What it is deprecated for are descriptors that somebody else closes; this one is owned.
        #[allow(deprecated)]
        AsyncFd::new(file).map(Self)
    }
}

impl AsyncRead for Terminal {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.0.poll_read_ready(context))?;
            let read = ready.try_io(|file| Ok(rustix::io::read(file.get_ref(), buffer.initialize_unfilled())?));
            match read {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                // It was not ready after all.
                Err(_) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut ready = ready!(self.0.poll_write_ready(context))?;
            if let Ok(written) = ready.try_io(|file| Ok(rustix::io::write(file.get_ref(), bytes)?)) {
                return Poll::Ready(written);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A console has no end of its own but the guest's.
#[derive(Debug)]
struct Attached;

#[async_trait::async_trait]
impl Running for Attached {
    async fn resize(&self, _: Size) -> Result<(), Error> {
        Ok(())
    }

    async fn exit_code(&self) -> Result<Option<i64>, Error> {
        Ok(Some(0))
    }

    async fn hang_up(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_qemu_has_them() {
        let xml = "<domain><devices><console type='pty' tty='/dev/pts/3'/>\
                   <graphics type='vnc' socket='/x/vnc.sock'><listen type='socket' socket='/x/vnc.sock'/></graphics></devices></domain>";
        assert_eq!(place(xml, Console::Serial).as_deref(), Some("/dev/pts/3"));
        assert_eq!(place(xml, Console::Screen).as_deref(), Some("/x/vnc.sock"));
        assert_eq!(place("<domain><devices><graphics type='vnc'/></devices></domain>", Console::Screen), None);
        assert_eq!(place("<domain", Console::Serial), None);
    }
}
