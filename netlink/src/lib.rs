//! Links, addresses, routes and rules, neighbours, bridges, nftables, connection tracking and IPsec as typed desired state, pure Rust over netlink.
//!
//! Every module has the same shape. What should be is a plain value (`LinkSpec`, `RouteSpec`, …). A *dump* says
//! what is. A pure `plan` compares the two and gives the changes, in the order in which they are safe to make.
//! *Applying* makes them and reports each one that failed. So a second run changes nothing, and a run that was
//! cut short is finished by the next one.
//!
//! ```no_run
//! # async fn example() -> Result<(), stampede_netlink::Error> {
//! use stampede_netlink::{Netlink, link::{LinkKind, LinkSpec}};
//! let netlink = Netlink::open()?;
//! let bridge = LinkSpec { mtu: Some(1380), ..LinkSpec::new("stampede0", LinkKind::Bridge) };
//! let ensured = netlink.ensure_link(&bridge).await?;
//! println!("index {}, {} changes", ensured.index, ensured.changes.len());
//! # Ok(()) }
//! ```
//!
//! The wire: [`Netlink`] owns one socket for NETLINK_ROUTE and one for NETLINK_NETFILTER. Messages of the first
//! are encoded by `netlink-packet-route`; those of nftables by an encoder of our own ([`nftables`]). IPsec has a socket of its
//! own ([`xfrm::Xfrm`]), since not every kernel has it. Requests and
//! answers go through a small engine of our own (`socket`), because it sends several messages in one system call,
//! which the start of a container needs, and keeps the kernel's own words of an error, which an operator needs.
//!
//! Nothing here knows what Stampede is, but for [`route::PROTOCOL`].

pub mod address;
mod attribute;
pub mod conntrack;
mod error;
mod handle;
pub mod link;
pub mod namespace;
pub mod neighbour;
pub mod nftables;
pub mod notify;
pub mod nudge;
mod outcome;
pub mod pin;
pub mod route;
pub mod rule;
mod socket;
pub mod sysctl;
mod types;
pub mod xfrm;

pub use error::{Error, RequestError};
pub use handle::Netlink;
pub use outcome::Outcome;
pub use types::{InvalidAddress, Mac, Prefix};
