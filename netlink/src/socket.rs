//! Requests to the kernel and their answers over one netlink socket.
//!
//! The kernel works on a request within `sendmsg`: when the call returns, the acknowledgement or the first part
//! of a dump already waits in the receive buffer. So the answer is tried for at once and the reactor is asked only when
//! nothing is there. A lock makes one exchange follow the other. Every exchange has sequence numbers of its own and
//! skips what carries others; what an exchange that was given up left behind is thrown away before the next one. So a
//! caller may drop its future at any point.

mod frame;

pub(crate) use frame::{
    Frame, Message, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
};

use std::{io, os::fd::AsFd, time::Duration};

use netlink_sys::Socket;
use rustix::{io::Errno, net::RecvFlags, net::SendFlags, net::sockopt};
use tokio::{io::unix::AsyncFd, sync::Mutex, time::timeout};

use crate::error::RequestError;
use zeroize::{Zeroize, Zeroizing};

use frame::{Meaning, NLM_F_DUMP_INTR};

/// The kernel's datagrams end at 32 KiB; notifications of nftables may be a little longer.
const BUFFER: usize = 128 * 1024;
/// Answers of a big nftables batch and bursts of notifications wait here. Bytes; the kernel doubles it.
const RECEIVE_BUFFER: usize = 4 * 1024 * 1024;
/// An exchange takes microseconds to some hundred milliseconds; this is for a kernel in trouble.
const LIMIT: Duration = Duration::from_secs(20);
/// How often a dump is taken again because something changed meanwhile.
const DUMP_ATTEMPTS: u32 = 10;
/// Datagrams thrown away before an exchange at most: those of one that was given up.
const DRAIN_LIMIT: usize = 100_000;

/// Makes a socket in the calling thread's network namespace, member of the multicast groups.
pub(crate) fn make(protocol: isize, groups: &[u32]) -> io::Result<Socket> {
    let mut socket = Socket::new(protocol)?;
    socket.set_non_blocking(true)?;
    socket.bind_auto()?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    // The kernel's words; an acknowledgement without an echo of the request; dumps filtered as asked. Old
    // kernels lack some of these and lose nothing but that.
    let _ = socket.set_ext_ack(true);
    let _ = socket.set_cap_ack(true);
    let _ = socket.set_netlink_get_strict_chk(true);
    // Beyond net.core.rmem_max only with CAP_NET_ADMIN; with less we merely overrun sooner, and say so.
    let _ = sockopt::set_socket_recv_buffer_size_force(socket.as_fd(), RECEIVE_BUFFER);
    Ok(socket)
}

/// A socket that is read datagram by datagram.
#[derive(Debug)]
pub(crate) struct Receiver {
    socket: AsyncFd<Socket>,
    buffer: Vec<u8>,
}

impl Receiver {
    pub(crate) fn new(socket: Socket) -> io::Result<Self> {
        // Registering panics where there is no reactor; a missing runtime is an error like any other.
        tokio::runtime::Handle::try_current().map_err(io::Error::other)?;
        #[allow(
            deprecated,
            reason = "sound here: a Socket owns its descriptor and gives the same one until it is dropped"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(Self { socket, buffer: vec![0; BUFFER] })
    }

    /// The next datagram's messages. Dropping the future loses nothing.
    pub(crate) async fn receive(&mut self) -> Result<Vec<Frame>, RequestError> {
        let Self { socket, buffer } = self;
        let mut read = |socket: &Socket| {
            rustix::net::recv(socket, buffer.as_mut_slice(), RecvFlags::TRUNC).map(|(_, total)| total)
        };
        let total = loop {
            match read(socket.get_ref()) {
                Ok(total) => break total,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut ready = socket.readable().await.map_err(RequestError::Socket)?;
                    match ready.try_io(|socket| read(socket.get_ref()).map_err(io::Error::from)) {
                        Ok(Ok(total)) => break total,
                        Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                        Ok(Err(error)) => return Err(RequestError::Socket(error)),
                        Err(_would_block) => {}
                    }
                }
                Err(errno) => return Err(RequestError::Socket(errno.into())),
            }
        };
        let datagram = buffer
            .get(..total)
            .ok_or_else(|| RequestError::Malformed(format!("a datagram of {total} bytes, longer than the buffer")))?;
        let frames = Frame::split(datagram);
        // It may have held keys.
        self.buffer[..total].zeroize();
        frames
    }

    /// Throws away all that waits. The kernel goes on with a dump while it is read, so this also ends one.
    fn drain(&mut self) {
        let read = || rustix::net::recv(self.socket.get_ref(), self.buffer.as_mut_slice(), RecvFlags::TRUNC);
        let waiting = std::iter::repeat_with(read).take(DRAIN_LIMIT);
        let _ = waiting.take_while(|read| !matches!(read, Err(Errno::AGAIN))).count();
    }
}

/// A socket for requests.
#[derive(Debug)]
pub(crate) struct Channel {
    exchange: Mutex<Exchange>,
}

#[derive(Debug)]
struct Exchange {
    receiver: Receiver,
    sequence: u32,
    send_buffer: usize,
    /// The exchange before was given up with answers still to come. Another dump would be EBUSY until they are read.
    unfinished: bool,
}

impl Channel {
    pub(crate) fn new(socket: Socket) -> io::Result<Self> {
        let receiver = Receiver::new(socket)?;
        Ok(Self { exchange: Mutex::new(Exchange { receiver, sequence: 0, send_buffer: 0, unfinished: false }) })
    }

    /// Sends the messages in one system call and gives each one's own result, with the data it was answered with.
    /// The kernel works on all of them in order, also after one that it refused.
    pub(crate) async fn request(
        &self,
        messages: &[Message],
    ) -> Result<Vec<Result<Vec<Frame>, RequestError>>, RequestError> {
        let mut exchange = self.exchange.lock().await;
        exchange.begin();
        let result = timeout(LIMIT, exchange.request(messages)).await.unwrap_or(Err(RequestError::TimedOut(LIMIT)));
        exchange.unfinished = result.is_err();
        result
    }

    /// Takes a dump, again if it was interrupted by a change.
    pub(crate) async fn dump(&self, message: &Message) -> Result<Vec<Frame>, RequestError> {
        let mut exchange = self.exchange.lock().await;
        let attempts = async {
            for _ in 0..DUMP_ATTEMPTS {
                exchange.begin();
                let result = exchange.dump(message).await;
                exchange.unfinished = result.is_err();
                match result {
                    Err(RequestError::Interrupted) => tracing::debug!(kind = message.kind, "dump interrupted, again"),
                    result => return result,
                }
            }
            Err(RequestError::Interrupted)
        };
        timeout(LIMIT, attempts).await.unwrap_or(Err(RequestError::TimedOut(LIMIT)))
    }

    /// Sends the messages as one nfnetlink batch, whose first and last message open and close it. All of it happens or
    /// nothing does; the first refusal is the result, with the place of the refused message if it is one of them.
    pub(crate) async fn batch(&self, messages: &[Message]) -> Result<(), (Option<usize>, RequestError)> {
        let mut exchange = self.exchange.lock().await;
        exchange.begin();
        let result = timeout(LIMIT, exchange.batch(messages)).await;
        let result = result.unwrap_or(Err((None, RequestError::TimedOut(LIMIT))));
        exchange.unfinished = result.is_err();
        result
    }
}

impl Exchange {
    /// Makes way for a new exchange. It counts as unfinished until its end: a dropped future never gets there.
    fn begin(&mut self) {
        if self.unfinished {
            self.receiver.drain();
        }
        self.unfinished = true;
    }

    /// Numbers for `count` messages; the first of them.
    fn number(&mut self, count: usize) -> u32 {
        let first = self.sequence.wrapping_add(1);
        self.sequence = self.sequence.wrapping_add(u32::try_from(count).unwrap_or(u32::MAX));
        first
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), RequestError> {
        let socket = &self.receiver.socket;
        if bytes.len() > self.send_buffer {
            // A message longer than the send buffer is EMSGSIZE. Where we may not force it, the send itself says so.
            let wanted = bytes.len().saturating_mul(2).max(256 * 1024);
            let _ = sockopt::set_socket_send_buffer_size_force(socket.get_ref(), wanted);
            self.send_buffer = bytes.len();
        }
        loop {
            match rustix::net::send(socket.get_ref(), bytes, SendFlags::empty()) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    socket.writable().await.map_err(RequestError::Socket)?.clear_ready();
                }
                Err(errno) => return Err(RequestError::Socket(errno.into())),
            }
        }
    }

    async fn request(&mut self, messages: &[Message]) -> Result<Vec<Result<Vec<Frame>, RequestError>>, RequestError> {
        let first = self.number(messages.len());
        // Room for all from the start and wiped at the end: it may hold keys.
        let length = messages.iter().map(Message::length).sum();
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        for (sequence, message) in std::iter::successors(Some(first), |n| Some(n.wrapping_add(1))).zip(messages) {
            message.write(NLM_F_REQUEST | NLM_F_ACK, sequence, &mut bytes);
        }
        self.send(&bytes).await?;
        let mut results: Vec<Option<Result<(), RequestError>>> = messages.iter().map(|_| None).collect();
        let mut data: Vec<Vec<Frame>> = messages.iter().map(|_| Vec::new()).collect();
        while results.iter().any(Option::is_none) {
            for frame in self.receiver.receive().await? {
                let place = frame.sequence.wrapping_sub(first) as usize;
                let (Some(result), Some(data)) = (results.get_mut(place), data.get_mut(place)) else { continue };
                match frame.meaning() {
                    Meaning::Acknowledged => *result = Some(Ok(())),
                    Meaning::Refused(error) => *result = Some(Err(error)),
                    Meaning::Data => data.push(frame),
                    Meaning::Done | Meaning::Nothing => {}
                }
            }
        }
        Ok(results.into_iter().flatten().zip(data).map(|(result, data)| result.map(|()| data)).collect())
    }

    async fn dump(&mut self, message: &Message) -> Result<Vec<Frame>, RequestError> {
        let sequence = self.number(1);
        let mut bytes = Vec::new();
        message.write(NLM_F_REQUEST | NLM_F_DUMP, sequence, &mut bytes);
        self.send(&bytes).await?;
        let mut dumped = Vec::new();
        let mut interrupted = false;
        loop {
            for frame in self.receiver.receive().await? {
                if frame.sequence != sequence {
                    continue;
                }
                interrupted |= frame.flags & NLM_F_DUMP_INTR != 0;
                match frame.meaning() {
                    Meaning::Refused(RequestError::Refused { errno: Errno::INTR, .. }) => {
                        return Err(RequestError::Interrupted);
                    }
                    Meaning::Refused(error) => return Err(error),
                    Meaning::Done | Meaning::Acknowledged if interrupted => return Err(RequestError::Interrupted),
                    Meaning::Done | Meaning::Acknowledged => return Ok(dumped),
                    Meaning::Data => dumped.push(frame),
                    Meaning::Nothing => {}
                }
            }
        }
    }

    async fn batch(&mut self, messages: &[Message]) -> Result<(), (Option<usize>, RequestError)> {
        let first = self.number(messages.len());
        // The last message but the closing one asks for the acknowledgement that ends the wait.
        let last = messages.len().saturating_sub(2);
        let mut bytes = Vec::new();
        for (place, message) in messages.iter().enumerate() {
            let acknowledge = if place == last { NLM_F_ACK } else { 0 };
            let sequence = first.wrapping_add(u32::try_from(place).unwrap_or(u32::MAX));
            message.write(NLM_F_REQUEST | acknowledge, sequence, &mut bytes);
        }
        self.send(&bytes).await.map_err(|error| (None, error))?;
        let mut refusal: Option<(Option<usize>, RequestError)> = None;
        loop {
            for frame in self.receiver.receive().await.map_err(|error| (None, error))? {
                let place = frame.sequence.wrapping_sub(first) as usize;
                if place >= messages.len() {
                    continue;
                }
                match frame.meaning() {
                    Meaning::Acknowledged if place == last => return refusal.map_or(Ok(()), Err),
                    Meaning::Refused(error) => {
                        // The opening message is refused for the batch as a whole, and then nothing else may follow.
                        let whole = place == 0;
                        if refusal.is_none() {
                            refusal = Some((Some(place).filter(|_| !whole), error));
                        }
                        if whole || place == last {
                            return refusal.map_or(Ok(()), Err);
                        }
                    }
                    _ => {}
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
