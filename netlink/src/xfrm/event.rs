//! What the kernel tells of associations and policies by itself.

use std::{net::SocketAddr, os::fd::BorrowedFd};

use netlink_sys::protocols::NETLINK_XFRM;

use super::{
    AssociationId, Mark, Selector,
    message::{
        DELETE_ASSOCIATION, DELETE_POLICY, NEW_ASSOCIATION, NEW_POLICY, UPDATE_ASSOCIATION, UPDATE_POLICY, read_id,
    },
    wire::{Take, address},
};
use crate::{Error, notify::Events, socket::Frame};

const ACQUIRE: u16 = 0x17;
const EXPIRE: u16 = 0x18;
const POLICY_EXPIRE: u16 = 0x1b;
const FLUSH_ASSOCIATIONS: u16 = 0x1c;
const FLUSH_POLICIES: u16 = 0x1d;
const MAPPING: u16 = 0x26;

/// XFRMNLGRP_ACQUIRE: whoever is a member is expected to bring an association, and the kernel waits for it.
const ACQUIRE_GROUP: u32 = 1;
/// XFRMNLGRP_EXPIRE, SA, POLICY, MAPPING.
const GROUPS: [u32; 4] = [2, 3, 4, 8];
const USERSA_INFO: usize = 224;
const USERPOLICY_INFO: usize = 168;
const FAMILY: usize = 212;

/// What happened, by whomever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XfrmEvent {
    /// An association came.
    AssociationAdded(AssociationId),
    /// An association was changed.
    AssociationUpdated(AssociationId),
    /// An association went, by hand or because a limit was reached.
    AssociationGone(AssociationId),
    /// A limit was reached; with `hard` it is gone.
    Expired {
        /// Which.
        id: AssociationId,
        /// It ended.
        hard: bool,
    },
    /// All associations of a protocol went at once.
    AssociationsFlushed,
    /// A policy came, changed, went, or reached a limit.
    PolicyChanged,
    /// All policies went at once.
    PoliciesFlushed,
    /// A packet wants an association that is not there; it was dropped.
    Wanted {
        /// What the packet was of.
        selector: Selector,
    },
    /// Packets of an association in UDP come from elsewhere now: something on the way translates addresses.
    Moved {
        /// Which.
        id: AssociationId,
        /// Where they came from.
        before: SocketAddr,
        /// Where they come from.
        now: SocketAddr,
    },
    /// Notifications were lost: look at everything.
    Overrun,
}

/// A stream of what happens to associations and policies.
#[derive(Debug)]
pub struct XfrmMonitor {
    events: Events<XfrmEvent>,
}

impl XfrmMonitor {
    /// Listens in the calling thread's namespace, or in another (see [`crate::Netlink::open_in`]). Listen first, then dump. With `wanted` it is also told
    /// of packets that lack an association; the kernel then keeps a place for it, for `net.core.xfrm_acq_expires` seconds.
    pub fn open(namespace: Option<BorrowedFd<'_>>, wanted: bool) -> Result<Self, Error> {
        let groups: Vec<_> = wanted.then_some(ACQUIRE_GROUP).into_iter().chain(GROUPS).collect();
        Events::open(namespace, NETLINK_XFRM, &groups, XfrmEvent::Overrun).map(|events| Self { events })
    }

    /// The next one. An error means that the socket is of no more use: open anew and look.
    pub async fn next(&mut self) -> Result<XfrmEvent, Error> {
        self.events.next(|frame: &Frame| read(frame.kind, &frame.payload)).await
    }
}

fn information_id(payload: &[u8]) -> Option<AssociationId> {
    let family = Take::new(payload.get(FAMILY..USERSA_INFO)?).u16()?;
    let mut id = Take::new(payload.get(56..)?);
    let destination = address(id.address()?, family)?;
    Some(AssociationId { destination, spi: id.be32()?, mark: Mark::default() })
}

pub(super) fn read(kind: u16, payload: &[u8]) -> Option<XfrmEvent> {
    match kind {
        NEW_ASSOCIATION => information_id(payload).map(XfrmEvent::AssociationAdded),
        UPDATE_ASSOCIATION => information_id(payload).map(XfrmEvent::AssociationUpdated),
        DELETE_ASSOCIATION => {
            let (destination, spi, _) = read_id(&mut Take::new(payload))?;
            Some(XfrmEvent::AssociationGone(AssociationId::new(destination, spi)))
        }
        // struct xfrm_user_expire: the association, then whether it is over.
        EXPIRE => {
            Some(XfrmEvent::Expired { id: information_id(payload)?, hard: payload.get(USERSA_INFO).copied()? != 0 })
        }
        FLUSH_ASSOCIATIONS => Some(XfrmEvent::AssociationsFlushed),
        NEW_POLICY | UPDATE_POLICY | DELETE_POLICY => Some(XfrmEvent::PolicyChanged),
        POLICY_EXPIRE => payload.get(USERPOLICY_INFO).map(|_| XfrmEvent::PolicyChanged),
        FLUSH_POLICIES => Some(XfrmEvent::PoliciesFlushed),
        // struct xfrm_user_acquire: id, source, selector.
        ACQUIRE => {
            let mut acquire = Take::new(payload);
            acquire.skip(24 + 16)?;
            Some(XfrmEvent::Wanted { selector: acquire.selector(0)? })
        }
        // struct xfrm_user_mapping: id, request id, addresses, ports.
        MAPPING => {
            let mut mapping = Take::new(payload);
            let (destination, spi, _) = read_id(&mut mapping)?;
            mapping.skip(4)?;
            let family = super::wire::family(destination);
            let (before, now) = (address(mapping.address()?, family)?, address(mapping.address()?, family)?);
            let (before_port, now_port) = (mapping.be16()?, mapping.be16()?);
            Some(XfrmEvent::Moved {
                id: AssociationId::new(destination, spi),
                before: SocketAddr::new(before, before_port),
                now: SocketAddr::new(now, now_port),
            })
        }
        _ => None,
    }
}
