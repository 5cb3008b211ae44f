//! Many datagrams by one call to the kernel: on a busy host what an answer costs is mostly the way in and out of it.

use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::SocketAddrV4;
use std::os::fd::AsRawFd;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// The most datagrams at once.
const MOST: usize = 32;
/// Longer than any question.
const LONGEST: usize = 4096;

/// Room for what comes.
#[derive(Debug)]
pub struct Inbox {
    buffers: Vec<Vec<u8>>,
    /// Which buffer, how much of it, and from whom.
    received: Vec<(usize, usize, SocketAddrV4)>,
}

impl Inbox {
    pub fn new() -> Self {
        Self { buffers: vec![vec![0; LONGEST]; MOST], received: Vec::with_capacity(MOST) }
    }

    /// Waits for datagrams, and takes those that are there.
    ///
    /// # Errors
    /// Where the socket fails.
    pub async fn receive(&mut self, socket: &UdpSocket) -> io::Result<()> {
        loop {
            socket.readable().await?;
            match socket.try_io(Interest::READABLE, || self.take(socket)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }

    fn take(&mut self, socket: &UdpSocket) -> io::Result<()> {
        self.received.clear();
        let mut headers = MultiHeaders::<SockaddrIn>::preallocate(self.buffers.len(), None);
        let mut slices: Vec<_> = self.buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
        let found = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        let told = found.enumerate().filter_map(|(place, one)| Some((place, one.bytes, one.address?.into())));
        self.received.extend(told);
        Ok(())
    }

    /// What was taken last.
    pub fn datagrams(&self) -> impl Iterator<Item = (&[u8], SocketAddrV4)> {
        let datagram = |(place, length, source): &(usize, usize, SocketAddrV4)| {
            Some((self.buffers.get(*place)?.get(..*length)?, *source))
        };
        self.received.iter().filter_map(datagram)
    }
}

/// Sends what there is room for; the rest is asked for again.
pub fn send(socket: &UdpSocket, answers: &[(Vec<u8>, SocketAddrV4)]) {
    let mut left = answers;
    while !left.is_empty() {
        let sent = socket.try_io(Interest::WRITABLE, || send_now(socket, left));
        // One that cannot be sent keeps none behind it from it.
        let done = match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) | Ok(0) => 1,
            Ok(sent) => sent,
        };
        left = left.get(done..).unwrap_or_default();
    }
}

fn send_now(socket: &UdpSocket, answers: &[(Vec<u8>, SocketAddrV4)]) -> io::Result<usize> {
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(answers.len(), None);
    let slices: Vec<_> = answers.iter().map(|(answer, _)| [IoSlice::new(answer)]).collect();
    let addresses: Vec<_> = answers.iter().map(|(_, address)| Some(SockaddrIn::from(*address))).collect();
    let none: [ControlMessage<'_>; 0] = [];
    let sent = sendmmsg(socket.as_raw_fd(), &mut headers, slices.iter(), &addresses, none, MsgFlags::MSG_DONTWAIT)?;
    Ok(sent.count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_come_and_go_at_once_and_each_to_whom_it_is_for() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let clients = [UdpSocket::bind("127.0.0.1:0").await.unwrap(), UdpSocket::bind("127.0.0.2:0").await.unwrap()];
        for number in 0..50_u8 {
            let client = &clients[usize::from(number) % 2];
            client.send_to(&vec![number; usize::from(number) + 1], server.local_addr().unwrap()).await.unwrap();
        }
        let (mut inbox, mut seen) = (Inbox::new(), 0);
        while seen < 50 {
            inbox.receive(&server).await.unwrap();
            let answers: Vec<_> = inbox.datagrams().map(|(packet, source)| (packet.to_vec(), source)).collect();
            assert!((1..=MOST).contains(&answers.len()));
            seen += answers.len();
            send(&server, &answers);
        }
        for number in 0..50_u8 {
            let mut buffer = [0; 100];
            let (length, _) = clients[usize::from(number) % 2].recv_from(&mut buffer).await.unwrap();
            assert_eq!(&buffer[..length], vec![number; usize::from(number) + 1]);
        }
    }

    #[tokio::test]
    async fn one_that_cannot_be_sent_keeps_none_behind_it() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let std::net::SocketAddr::V4(address) = client.local_addr().unwrap() else { panic!("no IPv4") };
        let too_long = vec![0; 70_000];
        server.writable().await.unwrap();
        send(&server, &[(vec![1], address), (too_long, address), (vec![2], address)]);
        for expected in [1, 2] {
            let mut buffer = [0; 10];
            client.recv(&mut buffer).await.unwrap();
            assert_eq!(buffer[0], expected);
        }
    }
}
