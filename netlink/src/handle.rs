//! The handle through which everything is asked.

use std::{fmt, os::fd::BorrowedFd, sync::Arc};

use netlink_packet_core::{NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{
    Socket,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE, NETLINK_XFRM},
};

use crate::{
    Error, Outcome, RequestError, namespace,
    socket::{self, Channel, Frame, Message},
};

/// Sockets into one network namespace. Cheap to clone; all clones share the sockets, and requests of one
/// protocol follow one another. Changes need CAP_NET_ADMIN.
#[derive(Debug, Clone)]
pub struct Netlink {
    route: Arc<Channel>,
    netfilter: Arc<Channel>,
}

fn make_socket(protocol: isize, groups: &[u32]) -> Result<Socket, Error> {
    socket::make(protocol, groups).map_err(|source| Error::Open { protocol: name(protocol), source })
}

fn name(protocol: isize) -> &'static str {
    match protocol {
        NETLINK_ROUTE => "NETLINK_ROUTE",
        NETLINK_XFRM => "NETLINK_XFRM",
        _ => "NETLINK_NETFILTER",
    }
}

/// A socket of the protocol, in the namespace given or in that of the calling thread.
pub(crate) fn open_socket(namespace: Option<BorrowedFd<'_>>, protocol: isize, groups: &[u32]) -> Result<Socket, Error> {
    match namespace {
        None => make_socket(protocol, groups),
        Some(namespace) => namespace::run_in(namespace, || make_socket(protocol, groups))?,
    }
}

/// A socket for requests.
pub(crate) fn open_channel(namespace: Option<BorrowedFd<'_>>, protocol: isize) -> Result<Channel, Error> {
    let socket = open_socket(namespace, protocol, &[])?;
    Channel::new(socket).map_err(|source| Error::Open { protocol: name(protocol), source })
}

impl Netlink {
    /// Opens sockets in the calling thread's network namespace. Must be called within a tokio runtime with I/O.
    pub fn open() -> Result<Self, Error> {
        Self::open_maybe_in(None)
    }

    /// Opens sockets in another network namespace: a descriptor of /proc/PID/ns/net or a bind mount of one. A
    /// throw-away thread goes there; the calling thread stays where it is. Needs CAP_SYS_ADMIN.
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self, Error> {
        Self::open_maybe_in(Some(namespace))
    }

    fn open_maybe_in(namespace: Option<BorrowedFd<'_>>) -> Result<Self, Error> {
        let channel = |protocol| open_channel(namespace, protocol).map(Arc::new);
        Ok(Self { route: channel(NETLINK_ROUTE)?, netfilter: channel(NETLINK_NETFILTER)? })
    }

    pub(crate) fn netfilter(&self) -> &Channel {
        &self.netfilter
    }

    /// A dump, understood by `read`; what it does not know is left out. A message that cannot be parsed is
    /// passed over: some driver's odd attribute must not hide all other links.
    pub(crate) async fn dump<T>(
        &self,
        action: &str,
        request: &RouteNetlinkMessage,
        read: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> Result<Vec<T>, Error> {
        let frames = self.route.dump(&encode(request, 0)).await.map_err(|source| Error::request(action, source))?;
        Ok(frames.iter().filter_map(decode).filter_map(read).collect())
    }

    /// Several requests in one system call, each with its flags; each one's own result.
    pub(crate) async fn request(
        &self,
        requests: &[(RouteNetlinkMessage, u16)],
    ) -> Result<Vec<Result<Vec<RouteNetlinkMessage>, RequestError>>, RequestError> {
        let messages: Vec<_> = requests.iter().map(|(request, flags)| encode(request, *flags)).collect();
        let answers = self.route.request(&messages).await?;
        Ok(answers.into_iter().map(|answer| answer.map(|frames| frames.iter().filter_map(decode).collect())).collect())
    }
}

fn encode(request: &RouteNetlinkMessage, flags: u16) -> Message {
    let mut payload = vec![0; request.buffer_len()];
    request.serialize(&mut payload);
    Message { kind: request.message_type(), flags, payload }
}

/// A frame of NETLINK_ROUTE as a message, if it is one that is understood.
pub(crate) fn decode(frame: &Frame) -> Option<RouteNetlinkMessage> {
    let mut header = NetlinkHeader::default();
    header.message_type = frame.kind;
    match RouteNetlinkMessage::deserialize(&header, &frame.payload) {
        Ok(message) => Some(message),
        Err(error) => {
            tracing::debug!(kind = frame.kind, %error, "a netlink message that is not understood");
            None
        }
    }
}

/// How many changes go into one system call: enough to be quick, few enough that others get their turn.
const CHUNK: usize = 64;

impl Netlink {
    /// Makes the changes in order. `write` gives each one's message, flags and whether a "not found" is as good as
    /// success, as it is for a removal.
    pub(crate) async fn make<C: fmt::Display + fmt::Debug>(
        &self,
        changes: Vec<C>,
        write: impl Fn(&C) -> (RouteNetlinkMessage, u16, bool),
    ) -> Result<Outcome<C>, Error> {
        self.make_telling(changes, write, |_| true).await
    }

    /// The same, where some changes are everyday and not worth a line in the log.
    pub(crate) async fn make_telling<C: fmt::Display + fmt::Debug>(
        &self,
        changes: Vec<C>,
        write: impl Fn(&C) -> (RouteNetlinkMessage, u16, bool),
        is_news: impl Fn(&C) -> bool,
    ) -> Result<Outcome<C>, Error> {
        let write = |change: &C| {
            let (message, flags, removal) = write(change);
            Ok((encode(&message, flags), removal))
        };
        make_telling(&self.route, changes, write, is_news).await
    }
}

/// Makes the changes in order, many in one system call. `write` gives each one's message and whether a "not found" is as good
/// as success; one that cannot be written has failed.
pub(crate) async fn make<C: fmt::Display + fmt::Debug>(
    channel: &Channel,
    changes: Vec<C>,
    write: impl Fn(&C) -> Result<(Message, bool), Error>,
) -> Result<Outcome<C>, Error> {
    make_telling(channel, changes, write, |_| true).await
}

async fn make_telling<C: fmt::Display + fmt::Debug>(
    channel: &Channel,
    changes: Vec<C>,
    write: impl Fn(&C) -> Result<(Message, bool), Error>,
    is_news: impl Fn(&C) -> bool,
) -> Result<Outcome<C>, Error> {
    let mut outcome = Outcome::new();
    let mut changes = changes.into_iter();
    loop {
        let (mut chunk, mut messages) = (Vec::new(), Vec::new());
        for change in changes.by_ref().take(CHUNK) {
            match write(&change) {
                Ok((message, removal)) => {
                    messages.push(message);
                    chunk.push((change, removal));
                }
                Err(error) => outcome.record(change, Err(error)),
            }
        }
        let Some((first, _)) = chunk.first() else { return Ok(outcome) };
        let whole = || format!("{first} and {} more", chunk.len() - 1);
        let answers = channel.request(&messages).await.map_err(|source| Error::request(whole(), source))?;
        for ((change, removal), answer) in chunk.into_iter().zip(answers) {
            let result = match answer.map_err(|source| Error::request(change.to_string(), source)) {
                Err(error) if removal && error.is_not_found() => Ok(()),
                result => result.map(drop),
            };
            match &result {
                Ok(()) if is_news(&change) => tracing::info!(%change, "network changed"),
                Ok(()) => tracing::debug!(%change, "network changed"),
                Err(error) => tracing::warn!(%change, %error, "a change of the network failed"),
            }
            outcome.record(change, result);
        }
    }
}
