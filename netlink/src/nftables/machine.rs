//! How the kernel's little machine is told what an expression says.
//!
//! The machine has registers of four bytes; NFT_REG_1 is the first four of them together. An expression of ours is what a
//! line of nft says (`ip saddr 10.42.0.0/16`); it becomes several of the kernel's (load, mask, compare). What a match
//! tacitly needs, `ip saddr` in an inet table that the packet is IPv4, is put before it, once a rule.

use std::net::IpAddr;

use super::{
    AddressMatch, Expression, Family, Field, Interface, NFPROTO_IPV4, NFPROTO_IPV6, Protocol, Refusal, Side, Target,
    Way,
};
use crate::{Error, attribute::Writer};

const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;
const REG_2: u32 = 2;
/// NFT_REG32_00, the first of the sixteen registers of four bytes.
const REG32: u32 = 8;
const REGISTERS: usize = 64;

const META_PROTOCOL: u32 = 1;
const META_MARK: u32 = 3;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;

/// ETH_P_IP, ETH_P_ARP and ETH_P_IPV6.
const ETHER_IPV4: u16 = 0x0800;
const ETHER_ARP: u16 = 0x0806;
const ETHER_IPV6: u16 = 0x86dd;

const LINK_HEADER: u32 = 0;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

const CT_STATE: u32 = 0;
const CT_DIRECTION: u32 = 1;
const CT_STATUS: u32 = 2;
/// IP_CT_DIR_REPLY
const DIRECTION_REPLY: u8 = 1;
/// IPS_DST_NAT
const STATUS_LED: u32 = 0x20;

/// NFTA_FIB_F_SADDR, NFTA_FIB_F_DADDR, NFT_FIB_RESULT_ADDRTYPE and RTN_LOCAL.
const FIB_SOURCE: u32 = 1;
const FIB_DESTINATION: u32 = 2;
const FIB_KIND: u32 = 3;
const KIND_LOCAL: u32 = 2;

/// NFT_REJECT_TCP_RST, NFT_REJECT_ICMPX_UNREACH and NFT_REJECT_ICMPX_PORT_UNREACH.
const REJECT_RESET: u32 = 1;
const REJECT_ICMPX: u32 = 2;
const ICMPX_PORT_UNREACHABLE: u8 = 1;

const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const CMP_LTE: u32 = 3;
const CMP_GTE: u32 = 5;

/// Writes a rule's expressions as a list (NFTA_LIST_ELEM of name and data).
pub(super) struct RuleWriter<'a> {
    writer: &'a mut Writer,
    network: Option<u8>,
    /// On a bridge it is the frame that tells.
    frames: bool,
    transport: Option<u8>,
}

impl<'a> RuleWriter<'a> {
    pub(super) fn new(writer: &'a mut Writer, family: Family) -> Self {
        let network = match family {
            Family::Inet | Family::Bridge => None,
            Family::Ipv4 => Some(NFPROTO_IPV4),
            Family::Ipv6 => Some(NFPROTO_IPV6),
        };
        Self { writer, network, frames: family == Family::Bridge, transport: None }
    }

    fn push(&mut self, name: &str, data: impl FnOnce(&mut Writer)) {
        self.writer.nested(1, |writer| {
            writer.text(1, name).nested(2, data);
        });
    }

    fn meta(&mut self, key: u32, register: u32) {
        self.push("meta", |data| {
            data.be32(1, register).be32(2, key);
        });
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32, register: u32) {
        self.push("payload", |data| {
            data.be32(1, register).be32(2, base).be32(3, offset).be32(4, length);
        });
    }

    fn compare(&mut self, operation: u32, value: &[u8]) {
        self.push("cmp", |data| {
            data.be32(1, REG_1).be32(2, operation).nested(3, |data| {
                data.bytes(1, value);
            });
        });
    }

    fn mask(&mut self, mask: &[u8]) {
        self.mask_and_flip(mask, &vec![0; mask.len()]);
    }

    fn mask_and_flip(&mut self, mask: &[u8], flip: &[u8]) {
        let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
        self.push("bitwise", |data| {
            data.be32(1, REG_1).be32(2, REG_1).be32(3, length);
            data.nested(4, |data| {
                data.bytes(1, mask);
            });
            data.nested(5, |data| {
                data.bytes(1, flip);
            });
        });
    }

    /// Something of the packet's connection.
    fn connection(&mut self, key: u32) {
        self.push("ct", |data| {
            data.be32(1, REG_1).be32(2, key);
        });
    }

    fn immediate(&mut self, register: u32, value: &[u8]) {
        self.push("immediate", |data| {
            data.be32(1, register).nested(2, |data| {
                data.bytes(1, value);
            });
        });
    }

    /// The packet must be of this network protocol; said once a rule.
    fn need_network(&mut self, ipv4: bool) {
        let wanted = if ipv4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
        if self.network != Some(wanted) {
            if self.frames {
                self.need_frame(if ipv4 { ETHER_IPV4 } else { ETHER_IPV6 });
            } else {
                self.meta(META_NFPROTO, REG_1);
                self.compare(CMP_EQ, &[wanted]);
            }
            self.network = Some(wanted);
        }
    }

    fn need_frame(&mut self, kind: u16) {
        self.meta(META_PROTOCOL, REG_1);
        self.compare(CMP_EQ, &kind.to_be_bytes());
    }

    fn need_transport(&mut self, protocol: Protocol) {
        if self.transport != Some(protocol.number()) {
            self.meta(META_L4PROTO, REG_1);
            self.compare(CMP_EQ, &[protocol.number()]);
            self.transport = Some(protocol.number());
        }
    }

    fn load(&mut self, field: Field, register: u32) {
        match field {
            Field::Ipv4(side) => self.load_address(side, true, register),
            Field::Ipv6(side) => self.load_address(side, false, register),
            Field::Protocol => self.meta(META_L4PROTO, register),
            Field::Port(Side::Source) => self.payload(TRANSPORT_HEADER, 0, 2, register),
            Field::Port(Side::Destination) => self.payload(TRANSPORT_HEADER, 2, 2, register),
            Field::Interface(Way::In) => self.meta(META_IIFNAME, register),
            Field::Interface(Way::Out) => self.meta(META_OIFNAME, register),
            // struct ethhdr, and struct arphdr with what follows it for IPv4 on Ethernet.
            Field::Ethernet(Side::Destination) => self.payload(LINK_HEADER, 0, 6, register),
            Field::Ethernet(Side::Source) => self.payload(LINK_HEADER, 6, 6, register),
            Field::ArpSource => self.payload(NETWORK_HEADER, 14, 4, register),
            Field::Mark => self.meta(META_MARK, register),
        }
    }

    fn load_address(&mut self, side: Side, ipv4: bool, register: u32) {
        // struct iphdr and struct ipv6hdr.
        let (offset, length) = match (ipv4, side) {
            (true, Side::Source) => (12, 4),
            (true, Side::Destination) => (16, 4),
            (false, Side::Source) => (8, 16),
            (false, Side::Destination) => (24, 16),
        };
        self.payload(NETWORK_HEADER, offset, length, register);
    }

    /// Loads a key, its parts side by side, beginning in the first register.
    fn load_key(&mut self, key: &[Field]) -> Result<(), Error> {
        let length: usize = key.iter().map(|field| field.data_type().length().next_multiple_of(4)).sum();
        if key.is_empty() || length > REGISTERS {
            return Err(Error::TooLarge { what: format!("the key {key:?}") });
        }
        for field in key {
            match field {
                Field::Ipv4(_) => self.need_network(true),
                Field::Ipv6(_) => self.need_network(false),
                _ => {}
            }
        }
        let mut next = 0;
        for field in key {
            self.load(*field, if next == 0 { REG_1 } else { REG32 + next });
            next += u32::try_from(field.data_type().length().div_ceil(4)).unwrap_or(u32::MAX);
        }
        Ok(())
    }

    fn lookup(&mut self, set: &str, into: Option<u32>, negated: bool) {
        self.push("lookup", |data| {
            data.text(1, set).be32(2, REG_1);
            if let Some(register) = into {
                data.be32(3, register);
            }
            if negated {
                data.be32(5, 1);
            }
        });
    }

    pub(super) fn write(&mut self, expression: &Expression) -> Result<(), Error> {
        match expression {
            Expression::Address { side, with, negated } => self.address(*side, with, *negated)?,
            Expression::Interface { way, name, negated } => self.interface(*way, name, *negated)?,
            Expression::IsIpv4(ipv4) => self.need_network(*ipv4),
            Expression::IsArp => self.need_frame(ETHER_ARP),
            Expression::Protocol(protocol) => self.need_transport(*protocol),
            Expression::Port(protocol, side, ports) => {
                self.need_transport(*protocol);
                self.load(Field::Port(*side), REG_1);
                if ports.start() == ports.end() {
                    self.compare(CMP_EQ, &ports.start().to_be_bytes());
                } else {
                    self.compare(CMP_GTE, &ports.start().to_be_bytes());
                    self.compare(CMP_LTE, &ports.end().to_be_bytes());
                }
            }
            Expression::State(states) => {
                self.connection(CT_STATE);
                // The state is a number of the machine's own byte order.
                self.mask(&states.0.to_ne_bytes());
                self.compare(CMP_NEQ, &[0; 4]);
            }
            Expression::Lookup { key, set, negated } => {
                self.load_key(key)?;
                self.lookup(set, None, *negated);
            }
            Expression::VerdictMap { key, map } => {
                self.load_key(key)?;
                self.lookup(map, Some(REG_VERDICT), false);
            }
            Expression::ToThisHost => {
                self.push("fib", |data| {
                    data.be32(1, REG_1).be32(2, FIB_KIND).be32(3, FIB_DESTINATION);
                });
                self.compare(CMP_EQ, &KIND_LOCAL.to_ne_bytes());
            }
            Expression::NotFromThisHost => {
                self.push("fib", |data| {
                    data.be32(1, REG_1).be32(2, FIB_KIND).be32(3, FIB_SOURCE);
                });
                self.compare(CMP_NEQ, &KIND_LOCAL.to_ne_bytes());
            }
            Expression::Led => {
                self.connection(CT_DIRECTION);
                self.compare(CMP_EQ, &[0]);
                self.connection(CT_STATUS);
                self.mask(&STATUS_LED.to_ne_bytes());
                self.compare(CMP_NEQ, &[0; 4]);
            }
            Expression::Mark(bits) => {
                self.meta(META_MARK, REG_1);
                self.mask_and_flip(&(!bits).to_ne_bytes(), &bits.to_ne_bytes());
                self.set_mark();
            }
            Expression::MarkOf { key, map } => {
                self.load_key(key)?;
                self.lookup(map, Some(REG_1), false);
                self.set_mark();
            }
            Expression::Answers => {
                self.connection(CT_DIRECTION);
                self.compare(CMP_EQ, &[DIRECTION_REPLY]);
            }
            Expression::Marked(bits) => {
                self.meta(META_MARK, REG_1);
                self.mask(&bits.to_ne_bytes());
                self.compare(CMP_EQ, &bits.to_ne_bytes());
            }
            Expression::Untracked => self.push("notrack", |_| ()),
            Expression::Reject(refusal) => self.reject(*refusal),
            Expression::Counter => self.push("counter", |data| {
                data.bytes(1, &[0; 8]).bytes(2, &[0; 8]);
            }),
            Expression::Verdict(verdict) => self.push("immediate", |data| {
                data.be32(1, REG_VERDICT).nested(2, |data| verdict.write(data));
            }),
            Expression::Masquerade => self.push("masq", |_| ()),
            Expression::SourceNat(target) => self.translate(0, target)?,
            Expression::DestinationNat(target) => self.translate(1, target)?,
            Expression::ClampSegmentSize => self.clamp(),
        }
        Ok(())
    }

    /// The first register becomes the packet's mark.
    fn set_mark(&mut self) {
        self.push("meta", |data| {
            data.be32(2, META_MARK).be32(3, REG_1);
        });
    }

    fn address(&mut self, side: Side, with: &AddressMatch, negated: bool) -> Result<(), Error> {
        let operation = if negated { CMP_NEQ } else { CMP_EQ };
        let ipv4 = match with {
            AddressMatch::Prefix(prefix) => prefix.address().is_ipv4(),
            AddressMatch::Range(first, _) => first.is_ipv4(),
        };
        self.need_network(ipv4);
        self.load_address(side, ipv4, REG_1);
        match with {
            AddressMatch::Prefix(prefix) => {
                let address = octets(prefix.address());
                let mask: Vec<u8> = (0..address.len())
                    .map(|octet| {
                        let ones = usize::from(prefix.length()).saturating_sub(octet * 8).min(8);
                        u8::MAX.checked_shl(8 - u32::try_from(ones).unwrap_or(8)).unwrap_or(0)
                    })
                    .collect();
                if mask.last() != Some(&u8::MAX) {
                    self.mask(&mask);
                }
                self.compare(operation, &address);
            }
            AddressMatch::Range(first, last) => {
                if first.is_ipv4() != last.is_ipv4() || first > last {
                    return Err(Error::WrongType { set: "a range".to_owned(), value: format!("{first}-{last}") });
                }
                self.push("range", |data| {
                    data.be32(1, REG_1).be32(2, operation);
                    for (attribute, end) in [(3, first), (4, last)] {
                        data.nested(attribute, |data| {
                            data.bytes(1, &octets(*end));
                        });
                    }
                });
            }
        }
        Ok(())
    }

    fn interface(&mut self, way: Way, name: &Interface, negated: bool) -> Result<(), Error> {
        self.load(Field::Interface(way), REG_1);
        let (Interface::Named(text) | Interface::Prefixed(text)) = name;
        crate::link::check_name(text)?;
        // Compared with its closing NUL it is the whole name, without it only the beginning: as iptables does it.
        let mut value = text.as_bytes().to_vec();
        if matches!(name, Interface::Named(_)) {
            value.push(0);
        }
        self.compare(if negated { CMP_NEQ } else { CMP_EQ }, &value);
        Ok(())
    }

    fn translate(&mut self, kind: u32, target: &Target) -> Result<(), Error> {
        let (ipv4, port) = match target {
            Target::Address(address, port) => {
                self.need_network(address.is_ipv4());
                self.immediate(REG_1, &octets(*address));
                if let Some(port) = port {
                    self.immediate(REG_2, &port.to_be_bytes());
                }
                (address.is_ipv4(), port.map(|_| REG_2))
            }
            Target::Map { key, map, port } => {
                self.need_network(true);
                self.load_key(key)?;
                self.lookup(map, Some(REG_1), false);
                // The port lies in the register behind the address.
                (true, port.then_some(REG32 + 1))
            }
        };
        let family = if ipv4 { NFPROTO_IPV4 } else { NFPROTO_IPV6 };
        self.push("nat", |data| {
            data.be32(1, kind).be32(2, u32::from(family)).be32(3, REG_1);
            if let Some(register) = port {
                data.be32(5, register);
            }
        });
        Ok(())
    }

    fn reject(&mut self, refusal: Refusal) {
        if refusal == Refusal::Reset {
            self.need_transport(Protocol::Tcp);
        }
        self.push("reject", |data| match refusal {
            Refusal::Reset => {
                data.be32(1, REJECT_RESET);
            }
            Refusal::PortUnreachable => {
                data.be32(1, REJECT_ICMPX).bytes(2, &[ICMPX_PORT_UNREACHABLE]);
            }
        });
    }

    fn clamp(&mut self) {
        self.need_transport(Protocol::Tcp);
        // Byte 13 of the TCP header holds the flags, 2 is SYN.
        self.payload(TRANSPORT_HEADER, 13, 1, REG_1);
        self.mask(&[2]);
        self.compare(CMP_NEQ, &[0]);
        self.push("rt", |data| {
            data.be32(1, REG_1).be32(2, 3);
        });
        self.push("byteorder", |data| {
            data.be32(1, REG_1).be32(2, REG_1).be32(3, 1).be32(4, 2).be32(5, 2);
        });
        // TCP option 2, the segment size, two bytes at its byte 2.
        self.push("exthdr", |data| {
            data.bytes(2, &[2]).be32(3, 2).be32(4, 2).be32(6, 1).be32(7, REG_1);
        });
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
