//! Published ports: as clients write them, `[public:]private[/protocol]`, and as they are stored with their instance.

use super::validation::{Invalid, InvalidCode};
use super::{Resource, instance};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::fmt;

/// The field of an instance in which its ports are stored.
pub const PUBLISHED: &str = "publishedPorts";
/// That the ports of its image are among them.
pub const EXPOSED: &str = "exposedPorts";
/// What clients give.
pub const PORTS: &str = "ports";
pub const PUBLIC_PORT: &str = "publicPort";
/// Most ports of one instance.
pub const MOST: usize = 128;
/// Bits of a port's number that tell it from the others of its instance: more than there ever are of one.
const NUMBER_BITS: u32 = 12;

/// Public ports that hosts need for themselves, and for what.
const RESERVED: &[(u16, Protocol, &str)] = &[
    (22, Protocol::Tcp, "SSH to the host"),
    (2379, Protocol::Tcp, "etcd"),
    (2380, Protocol::Tcp, "etcd"),
    (4500, Protocol::Udp, "encryption between the hosts"),
    (9080, Protocol::Tcp, "the API"),
    (14789, Protocol::Udp, "the private network between the hosts"),
];

/// What a port is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A public port as it is promised: `80/tcp`.
pub fn key(public: u16, protocol: Protocol) -> String {
    format!("{public}/{protocol}")
}

/// One of an instance's ports, as a client asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// On the host; chosen by the cluster where absent.
    pub public: Option<u16>,
    pub private: u16,
    pub protocol: Protocol,
}

impl Port {
    /// Reads `80`, `8080:80`, `53:53/udp`.
    ///
    /// # Errors
    /// Says which part is wrong, with the contract's code.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let shown: String = text.chars().take(60).collect();
        let invalid = |code, what: &str| {
            let form = "write [public:]private[/tcp or /udp], like 8080:80";
            Invalid::new(code, PORTS, format!("{shown:?}: {what}; {form}"))
        };
        let (numbers, protocol) = text.trim().split_once('/').unwrap_or((text.trim(), "tcp"));
        let (public, private) = match numbers.split_once(':') {
            Some((public, private)) => (Some(public), private),
            None => (None, numbers),
        };
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(private) || public.is_some_and(|public| !digits(public)) {
            return Err(invalid(InvalidCode::PortWrongFormat, "that is not how a port is written"));
        }
        let number = |part: &str| part.parse::<u16>().ok().filter(|&port| port != 0);
        let protocol = match protocol {
            protocol if protocol.eq_ignore_ascii_case("tcp") => Protocol::Tcp,
            protocol if protocol.eq_ignore_ascii_case("udp") => Protocol::Udp,
            _ => return Err(invalid(InvalidCode::PortInvalidProtocol, "the protocol is tcp or udp")),
        };
        let private = number(private)
            .ok_or_else(|| invalid(InvalidCode::PortInvalidPrivatePort, "the private port is 1 to 65535"))?;
        let public = match public {
            None => None,
            Some(public) => Some(
                number(public)
                    .ok_or_else(|| invalid(InvalidCode::PortInvalidPublicPort, "the public port is 1 to 65535"))?,
            ),
        };
        Ok(Self { public, private, protocol })
    }
}

/// That a host can give this port away.
///
/// # Errors
/// What it needs it for.
pub fn check_public(public: u16, protocol: Protocol, field: &str) -> Result<(), Invalid> {
    match RESERVED.iter().find(|(port, of, _)| (*port, *of) == (public, protocol)) {
        None => Ok(()),
        Some((.., what)) => {
            let port = key(public, protocol);
            let message = format!("{port} is what hosts need for {what}; choose another public port");
            Err(Invalid::new(InvalidCode::PortInvalidPublicPort, field, message))
        }
    }
}

/// The ports that a client asks for, as it gave them; fine where there are none.
///
/// # Errors
/// For the first that is none, is asked for twice, or is not to be had.
pub fn asked(input: &Map<String, Value>) -> Result<Vec<Port>, Invalid> {
    let given = input.get(PORTS).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    let ports = given.map(Port::parse).collect::<Result<Vec<_>, _>>()?;
    if ports.len() > MOST {
        let message = format!("{} ports; an instance has {MOST} at most", ports.len());
        return Err(Invalid::new(InvalidCode::MaxLimitExceeded, PORTS, message));
    }
    let (mut public, mut unnamed) = (BTreeSet::new(), BTreeSet::new());
    for port in &ports {
        let (new, shown) = match port.public {
            Some(number) => {
                check_public(number, port.protocol, PORTS)?;
                (public.insert((number, port.protocol)), number)
            }
            None => (unnamed.insert((port.private, port.protocol)), port.private),
        };
        if !new {
            let message = format!("{} is asked for twice; leave one of them out", key(shown, port.protocol));
            return Err(Invalid::new(InvalidCode::NotUnique, PORTS, message));
        }
    }
    Ok(ports)
}

/// One of an instance's ports, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// Its place among its instance's ports, which it keeps.
    pub number: u16,
    /// On its host; none where none has been chosen yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub public: Option<u16>,
    pub private: u16,
    pub protocol: Protocol,
    /// Whether it was asked for, or chosen by the cluster: then another host chooses anew.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub chosen: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub data: Map<String, Value>,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Published {
    pub fn new(number: u16, port: Port) -> Self {
        Self {
            number,
            public: port.public,
            private: port.private,
            protocol: port.protocol,
            chosen: port.public.is_none(),
            name: None,
            description: None,
            data: Map::new(),
            rest: Map::new(),
        }
    }

    /// As it is promised.
    pub fn key(&self) -> Option<String> {
        self.public.map(|public| key(public, self.protocol))
    }
}

/// The number of a port among all.
pub fn id(instance: u64, number: u16) -> u64 {
    (instance << NUMBER_BITS) | u64::from(number)
}

/// Whose it is, and its place there.
pub fn parse_id(id: u64) -> (u64, u16) {
    let number = u16::try_from(id & ((1 << NUMBER_BITS) - 1)).unwrap_or(u16::MAX);
    (id >> NUMBER_BITS, number)
}

/// The ports of an instance; what cannot be read was written by something newer, and is passed over.
pub fn of(instance: &Resource) -> Vec<Published> {
    let list = instance.fields.get(PUBLISHED).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|one| Published::deserialize(one).ok()).collect()
}

pub fn set(instance: &mut Resource, ports: &[Published]) {
    let value = if ports.is_empty() { Value::Null } else { json!(ports) };
    instance.set(PUBLISHED, value);
}

/// Those of its public ports that are known, as they are promised.
pub fn promised(instance: &Resource) -> BTreeSet<String> {
    of(instance).iter().filter_map(Published::key).collect()
}

/// Those for which a public port is yet to be chosen, in order.
pub fn to_choose(instance: &Resource) -> Vec<Protocol> {
    of(instance).iter().filter(|port| port.public.is_none()).map(|port| port.protocol).collect()
}

/// The ports that were [`to_choose`], as they were chosen.
pub fn choose(instance: &mut Resource, chosen: &[u16]) {
    let (mut ports, mut chosen) = (of(instance), chosen.iter());
    for port in ports.iter_mut().filter(|port| port.public.is_none()) {
        port.public = chosen.next().copied();
    }
    if !ports.is_empty() {
        set(instance, &ports);
    }
}

/// On another host, others are chosen.
pub fn forget_chosen(instance: &mut Resource) {
    let mut ports = of(instance);
    if ports.iter().any(|port| port.chosen) {
        ports.iter_mut().filter(|port| port.chosen).for_each(|port| port.public = None);
        set(instance, &ports);
    }
}

/// Whether the ports of its image are to be published too, and are not known yet.
pub fn wants_exposed(instance: &Resource) -> bool {
    instance.get(instance::PUBLISH_ALL).unwrap_or(false) && !instance.get(EXPOSED).unwrap_or(false)
}

/// Adds those that the image exposes and nobody asked for, as far as there may be more; their public ports are to be chosen.
pub fn expose(instance: &mut Resource, exposed: &BTreeSet<(u16, Protocol)>) {
    let mut ports = of(instance);
    let mut number = ports.iter().map(|port| port.number + 1).max().unwrap_or(0);
    for (private, protocol) in exposed {
        let there = ports.iter().any(|port| (port.private, port.protocol) == (*private, *protocol));
        if !there && ports.len() < MOST {
            ports.push(Published::new(number, Port { public: None, private: *private, protocol: *protocol }));
            number += 1;
        }
    }
    set(instance, &ports);
    instance.set(EXPOSED, true);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn port(public: Option<u16>, private: u16, protocol: Protocol) -> Port {
        Port { public, private, protocol }
    }

    fn code(ports: Value) -> Option<InvalidCode> {
        asked(json!({ "ports": ports }).as_object().unwrap()).err().map(|invalid| invalid.code)
    }

    fn instance() -> Resource {
        let row = json!({"id": 7, "kind": "container", "uuid": "u", "created": 1, "state": "creating"});
        serde_json::from_value(row).unwrap()
    }

    #[test]
    fn written_in_all_ways() {
        assert_eq!(Port::parse("80").unwrap(), port(None, 80, Protocol::Tcp));
        assert_eq!(Port::parse("8080:80").unwrap(), port(Some(8080), 80, Protocol::Tcp));
        assert_eq!(Port::parse("53:53/UDP").unwrap(), port(Some(53), 53, Protocol::Udp));
        for (text, code) in [
            ("", InvalidCode::PortWrongFormat),
            ("a:80", InvalidCode::PortWrongFormat),
            ("1:2:3", InvalidCode::PortWrongFormat),
            ("-80", InvalidCode::PortWrongFormat),
            ("80/sctp", InvalidCode::PortInvalidProtocol),
            ("0", InvalidCode::PortInvalidPrivatePort),
            ("0:80", InvalidCode::PortInvalidPublicPort),
            ("80:65536", InvalidCode::PortInvalidPrivatePort),
            ("70000:80", InvalidCode::PortInvalidPublicPort),
        ] {
            assert_eq!(Port::parse(text).unwrap_err().code, code, "{text}");
        }
    }

    #[test]
    fn what_hosts_need_and_what_is_asked_for_twice_is_refused() {
        assert_eq!(code(json!(["80:80", "80:80/udp", "81:80", "80", "81"])), None);
        assert_eq!(code(json!(["80:80", "80:81"])), Some(InvalidCode::NotUnique));
        assert_eq!(code(json!(["80", "80/tcp"])), Some(InvalidCode::NotUnique));
        for (public, protocol, _) in RESERVED {
            let other = if *protocol == Protocol::Tcp { Protocol::Udp } else { Protocol::Tcp };
            assert_eq!(code(json!([format!("{public}:80/{protocol}")])), Some(InvalidCode::PortInvalidPublicPort));
            assert_eq!(code(json!([format!("{public}:80/{other}"), public.to_string()])), None);
        }
        let many: Vec<String> = (1..=129).map(|port| port.to_string()).collect();
        assert_eq!(code(json!(many)), Some(InvalidCode::MaxLimitExceeded));
    }

    #[test]
    fn what_the_cluster_chose_it_chooses_anew_elsewhere() {
        let mut row = instance();
        set(&mut row, &[Published::new(0, Port::parse("8080:80").unwrap())]);
        expose(&mut row, &BTreeSet::from([(80, Protocol::Tcp), (53, Protocol::Udp)]));
        assert_eq!(to_choose(&row), [Protocol::Udp]);
        choose(&mut row, &[61_000]);
        assert_eq!(promised(&row), BTreeSet::from(["61000/udp".to_owned(), "8080/tcp".to_owned()]));
        forget_chosen(&mut row);
        assert_eq!(promised(&row), BTreeSet::from(["8080/tcp".to_owned()]));
        assert_eq!(of(&row).iter().map(|port| port.number).collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn what_a_newer_version_wrote_stays() {
        let mut row = instance();
        row.set(PUBLISHED, json!([{"number": 0, "private": 80, "protocol": "tcp", "later": 1}]));
        choose(&mut row, &[61_000]);
        assert_eq!(of(&row)[0].rest["later"], 1);
    }

    proptest! {
        #[test]
        fn written_and_read_it_is_the_same(public in prop::option::of(1..=u16::MAX), private in 1..=u16::MAX, udp: bool) {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            let prefix = public.map(|public| format!("{public}:")).unwrap_or_default();
            let read = Port::parse(&format!("{prefix}{private}/{protocol}"));
            prop_assert_eq!(read.unwrap(), port(public, private, protocol));
        }

        #[test]
        fn nothing_breaks_it(text in "[0-9a-z:/ .-]{0,20}|\\PC{0,20}") {
            if let Ok(port) = Port::parse(&text) {
                prop_assert!(port.private != 0 && port.public != Some(0));
            }
        }

        #[test]
        fn a_number_tells_whose_it_is(instance in 0..1_u64 << 40, number in 0..4096_u16) {
            prop_assert_eq!(parse_id(id(instance, number)), (instance, number));
        }
    }
}
