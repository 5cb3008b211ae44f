//! Notifications: that something changed in the namespace, by whomever.
//!
//! A notification only says where to look; the reader then dumps and plans. When more happens than the
//! socket can hold, the kernel drops some and says so (ENOBUFS): that is [`Event::Overrun`], after which everything must be
//! looked at again. Dropping a future of `next` loses nothing.

use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use rustix::io::Errno;

use crate::{
    Error, RequestError, handle,
    link::Link,
    nftables::{self, batch},
    socket::{Frame, Receiver},
};

/// RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV6_ROUTE.
const ROUTE_GROUPS: [u32; 5] = [1, 5, 7, 9, 11];
/// NFNLGRP_NFTABLES.
const NFTABLES_GROUP: u32 = 7;

/// What changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A link came or changed.
    Link(Link),
    /// A link went.
    LinkGone(Link),
    /// The addresses of the link with this index changed.
    Address {
        /// The link's index.
        link: u32,
        /// Which one came, or was renewed; `None` where one went.
        came: Option<IpAddr>,
    },
    /// A route came, changed or went.
    Route {
        /// Who made it (rtm_protocol); ours are [`crate::route::PROTOCOL`].
        protocol: u8,
    },
    /// Notifications were lost: look at everything.
    Overrun,
}

/// A stream of changes of links, addresses and routes.
#[derive(Debug)]
pub struct Monitor {
    events: Events<Event>,
}

impl Monitor {
    /// Listens in the calling thread's namespace, or in another (see [`crate::Netlink::open_in`]). What changes from now on is
    /// told: listen first, then dump.
    pub fn open(namespace: Option<BorrowedFd<'_>>) -> Result<Self, Error> {
        Events::open(namespace, NETLINK_ROUTE, &ROUTE_GROUPS, Event::Overrun).map(|events| Self { events })
    }

    /// The next change. An error means that the socket is of no more use: open anew and dump.
    pub async fn next(&mut self) -> Result<Event, Error> {
        self.events.next(read_route).await
    }
}

fn read_route(frame: &Frame) -> Option<Event> {
    match handle::decode(frame)? {
        message @ RouteNetlinkMessage::NewLink(_) => crate::link::read(message).map(Event::Link),
        message @ RouteNetlinkMessage::DelLink(_) => crate::link::read(message).map(Event::LinkGone),
        RouteNetlinkMessage::NewAddress(message) => {
            let link = message.header.index;
            let found = crate::address::read(RouteNetlinkMessage::NewAddress(message));
            Some(Event::Address { link, came: found.map(|found| found.spec.address) })
        }
        RouteNetlinkMessage::DelAddress(message) => Some(Event::Address { link: message.header.index, came: None }),
        RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message) => {
            Some(Event::Route { protocol: message.header.protocol.into() })
        }
        _ => None,
    }
}

/// What happened to the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RulesEvent {
    /// Somebody committed something (NFT_MSG_NEWGEN).
    Committed {
        /// The number of the commit.
        generation: u32,
        /// Who, by process id; ours is [`std::process::id`] or that of a thread of ours.
        process: u32,
        /// The name of that program: `nft`, `iptables`, `dockerd`.
        name: String,
    },
    /// Notifications were lost: look at everything.
    Overrun,
}

/// A stream of commits to nftables, to learn that somebody flushed or changed something.
#[derive(Debug)]
pub struct RulesMonitor {
    events: Events<RulesEvent>,
}

impl RulesMonitor {
    /// Listens, as [`Monitor::open`] does.
    pub fn open(namespace: Option<BorrowedFd<'_>>) -> Result<Self, Error> {
        Events::open(namespace, NETLINK_NETFILTER, &[NFTABLES_GROUP], RulesEvent::Overrun).map(|events| Self { events })
    }

    /// The next commit. An error means that the socket is of no more use: open anew and look.
    pub async fn next(&mut self) -> Result<RulesEvent, Error> {
        self.events.next(read_rules).await
    }
}

fn read_rules(frame: &Frame) -> Option<RulesEvent> {
    if frame.kind != batch::kind(batch::NEW_GENERATION) {
        return None;
    }
    let attributes = nftables::batch::attributes(&frame.payload);
    Some(RulesEvent::Committed {
        generation: attributes.get(1)?.be32()?,
        process: attributes.get(2).and_then(|process| process.be32()).unwrap_or(0),
        name: attributes.get(3).and_then(|name| name.text()).unwrap_or_default(),
    })
}

#[derive(Debug)]
pub(crate) struct Events<E> {
    receiver: Receiver,
    ready: std::collections::VecDeque<E>,
    overrun: E,
}

impl<E: Clone> Events<E> {
    pub(crate) fn open(
        namespace: Option<BorrowedFd<'_>>,
        protocol: isize,
        groups: &[u32],
        overrun: E,
    ) -> Result<Self, Error> {
        let socket = handle::open_socket(namespace, protocol, groups)?;
        let receiver = Receiver::new(socket).map_err(|source| Error::Open { protocol: "notifications", source })?;
        Ok(Self { receiver, ready: std::collections::VecDeque::new(), overrun })
    }

    pub(crate) async fn next(&mut self, read: impl Fn(&Frame) -> Option<E>) -> Result<E, Error> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            match self.receiver.receive().await {
                Ok(frames) => self.ready.extend(frames.iter().filter_map(&read)),
                Err(RequestError::Socket(error)) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => {
                    return Ok(self.overrun.clone());
                }
                // A message that lies about its length: some notification is lost with it.
                Err(RequestError::Malformed(what)) => {
                    tracing::warn!(what, "a notification that is not understood");
                    return Ok(self.overrun.clone());
                }
                Err(source) => return Err(Error::request("listen for notifications", source)),
            }
        }
    }
}
