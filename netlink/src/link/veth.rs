//! The fast way to a veth pair: everything in one system call, without looking first.
//!
//! Two messages in one `sendmsg`. The first makes both ends, with MTU, addresses and master; the second isolates
//! the host's end and sets it up, in this order, so that it never carries a packet unisolated.

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo},
};

use super::{
    PortFlags, Settings, check_name,
    message::{self, Handle},
};
use crate::{
    Error, Mac, Netlink,
    socket::{NLM_F_CREATE, NLM_F_EXCL},
};

/// A veth pair to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VethSpec {
    /// The end that stays, a port of the bridge.
    pub name: String,
    /// The end that goes into the container.
    pub peer: String,
    /// The largest packet of both ends, bytes.
    pub mtu: u32,
    /// The address of the host's end; the kernel picks one otherwise.
    pub mac: Option<Mac>,
    /// The address of the peer.
    pub peer_mac: Mac,
    /// The index of the bridge that the host's end becomes a port of. An index and not a name: names cost a request.
    pub master: Option<u32>,
    /// Flags of that port.
    pub port: PortFlags,
    /// A text for people on the host's end; `ip link` shows it.
    pub alias: Option<String>,
}

impl Netlink {
    /// Makes the pair. [`Error::is_exists`] if either name is taken: then the caller looks whose it is, takes it with
    /// [`Netlink::set_link`] or deletes it. (The kernel goes on after a refused message, so a link that has the
    /// name already got the port flags and is up.)
    ///
    /// A pair that was made and could not be isolated is taken away again: what exists is whole.
    pub async fn create_veth(&self, spec: &VethSpec) -> Result<(), Error> {
        check_name(&spec.name)?;
        check_name(&spec.peer)?;
        let mut peer = message::base(&Handle::Name(&spec.peer));
        peer.attributes.push(LinkAttribute::Mtu(spec.mtu));
        peer.attributes.push(LinkAttribute::Address(spec.peer_mac.0.to_vec()));
        // The kernel takes master on creation, but no alias and no port flags.
        let properties = Settings { mtu: Some(spec.mtu), mac: spec.mac, master: spec.master, ..Settings::default() };
        let mut create = message::set(&Handle::Name(&spec.name), &properties);
        let info = vec![LinkInfo::Kind(InfoKind::Veth), message::veth_peer(peer)];
        create.attributes.push(LinkAttribute::LinkInfo(info));
        let finish = Settings { alias: spec.alias.clone(), port: spec.port, up: Some(true), ..Settings::default() };
        let finish = message::set(&Handle::Name(&spec.name), &finish);
        let messages = [
            (RouteNetlinkMessage::NewLink(create), NLM_F_CREATE | NLM_F_EXCL),
            (RouteNetlinkMessage::NewLink(finish), 0),
        ];
        let actions = [
            format!("create veth {} with peer {}", spec.name, spec.peer),
            format!("isolate and set up veth {}", spec.name),
        ];
        let answers = self.request(&messages).await.map_err(|source| Error::request(actions.join(", "), source))?;
        let mut made = false;
        for (action, answer) in actions.into_iter().zip(answers) {
            if let Err(source) = answer {
                if made {
                    self.delete_link(&spec.name).await?;
                }
                return Err(Error::request(action, source));
            }
            made = true;
        }
        Ok(())
    }
}
