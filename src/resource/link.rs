//! Links: under which name an instance reaches another, at which ports of its own, and what it is told of that.
//!
//! Each port of the target gets a port of the source's own (20000 to 39999) at the stable address that the source has for all its
//! links. It never changes from then on, wherever the link leads.

use super::port::{self, Protocol};
use super::validation::{Invalid, InvalidCode};
use super::{Resource, instance};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

/// The base type under which they are shown.
pub const BASE: &str = "instanceLink";
/// What clients give: the name of each link, and whom it leads to.
pub const INSTANCE_LINKS: &str = "instanceLinks";
pub const TARGET: &str = "targetInstanceId";
/// The field of an instance in which its links are stored.
pub const LINKS: &str = "links";
/// The address at which the instance finds all of them.
const ADDRESS: &str = "linkAddress";
/// Most links of one instance.
pub const MOST: usize = 64;
/// The ports of links, at their address.
const RANGE: RangeInclusive<u16> = 20_000..=39_999;
/// The longest name, as long as a label of a host's name may be.
const LONGEST_NAME: usize = 63;

/// A port of a target, and where the source finds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkPort {
    /// At the links' address; no other port of the same instance's links has it.
    pub public: u16,
    pub private: u16,
    pub protocol: Protocol,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One of an instance's links, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// Its place among its instance's links, which it keeps.
    pub number: u16,
    pub link_name: String,
    /// Number of the instance that it leads to; none where that is yet to come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<LinkPort>,
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

impl Link {
    fn new(number: u16, link_name: String, target: Option<u64>) -> Self {
        Self {
            number,
            link_name,
            target,
            ports: Vec::new(),
            name: None,
            description: None,
            data: Map::new(),
            rest: Map::new(),
        }
    }

    /// Whether a port of its target has its place here.
    pub fn has(&self, private: u16, protocol: Protocol) -> bool {
        self.ports.iter().any(|port| (port.private, port.protocol) == (private, protocol))
    }
}

/// The number of a link among all, as a port has one.
pub fn id(instance: u64, number: u16) -> u64 {
    port::id(instance, number)
}

/// Whose it is, and its place there.
pub fn parse_id(id: u64) -> (u64, u16) {
    port::parse_id(id)
}

/// The links of an instance; what cannot be read was written by something newer, and is passed over.
pub fn of(instance: &Resource) -> Vec<Link> {
    let list = instance.fields.get(LINKS).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|one| Link::deserialize(one).ok()).collect()
}

pub fn set(instance: &mut Resource, links: &[Link]) {
    let value = if links.is_empty() { Value::Null } else { json!(links) };
    instance.set(LINKS, value);
}

/// Where the instance finds its links; `None` before it has a host.
pub fn address(instance: &Resource) -> Option<Ipv4Addr> {
    instance.get(ADDRESS)
}

/// It has its place on the managed network: from now on its links are found at `address`.
pub fn found_at(instance: &mut Resource, address: Ipv4Addr) {
    if instance.fields.contains_key(LINKS) {
        instance.set(ADDRESS, address.to_string());
    }
}

/// In a variable's name: capitals and digits, the rest is `_`.
fn variable(link_name: &str) -> String {
    let letter = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' };
    link_name.chars().map(letter).collect()
}

fn check_name(name: &str) -> Result<(), Invalid> {
    let shown: String = name.chars().take(LONGEST_NAME).collect();
    let refused = |code, what: &str| {
        let message = format!("{shown:?}: a link's name {what}, for the instance's variables are named by it");
        Err(Invalid::new(code, INSTANCE_LINKS, message))
    };
    if name.len() > LONGEST_NAME {
        return refused(InvalidCode::MaxLengthExceeded, "has 63 characters at most");
    }
    let begins = name.starts_with(|first: char| first.is_ascii_alphanumeric());
    if !begins || !name.chars().all(|letter| letter.is_ascii_alphanumeric() || "_.-".contains(letter)) {
        return refused(
            InvalidCode::InvalidCharacters,
            "begins with a letter or digit and has only letters, digits, '_', '.' and '-'",
        );
    }
    Ok(())
}

/// The links that a client asks for, as it gave them; fine where there are none.
///
/// # Errors
/// For the first name that is none, or that another's variables have.
pub fn asked(input: &Map<String, Value>) -> Result<Vec<Link>, Invalid> {
    let Some(given) = input.get(INSTANCE_LINKS).and_then(Value::as_object) else { return Ok(Vec::new()) };
    if given.len() > MOST {
        let message = format!("{} links; an instance has {MOST} at most", given.len());
        return Err(Invalid::new(InvalidCode::MaxLimitExceeded, INSTANCE_LINKS, message));
    }
    let mut variables: BTreeMap<String, &str> = BTreeMap::new();
    for name in given.keys() {
        check_name(name)?;
        if let Some(other) = variables.insert(variable(name), name) {
            let message = format!("{other} and {name} would have the same variables; call one of them otherwise");
            return Err(Invalid::new(InvalidCode::NotUnique, INSTANCE_LINKS, message));
        }
    }
    Ok((0..).zip(given).map(|(number, (name, target))| Link::new(number, name.clone(), target.as_u64())).collect())
}

/// Ports of a target, each by its private port.
pub type Ports = BTreeSet<(u16, Protocol)>;

/// The ports of an image as its host found them, in the instance that runs it.
const IMAGE_PORTS: &str = "imagePorts";

/// Whether it is known what the instance's image exposes: it has run.
pub fn knows_image_ports(instance: &Resource) -> bool {
    instance.fields.contains_key(IMAGE_PORTS)
}

pub fn set_image_ports(instance: &mut Resource, exposed: &Ports) {
    let texts = exposed.iter().map(|(private, protocol)| port::key(*private, *protocol));
    instance.set(IMAGE_PORTS, Value::from_iter(texts));
}

/// At which ports a target is reached, as far as is known: those that it publishes, and those that its image exposes.
pub fn ports_of(target: &Resource) -> Ports {
    let image = target.get::<Vec<String>>(IMAGE_PORTS).unwrap_or_default();
    let image = image.iter().filter_map(|text| port::Port::parse(text).ok());
    let published = port::of(target).into_iter().map(|port| (port.private, port.protocol));
    published.chain(image.map(|port| (port.private, port.protocol))).collect()
}

/// Gives each of the target's ports that the link `number` does not have yet a place of its own; whether there was any.
pub fn learn(links: &mut [Link], number: u16, ports: &Ports) -> bool {
    let mut taken: BTreeSet<u16> = links.iter().flat_map(|link| &link.ports).map(|port| port.public).collect();
    let Some(link) = links.iter_mut().find(|link| link.number == number) else { return false };
    let before = link.ports.len();
    for (private, protocol) in ports {
        if link.has(*private, *protocol) || link.ports.len() >= port::MOST {
            continue;
        }
        let Some(public) = free(&link.link_name, *private, *protocol, &taken) else { break };
        taken.insert(public);
        link.ports.push(LinkPort { public, private: *private, protocol: *protocol, rest: Map::new() });
    }
    link.ports.len() > before
}

/// A free port, the same each time where nothing else is taken: an instance that is made anew finds its links where it did.
fn free(link_name: &str, private: u16, protocol: Protocol, taken: &BTreeSet<u16>) -> Option<u16> {
    let bytes = link_name.bytes().chain(private.to_be_bytes()).chain([protocol as u8]);
    let hash = bytes.fold(0x811c_9dc5_u32, |sum, byte| (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let step = u16::try_from(usize::try_from(hash).unwrap_or(0) % RANGE.len()).unwrap_or(0);
    let start = RANGE.start() + step;
    (start..=*RANGE.end()).chain(*RANGE.start()..start).find(|public| !taken.contains(public))
}

/// What a container is told of one link, by the names of its variables: a contract.
pub fn environment(
    link_name: &str,
    address: Ipv4Addr,
    ports: impl Iterator<Item = (Protocol, u16, u16)>,
) -> BTreeMap<String, String> {
    let link = variable(link_name);
    let mut variables = BTreeMap::from([(format!("{link}_NAME"), format!("/cattle/{link_name}"))]);
    let mut ports: Vec<_> = ports.map(|(protocol, public, private)| (private, protocol, public)).collect();
    ports.sort_unstable();
    if let Some((_, protocol, public)) = ports.first() {
        variables.insert(format!("{link}_PORT"), format!("{protocol}://{address}:{public}"));
    }
    for (private, protocol, public) in ports {
        let port = format!("{link}_PORT_{private}_{}", protocol.to_string().to_ascii_uppercase());
        variables.insert(format!("{port}_ADDR"), address.to_string());
        variables.insert(format!("{port}_PORT"), public.to_string());
        variables.insert(format!("{port}_PROTO"), protocol.to_string());
        variables.insert(port, format!("{protocol}://{address}:{public}"));
    }
    variables
}

/// `endpoint/<instance>/`: where an instance is reached while it runs. Without one it is reached nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    pub address: Ipv4Addr,
    /// The name of its host.
    pub host: String,
    /// Its ports, for links that do not have them yet: `80/tcp`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Endpoint {
    /// `None` for what does not run, or is on no managed network. What is stopping runs yet.
    pub fn of(instance: &Resource) -> Option<Self> {
        use super::State::{Migrating, Running, Stopping, UpdatingRunning};
        let up = matches!(instance.state, Running | Stopping | Migrating | UpdatingRunning);
        let started = instance.fields.contains_key(instance::EXTERNAL_ID);
        let address = instance.get(instance::ADDRESS).filter(|_| up && started)?;
        let ports = ports_of(instance).into_iter().map(|(private, protocol)| port::key(private, protocol));
        let host = instance.get(instance::HOST_NAME)?;
        Some(Self { address, host, ports: ports.collect(), rest: Map::new() })
    }

    pub fn ports(&self) -> impl Iterator<Item = (u16, Protocol)> {
        self.ports.iter().filter_map(|text| port::Port::parse(text).ok()).map(|port| (port.private, port.protocol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn instance(fields: Value) -> Resource {
        let mut row = json!({"id": 7, "kind": "container", "uuid": "u", "created": 1, "state": "running"});
        row.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(row).unwrap()
    }

    fn code(links: Value) -> Option<InvalidCode> {
        asked(json!({ "instanceLinks": links }).as_object().unwrap()).err().map(|invalid| invalid.code)
    }

    #[test]
    fn names_are_such_that_variables_can_be_named_by_them() {
        assert_eq!(code(json!({"web": 5, "my-db": null, "1.x": null})), None);
        for name in ["", "-web", ".web", "a b", "a/b", "ü", "a=b", "a\n"] {
            assert_eq!(code(json!({ name: null })), Some(InvalidCode::InvalidCharacters), "{name:?}");
        }
        assert_eq!(code(json!({ "x".repeat(63): null })), None);
        assert_eq!(code(json!({ "x".repeat(64): null })), Some(InvalidCode::MaxLengthExceeded));
        assert_eq!(code(json!({"a-b": null, "A_b": null})), Some(InvalidCode::NotUnique));
        let many: Map<String, Value> = (0..65).map(|number| (format!("l{number}"), Value::Null)).collect();
        assert_eq!(code(json!(many)), Some(InvalidCode::MaxLimitExceeded));
    }

    #[test]
    fn variables_are_as_the_contract_has_them() {
        let ports = [(Protocol::Udp, 20_053, 53), (Protocol::Tcp, 20_080, 80)];
        let variables = environment("my-db.1", Ipv4Addr::new(10, 42, 0, 1), ports.into_iter());
        let expected = [
            ("MY_DB_1_NAME", "/cattle/my-db.1"),
            ("MY_DB_1_PORT", "udp://10.42.0.1:20053"),
            ("MY_DB_1_PORT_53_UDP", "udp://10.42.0.1:20053"),
            ("MY_DB_1_PORT_53_UDP_ADDR", "10.42.0.1"),
            ("MY_DB_1_PORT_53_UDP_PORT", "20053"),
            ("MY_DB_1_PORT_53_UDP_PROTO", "udp"),
            ("MY_DB_1_PORT_80_TCP", "tcp://10.42.0.1:20080"),
            ("MY_DB_1_PORT_80_TCP_ADDR", "10.42.0.1"),
            ("MY_DB_1_PORT_80_TCP_PORT", "20080"),
            ("MY_DB_1_PORT_80_TCP_PROTO", "tcp"),
        ];
        assert_eq!(variables, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        let alone = environment("web", Ipv4Addr::LOCALHOST, std::iter::empty());
        assert_eq!(alone, BTreeMap::from([("WEB_NAME".to_owned(), "/cattle/web".to_owned())]));
    }

    #[test]
    fn the_ports_of_a_target_are_what_it_publishes_and_what_its_image_exposes() {
        let mut target = instance(json!({"publishedPorts": [
            {"number": 0, "private": 80, "protocol": "tcp"}, {"number": 1, "private": 53, "protocol": "udp"}]}));
        assert!(!knows_image_ports(&target));
        set_image_ports(&mut target, &BTreeSet::new());
        assert!(knows_image_ports(&target), "that there are none is known too");
        set_image_ports(&mut target, &BTreeSet::from([(80, Protocol::Tcp), (443, Protocol::Tcp)]));
        let ports = BTreeSet::from([(53, Protocol::Udp), (80, Protocol::Tcp), (443, Protocol::Tcp)]);
        assert_eq!(ports_of(&target), ports);
    }

    #[test]
    fn what_a_newer_version_wrote_stays() {
        let mut row = instance(json!({"links": [{"number": 0, "linkName": "web", "later": 1,
            "ports": [{"public": 20000, "private": 80, "protocol": "tcp", "later": 2}]}]}));
        let mut links = of(&row);
        assert!(learn(&mut links, 0, &BTreeSet::from([(80, Protocol::Tcp), (81, Protocol::Tcp)])));
        set(&mut row, &links);
        let stored = row.fields["links"][0].clone();
        assert_eq!((&stored["later"], &stored["ports"][0]["later"]), (&json!(1), &json!(2)));
        assert_eq!(of(&instance(json!({}))), [], "an older one has none");
    }

    #[test]
    fn only_what_runs_is_reached() {
        let fields =
            json!({"primaryIpAddress": "10.42.3.4", "hostName": "h2", "externalId": "c", "imagePorts": ["80/tcp"]});
        let mut row = instance(fields);
        let there = Endpoint::of(&row).unwrap();
        let expected = json!({"address": "10.42.3.4", "host": "h2", "ports": ["80/tcp"]});
        assert_eq!(serde_json::to_value(&there).unwrap(), expected);
        assert_eq!(there.ports().collect::<Vec<_>>(), [(80, Protocol::Tcp)]);
        row.state = super::super::State::Stopping;
        assert!(Endpoint::of(&row).is_some(), "it runs yet");
        for state in ["creating", "starting", "stopped", "restarting", "removed", "purged"] {
            row.state = serde_json::from_value(json!(state)).unwrap();
            assert_eq!(Endpoint::of(&row), None, "{state}");
        }
        assert_eq!(Endpoint::of(&instance(json!({"hostName": "h2", "externalId": "c"}))), None, "Docker's own network");
    }

    proptest! {
        #[test]
        fn each_port_has_one_place_and_keeps_it(
            wishes in prop::collection::vec((0..4_u16, prop::collection::btree_set((1..200_u16, any::<bool>()), 0..20)), 0..12),
        ) {
            let mut links: Vec<Link> = (0..4).map(|number| Link::new(number, format!("l{number}"), None)).collect();
            for (number, ports) in wishes {
                let protocol = |udp| if udp { Protocol::Udp } else { Protocol::Tcp };
                let ports: Ports = ports.into_iter().map(|(private, udp)| (private, protocol(udp))).collect();
                let before = links.clone();
                let learnt = learn(&mut links, number, &ports);
                prop_assert_eq!(learnt, links != before);
                for (link, before) in links.iter().zip(&before) {
                    prop_assert!(link.ports.starts_with(&before.ports));
                    prop_assert!(link.ports.len() <= port::MOST);
                }
                let link = &links[usize::from(number)];
                prop_assert!(link.ports.len() == port::MOST || ports.iter().all(|(private, protocol)| link.has(*private, *protocol)));
                prop_assert!(!learn(&mut links, number, &ports) , "the same again is no news");
            }
            let public: Vec<u16> = links.iter().flat_map(|link| &link.ports).map(|port| port.public).collect();
            prop_assert_eq!(public.iter().collect::<BTreeSet<_>>().len(), public.len());
            prop_assert!(public.iter().all(|public| RANGE.contains(public)));
        }

        #[test]
        fn nothing_breaks_it(name in "\\PC{0,80}") {
            if code(json!({ &name: null })).is_none() {
                prop_assert!(variable(&name).chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_'));
            }
        }
    }
}
