//! What is answered to a packet: a pure function of the packet and of who has its hardware address (RFC 2131).
//!
//! ```text
//!  DISCOVER ──► OFFER
//!  REQUEST  ──► ACK: its own address, whether it was offered (selecting), is remembered (init-reboot) or had (renewing, rebinding)
//!           └─► NAK: another address    └─► nothing: another server was chosen
//!  INFORM   ──► ACK without an address
//!  DECLINE, RELEASE ──► nothing: the address is its own as long as it is there
//! ```
//! There is nothing to remember: an instance's address is decided where it is placed. Who is no instance of this host is not answered.

use super::wire::{Answer, Asking, Kind, option};
use stampede_netlink::Mac;
use std::net::{Ipv4Addr, SocketAddrV4};

/// Where clients ask, and where they listen.
pub const SERVER_PORT: u16 = 67;
const CLIENT_PORT: u16 = 68;
/// How long an address is given for, seconds; it is asked for again at half of that, and of anybody at seven eighths.
const LEASE: u32 = 24 * 3600;
/// The longest that are told or repeated: clients need not take more than 576 bytes in all.
const LONGEST: usize = 128;

/// What an instance is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// `1i54`.
    pub id: String,
    pub address: Ipv4Addr,
    pub hostname: String,
    /// Bytes.
    pub mtu: u32,
}

/// What all are given.
#[derive(Clone, Debug)]
pub struct Offer {
    pub gateway: Ipv4Addr,
    pub mask: Ipv4Addr,
    pub domain: &'static str,
    /// What is reached through the gateway though it seems to be on the link.
    pub through: Ipv4Addr,
}

/// What came of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answer {
        packet: Vec<u8>,
        to: SocketAddrV4,
    },
    /// Somebody else has its address, says this instance.
    Declined(String),
    Nothing,
}

/// The answer to a packet.
pub fn answer(packet: &[u8], offer: &Offer, who: impl FnOnce(Mac) -> Option<Guest>) -> Outcome {
    // What a relay passes on came by another network.
    let Some(asking) = Asking::read(packet).filter(|asking| asking.relay.is_unspecified()) else {
        return Outcome::Nothing;
    };
    let Some(guest) = who(asking.mac) else { return Outcome::Nothing };
    let has = Some(asking.has).filter(|address| !address.is_unspecified());
    match asking.kind {
        Kind::Discover => said(&asking, offer, &guest, Kind::Offer),
        Kind::Request if asking.server.is_some_and(|chosen| chosen != offer.gateway) => Outcome::Nothing,
        Kind::Request if asking.requested.or(has) == Some(guest.address) => said(&asking, offer, &guest, Kind::Ack),
        Kind::Request => refused(&asking, offer),
        Kind::Inform if has.is_some() => said(&asking, offer, &guest, Kind::Ack),
        Kind::Decline if asking.server == Some(offer.gateway) => Outcome::Declined(guest.id),
        _ => Outcome::Nothing,
    }
}

/// What all answers have.
fn reply(asking: &Asking, kind: Kind, yours: Ipv4Addr, offer: &Offer) -> Answer {
    let reply = Answer::to(asking, kind, yours).with(option::SERVER, &offer.gateway.octets());
    // A client may want its own back (RFC 6842).
    match &asking.client {
        Some(client) if client.len() <= LONGEST => reply.with(option::CLIENT, client),
        _ => reply,
    }
}

fn said(asking: &Asking, offer: &Offer, guest: &Guest, kind: Kind) -> Outcome {
    let gateway = offer.gateway.octets();
    let informs = asking.kind == Kind::Inform;
    let mut answer = if informs {
        reply(asking, kind, Ipv4Addr::UNSPECIFIED, offer)
    } else {
        reply(asking, kind, guest.address, offer)
            .with(option::LEASE, &LEASE.to_be_bytes())
            .with(option::RENEW, &(LEASE / 2).to_be_bytes())
            .with(option::REBIND, &(LEASE / 8 * 7).to_be_bytes())
    };
    answer = answer
        .with(option::MASK, &offer.mask.octets())
        .with(option::ROUTER, &gateway)
        .with(option::NAME_SERVER, &gateway)
        .with(option::DOMAIN, offer.domain.as_bytes())
        .with(option::ROUTES, &routes(offer));
    if guest.hostname.len() <= LONGEST {
        answer = answer.with(option::HOSTNAME, guest.hostname.as_bytes());
    }
    if let Ok(mtu) = u16::try_from(guest.mtu) {
        answer = answer.with(option::MTU, &mtu.to_be_bytes());
    }
    // Who has none yet hears what is sent to it by its hardware address, unless it says that it does not.
    let aloud = asking.has.is_unspecified() && asking.aloud;
    sent(answer, if aloud { Ipv4Addr::BROADCAST } else { guest.address })
}

/// Not that address. It goes to all, for who had another one does not hear otherwise.
fn refused(asking: &Asking, offer: &Offer) -> Outcome {
    let answer = reply(asking, Kind::Nak, Ipv4Addr::UNSPECIFIED, offer).aloud();
    sent(answer.with(option::MESSAGE, b"that address is not yours"), Ipv4Addr::BROADCAST)
}

/// Routes as they are written (RFC 3442): the length of a prefix, as much of it as that takes, the router. Who reads them does not
/// read the router beside them, so the way to everything is among them.
fn routes(offer: &Offer) -> Vec<u8> {
    let to = |prefix: &[u8]| [prefix, offer.gateway.octets().as_slice()].concat();
    let through = [[32].as_slice(), offer.through.octets().as_slice()].concat();
    [to(&through), to(&[0])].concat()
}

fn sent(answer: Answer, to: Ipv4Addr) -> Outcome {
    Outcome::Answer { packet: answer.bytes(), to: SocketAddrV4::new(to, CLIENT_PORT) }
}

#[cfg(test)]
mod tests {
    //! Questions are written and answers read by somebody else's code.

    use super::*;
    use dhcproto::v4::{DhcpOption, Flags, Message, MessageType, Opcode, OptionCode};
    use dhcproto::{Decodable, Decoder, Encodable};
    use proptest::prelude::*;

    const MAC: Mac = Mac([2, 0, 1, 0, 7, 9]);
    const OWN: Ipv4Addr = Ipv4Addr::new(10, 42, 7, 9);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 42, 7, 10);
    const NOBODY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

    fn offer() -> Offer {
        Offer {
            gateway: Ipv4Addr::new(10, 42, 0, 1),
            mask: Ipv4Addr::new(255, 255, 0, 0),
            domain: "stampede.internal",
            through: Ipv4Addr::new(169, 254, 169, 254),
        }
    }

    fn who(mac: Mac) -> Option<Guest> {
        let guest = Guest { id: "1i1".into(), address: OWN, hostname: "web".into(), mtu: 1380 };
        (mac == MAC).then_some(guest)
    }

    fn ask(kind: MessageType, has: Ipv4Addr, options: &[DhcpOption], change: impl FnOnce(&mut Message)) -> Outcome {
        let mut message = Message::new_with_id(7, has, NOBODY, NOBODY, NOBODY, &MAC.0);
        message.opts_mut().insert(DhcpOption::MessageType(kind));
        for option in options {
            message.opts_mut().insert(option.clone());
        }
        change(&mut message);
        answer(&message.to_vec().unwrap(), &offer(), who)
    }

    fn heard(outcome: &Outcome) -> Option<(Message, Ipv4Addr)> {
        let Outcome::Answer { packet, to } = outcome else { return None };
        assert!(packet.len() >= 300);
        assert_eq!(to.port(), 68);
        Some((Message::decode(&mut Decoder::new(packet)).unwrap(), *to.ip()))
    }

    /// Kind of the answer, the address in it, and where it goes.
    fn brief(outcome: &Outcome) -> Option<(MessageType, Ipv4Addr, Ipv4Addr)> {
        let (message, to) = heard(outcome)?;
        assert_eq!((message.xid(), message.chaddr(), message.opcode()), (7, MAC.0.as_slice(), Opcode::BootReply));
        Some((message.opts().msg_type()?, message.yiaddr(), to))
    }

    fn nothing(_: &mut Message) {}

    #[test]
    fn from_nothing_to_an_address_and_on() {
        let requested = |address| DhcpOption::RequestedIpAddress(address);
        let chosen = |server| DhcpOption::ServerIdentifier(server);
        let gateway = offer().gateway;
        use MessageType::{Ack, Discover, Nak, Offer, Request};
        assert_eq!(brief(&ask(Discover, NOBODY, &[], nothing)), Some((Offer, OWN, OWN)));
        assert_eq!(brief(&ask(Discover, NOBODY, &[requested(OTHER)], nothing)), Some((Offer, OWN, OWN)));
        let aloud = |message: &mut Message| {
            message.set_flags(Flags::default().set_broadcast());
        };
        assert_eq!(brief(&ask(Discover, NOBODY, &[], aloud)), Some((Offer, OWN, Ipv4Addr::BROADCAST)));
        // Selecting.
        let selecting = [requested(OWN), chosen(gateway)];
        assert_eq!(brief(&ask(Request, NOBODY, &selecting, nothing)), Some((Ack, OWN, OWN)));
        assert_eq!(brief(&ask(Request, NOBODY, &[requested(OWN), chosen(OTHER)], nothing)), None, "another was chosen");
        // After a boot.
        assert_eq!(brief(&ask(Request, NOBODY, &[requested(OWN)], nothing)), Some((Ack, OWN, OWN)));
        let all = Ipv4Addr::BROADCAST;
        assert_eq!(brief(&ask(Request, NOBODY, &[requested(OTHER)], nothing)), Some((Nak, NOBODY, all)));
        assert_eq!(brief(&ask(Request, NOBODY, &[], nothing)), Some((Nak, NOBODY, all)));
        // Renewing and rebinding.
        assert_eq!(brief(&ask(Request, OWN, &[], nothing)), Some((Ack, OWN, OWN)));
        assert_eq!(brief(&ask(Request, OTHER, &[], nothing)), Some((Nak, NOBODY, all)));
    }

    #[test]
    fn all_that_it_needs_is_in_it() {
        let (message, _) = heard(&ask(MessageType::Discover, NOBODY, &[], nothing)).unwrap();
        let options = message.opts();
        let gateway = offer().gateway;
        for (code, expected) in [
            (OptionCode::SubnetMask, DhcpOption::SubnetMask(offer().mask)),
            (OptionCode::Router, DhcpOption::Router(vec![gateway])),
            (OptionCode::DomainNameServer, DhcpOption::DomainNameServer(vec![gateway])),
            (OptionCode::DomainName, DhcpOption::DomainName("stampede.internal".into())),
            (OptionCode::Hostname, DhcpOption::Hostname("web".into())),
            (OptionCode::InterfaceMtu, DhcpOption::InterfaceMtu(1380)),
            (OptionCode::AddressLeaseTime, DhcpOption::AddressLeaseTime(LEASE)),
            (OptionCode::Renewal, DhcpOption::Renewal(LEASE / 2)),
            (OptionCode::Rebinding, DhcpOption::Rebinding(75_600)),
        ] {
            assert_eq!(options.get(code), Some(&expected));
        }
        let Some(DhcpOption::ClasslessStaticRoute(routes)) = options.get(OptionCode::ClasslessStaticRoute) else {
            panic!("{options:?}");
        };
        let routes: Vec<String> = routes.iter().map(|(to, by)| format!("{to} {by}")).collect();
        assert_eq!(routes, ["169.254.169.254/32 10.42.0.1", "0.0.0.0/0 10.42.0.1"]);
    }

    #[test]
    fn who_informs_keeps_its_address_and_who_declines_is_told_of() {
        let (message, to) = heard(&ask(MessageType::Inform, OWN, &[], nothing)).unwrap();
        assert_eq!((message.yiaddr(), message.ciaddr(), to), (NOBODY, OWN, OWN));
        assert_eq!(message.opts().get(OptionCode::AddressLeaseTime), None);
        assert!(message.opts().get(OptionCode::DomainNameServer).is_some());
        let ours = [DhcpOption::ServerIdentifier(offer().gateway), DhcpOption::RequestedIpAddress(OWN)];
        assert_eq!(ask(MessageType::Decline, NOBODY, &ours, nothing), Outcome::Declined("1i1".into()));
        assert_eq!(ask(MessageType::Release, OWN, &ours, nothing), Outcome::Nothing);
    }

    #[test]
    fn who_is_nobody_and_what_is_no_question_is_not_answered() {
        let changes: [fn(&mut Message) -> &mut Message; 4] = [
            |message| message.set_chaddr(&[2, 0, 1, 0, 7, 10]),
            |message| message.set_chaddr(&[2, 0, 1]),
            |message| message.set_opcode(Opcode::BootReply),
            |message| message.set_giaddr(Ipv4Addr::new(10, 42, 7, 1)),
        ];
        for change in changes {
            let outcome = ask(MessageType::Discover, NOBODY, &[], |message| {
                change(message);
            });
            assert_eq!(outcome, Outcome::Nothing);
        }
        assert_eq!(ask(MessageType::Offer, NOBODY, &[], nothing), Outcome::Nothing);
        assert_eq!(answer(&[], &offer(), who), Outcome::Nothing);
    }

    proptest! {
        #[test]
        fn rubbish_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            answer(&bytes, &offer(), who);
        }

        /// Whatever is in it, an answer gives nobody an address that is not its own.
        #[test]
        fn a_packet_with_some_bytes_changed_or_cut_does_no_harm(
            kind in 1..9_u8,
            changes in prop::collection::vec((0..400_usize, any::<u8>()), 0..6),
            more in prop::collection::vec(any::<u8>(), 0..120),
            cut in 0..420_usize,
        ) {
            let mut message = Message::new_with_id(7, NOBODY, NOBODY, NOBODY, NOBODY, &MAC.0);
            message.opts_mut().insert(DhcpOption::MessageType(kind.into()));
            let mut packet = message.to_vec().unwrap();
            packet.pop();
            packet.extend(more);
            for (at, byte) in changes {
                if let Some(place) = packet.get_mut(at) {
                    *place = byte;
                }
            }
            packet.truncate(cut);
            if let Outcome::Answer { packet, to } = answer(&packet, &offer(), who) {
                let message = Message::decode(&mut Decoder::new(&packet)).unwrap();
                prop_assert!([OWN, NOBODY].contains(&message.yiaddr()));
                prop_assert!([OWN, Ipv4Addr::BROADCAST].contains(to.ip()));
            }
        }
    }
}
