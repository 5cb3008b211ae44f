//! Links: bridges, VXLAN devices, veth pairs, and what is set on any link (MTU, address, master, port flags, up).
//!
//! [`ensure_link`](crate::Netlink::ensure_link) is the slow and complete way: it looks, plans ([`plan`]) and changes what differs. A VXLAN
//! device whose network identifier, port or local address differs is deleted and made anew, because the kernel cannot
//! change these. [`create_veth`](crate::Netlink::create_veth) is the fast way for the start of a container: one system call, no look before.
//!
//! ```text
//!   links() ──► Link ─┐
//!                     ├─ plan ──► [Delete] [Create] [Set] ──► one sendmsg
//!   LinkSpec ─────────┘
//! ```

mod apply;
mod message;
pub(crate) use message::read;
mod veth;

pub use veth::VethSpec;

use std::net::IpAddr;

use crate::{Error, Mac};

/// What a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge.
    Bridge,
    /// A VXLAN device with static forwarding entries (see [`crate::neighbour`]).
    Vxlan(Vxlan),
    /// One end of a veth pair; the peer is made with it.
    Veth {
        /// The name of the other end, in the same namespace at first.
        peer: String,
    },
}

impl LinkKind {
    /// The name `ip -d link` shows (IFLA_INFO_KIND).
    pub fn name(&self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Vxlan(_) => "vxlan",
            Self::Veth { .. } => "veth",
        }
    }
}

/// What makes a VXLAN device (linux/if_link.h, IFLA_VXLAN_*).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vxlan {
    /// The network identifier, 24 bits.
    pub vni: u32,
    /// The UDP port, on both sides.
    pub port: u16,
    /// The address packets are sent from; also chooses IPv4 or IPv6 for the underlay.
    pub local: IpAddr,
    /// Whether forwarding entries are learned from packets. Off where entries are static.
    pub learning: bool,
    /// Whether a packet's mark, of 16 bits, crosses with it (IFLA_VXLAN_GBP); who has it off drops what comes with one.
    pub group_policy: bool,
}

/// Flags of a port of a bridge (IFLA_BRPORT_*). `None` leaves one as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortFlags {
    /// Isolated ports do not reach each other through the bridge, only ports that are not and the bridge itself.
    pub isolated: Option<bool>,
    /// Whether the bridge learns addresses from packets that come in here.
    pub learning: Option<bool>,
    /// Whether packets to unknown addresses go out here.
    pub unicast_flood: Option<bool>,
}

impl PortFlags {
    /// An isolated port, everything else as it is.
    pub fn isolated() -> Self {
        Self { isolated: Some(true), ..Self::default() }
    }

    /// An isolated port about which nothing is learned and on which nobody is looked for: who is behind it is pinned
    /// ([`crate::pin`]).
    pub fn pinned() -> Self {
        Self { isolated: Some(true), learning: Some(false), unicast_flood: Some(false) }
    }

    fn wants_nothing(self) -> bool {
        self == Self::default()
    }

    /// Whether a port that is `current` needs no change.
    pub fn satisfied_by(self, current: Self) -> bool {
        fn met(wanted: Option<bool>, current: Option<bool>) -> bool {
            wanted.is_none() || wanted == current
        }
        met(self.isolated, current.isolated)
            && met(self.learning, current.learning)
            && met(self.unicast_flood, current.unicast_flood)
    }
}

/// A link as it should be. `None` leaves a property as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkSpec {
    /// Its name, at most 15 bytes.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// The largest packet, bytes.
    pub mtu: Option<u32>,
    /// Its address. A bridge without one takes that of a port, and it changes as ports come and go.
    pub mac: Option<Mac>,
    /// A text for people; `ip link` shows it.
    pub alias: Option<String>,
    /// Whether it is administratively up.
    pub up: bool,
    /// The bridge it is a port of. `None` leaves it where it is.
    pub master: Option<String>,
    /// Flags as a port of that bridge.
    pub port: PortFlags,
}

impl LinkSpec {
    /// A link that is up; nothing else is asked for.
    pub fn new(name: impl Into<String>, kind: LinkKind) -> Self {
        Self {
            name: name.into(),
            kind,
            mtu: None,
            mac: None,
            alias: None,
            up: true,
            master: None,
            port: PortFlags::default(),
        }
    }
}

/// A link as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Its index in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// IFLA_INFO_KIND; empty for a physical device and for `lo`.
    pub kind: String,
    /// What makes it, if it is a VXLAN device.
    pub vxlan: Option<Vxlan>,
    /// The largest packet, bytes.
    pub mtu: u32,
    /// Its address, if it is an Ethernet one.
    pub mac: Option<Mac>,
    /// A text for people.
    pub alias: Option<String>,
    /// Administratively up (IFF_UP).
    pub up: bool,
    /// There is carrier (IFF_LOWER_UP).
    pub carrier: bool,
    /// The index of the bridge it is a port of.
    pub master: Option<u32>,
    /// Flags as a port of a bridge; all `None` if it is none.
    pub port: PortFlags,
    /// IFLA_LINK: of a veth the peer's index, in the peer's namespace.
    pub lower: Option<u32>,
}

/// Properties to set on a link. `None` leaves one as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// The largest packet, bytes.
    pub mtu: Option<u32>,
    /// Its address.
    pub mac: Option<Mac>,
    /// A text for people.
    pub alias: Option<String>,
    /// The index of the bridge to become a port of.
    pub master: Option<u32>,
    /// Flags as a port.
    pub port: PortFlags,
    /// Administratively up or down.
    pub up: Option<bool>,
}

/// One step from a link as it is to a link as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Delete it, to make it anew.
    Delete {
        /// The index it has now.
        index: u32,
    },
    /// Make it, down and without a master.
    Create,
    /// Set what differs, in one message; up comes last within it.
    Set(Settings),
}

/// What [`Netlink::ensure_link`](crate::Netlink::ensure_link) found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ensured {
    /// The link's index.
    pub index: u32,
    /// What was changed; empty if all was as it should be.
    pub changes: Vec<Change>,
}

/// The steps from `current` to `desired`. `master` is the index of the bridge that `desired` names.
///
/// A link of that name and another kind is [`Error::KindDiffers`]: it is not ours to delete.
pub fn plan(current: Option<&Link>, desired: &LinkSpec, master: Option<u32>) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    let mut kept = None;
    match current {
        None => changes.push(Change::Create),
        Some(link) if link.kind != desired.kind.name() => {
            return Err(Error::KindDiffers {
                name: desired.name.clone(),
                found: link.kind.clone(),
                wanted: desired.kind.name().to_owned(),
            });
        }
        Some(link) => match desired.kind {
            LinkKind::Vxlan(wanted) if link.vxlan != Some(wanted) => {
                changes.push(Change::Delete { index: link.index });
                changes.push(Change::Create);
            }
            _ => kept = Some(link),
        },
    }
    let settings = match kept {
        Some(link) => Settings {
            mtu: desired.mtu.filter(|mtu| *mtu != link.mtu),
            mac: desired.mac.filter(|mac| Some(*mac) != link.mac),
            alias: desired.alias.clone().filter(|alias| Some(alias) != link.alias.as_ref()),
            master: master.filter(|master| Some(*master) != link.master),
            // A port's flags end with its membership; on another bridge they are set anew.
            port: if desired.port.satisfied_by(link.port) && (master.is_none() || master == link.master) {
                PortFlags::default()
            } else {
                desired.port
            },
            up: Some(desired.up).filter(|up| *up != link.up),
        },
        None => Settings {
            mtu: desired.mtu,
            mac: desired.mac,
            alias: desired.alias.clone(),
            master,
            port: desired.port,
            up: Some(true).filter(|_| desired.up),
        },
    };
    if settings != Settings::default() {
        changes.push(Change::Set(settings));
    }
    Ok(changes)
}

/// A name the kernel takes (dev_valid_name): 1 to 15 bytes, no `/`, `:` or white space, not `.` or `..`.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let odd = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    if name.is_empty() || name.len() > 15 || name == "." || name == ".." || name.contains(odd) {
        return Err(Error::InvalidName { name: name.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
