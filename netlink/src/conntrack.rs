//! Connection tracking: which connections there are, and forgetting some (ctnetlink, linux/netfilter/nfnetlink_conntrack.h).
//!
//! The kernel decides on translation with a connection's first packet and keeps to it. Where rules lead elsewhere since,
//! the connection has to be forgotten, so that its next packet is decided on anew. Of IPv4 only.

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::{
    Error, Netlink,
    attribute::{Attribute, Attributes, Writer},
    nftables::Protocol,
    socket::{Frame, Message},
};

/// NFNL_SUBSYS_CTNETLINK and its messages.
const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
/// AF_INET, as the header's family.
const IPV4: u8 = 2;

/// CTA_*
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
/// CTA_TUPLE_*
const ADDRESSES: u16 = 1;
const TRANSPORT: u16 = 2;

/// How many go into one system call.
const CHUNK: usize = 64;

/// One direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// Where its packets come from.
    pub source: SocketAddrV4,
    /// Where they go.
    pub destination: SocketAddrV4,
}

/// A tracked connection of TCP or UDP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// As its first packet was before any translation.
    pub original: Way,
    /// As answers are before they are translated back: where they come from is where packets are led.
    pub reply: Way,
    /// By which the kernel mostly tells it from another with the same addresses later (it may give a number again).
    id: Option<u32>,
    zone: Option<[u8; 2]>,
}

impl Flow {
    /// One that nobody has looked up; it stands for whichever has these addresses.
    pub fn new(protocol: Protocol, original: Way, reply: Way) -> Self {
        Self { protocol, original, reply, id: None, zone: None }
    }
}

fn address(value: Option<Attribute<'_>>) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(value?.value).ok()?))
}

fn port(value: Option<Attribute<'_>>) -> Option<u16> {
    Some(u16::from_be_bytes(value?.value.try_into().ok()?))
}

fn read_way(way: Attributes<'_>) -> Option<(Protocol, Way)> {
    let (addresses, transport) = (way.get(ADDRESSES)?.nested(), way.get(TRANSPORT)?.nested());
    let protocol = match transport.get(1)?.value {
        [6] => Protocol::Tcp,
        [17] => Protocol::Udp,
        _ => return None,
    };
    let end = |which| Some(SocketAddrV4::new(address(addresses.get(which))?, port(transport.get(which + 1))?));
    Some((protocol, Way { source: end(1)?, destination: end(2)? }))
}

fn read(frame: &Frame) -> Option<Flow> {
    let attributes = Attributes::new(frame.payload.get(4..)?);
    let (protocol, original) = read_way(attributes.get(ORIGINAL)?.nested())?;
    let (_, reply) = read_way(attributes.get(REPLY)?.nested())?;
    let id = attributes.get(ID).and_then(|id| id.be32());
    let zone = attributes.get(ZONE).and_then(|zone| zone.value.try_into().ok());
    Some(Flow { protocol, original, reply, id, zone })
}

fn write_way(writer: &mut Writer, protocol: Protocol, way: &Way) {
    writer.nested(ADDRESSES, |writer| {
        writer.bytes(1, &way.source.ip().octets()).bytes(2, &way.destination.ip().octets());
    });
    writer.nested(TRANSPORT, |writer| {
        writer.bytes(1, &[protocol.number()]);
        writer.bytes(2, &way.source.port().to_be_bytes()).bytes(3, &way.destination.port().to_be_bytes());
    });
}

fn message(number: u16, write: impl FnOnce(&mut Writer)) -> Result<Message, Error> {
    let mut writer = Writer::new();
    write(&mut writer);
    // struct nfgenmsg: family, version, resource.
    let mut payload = vec![IPV4, 0, 0, 0];
    payload.extend(writer.finish("a connection")?);
    Ok(Message { kind: SUBSYSTEM << 8 | number, flags: 0, payload })
}

fn delete(flow: &Flow) -> Result<Message, Error> {
    message(DELETE, |writer| {
        writer.nested(ORIGINAL, |writer| write_way(writer, flow.protocol, &flow.original));
        if let Some(id) = flow.id {
            writer.be32(ID, id);
        }
        if let Some(zone) = &flow.zone {
            writer.bytes(ZONE, zone);
        }
    })
}

impl Netlink {
    /// All tracked connections of TCP and UDP over IPv4.
    pub async fn flows(&self) -> Result<Vec<Flow>, Error> {
        let action = "list connections";
        let request = message(GET, |_| ())?;
        let frames = self.netfilter().dump(&request).await.map_err(|source| Error::request(action, source))?;
        Ok(frames.iter().filter_map(read).collect())
    }

    /// Forgets these connections; how many were still there. Each is tried, whatever became of those before it; then the first
    /// failure counts.
    pub async fn forget_flows(&self, flows: &[Flow]) -> Result<usize, Error> {
        let (mut forgotten, mut failure) = (0, None);
        for chunk in flows.chunks(CHUNK) {
            let messages = chunk.iter().map(delete).collect::<Result<Vec<_>, _>>()?;
            let action = "forget connections";
            let answers = self.netfilter().request(&messages).await.map_err(|source| Error::request(action, source))?;
            for answer in answers {
                match answer.map_err(|source| Error::request(action, source)) {
                    Ok(_) => forgotten += 1,
                    Err(error) if error.is_not_found() => {}
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
        }
        failure.map_or(Ok(forgotten), Err)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end() -> impl Strategy<Value = SocketAddrV4> {
        (any::<u32>(), any::<u16>()).prop_map(|(address, port)| SocketAddrV4::new(address.into(), port))
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(udp: bool, source in end(), destination in end()) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let way = Way { source, destination };
            let mut writer = Writer::new();
            write_way(&mut writer, protocol, &way);
            let bytes = writer.finish("a way").unwrap();
            prop_assert_eq!(read_way(Attributes::new(&bytes)), Some((protocol, way)));
        }

        #[test]
        fn rubbish_is_no_way(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = read_way(Attributes::new(&bytes));
        }
    }
}
