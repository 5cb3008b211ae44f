//! What a host publishes of its keys, in `mesh/<host>`, under a seal that only those who have the cluster's secret can make.

use super::{
    half::PublicHalf,
    secret::{SecretName, Secrets},
};
use crate::network::mesh::{Mesh, Outside};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

const LABEL: &[u8] = b"stampede-mesh-1";
/// Host numbers have the bits that an SPI leaves them.
const NUMBERS: std::ops::Range<u32> = 1..1 << 20;
/// Live halves of one host at most; a record with more is not one of ours.
pub const MOST_HALVES: usize = 4;

/// Why a record is not used. What it says counts for nothing then.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error(
        "the seal is not by a cluster secret that this host has: one of the two has a wrong one, or the record was changed"
    )]
    Seal,
    #[error("a record that is sealed and makes no sense: {0}")]
    Nonsense(&'static str),
}

/// What a host that encrypts adds to its record. The seal is also over the record's number and addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sealed {
    /// The UDP port it takes ESP in, where it asks for ESP in UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    esp_port: Option<u16>,
    /// Its live halves, the newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    halves: Vec<HalfRecord>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    seal: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HalfRecord {
    generation: u32,
    public: String,
    nonce: String,
    secret: String,
    #[serde(flatten)]
    other: serde_json::Map<String, serde_json::Value>,
}

/// What a record says, once its seal was found good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    pub number: u32,
    pub underlay: Vec<IpAddr>,
    pub outside: Outside,
    pub esp_port: Option<u16>,
    /// The newest last; at least one.
    pub halves: Vec<PublicHalf>,
}

impl Opened {
    /// The bytes under the seal: every field behind a length or of one, so that no two records have the same.
    fn bytes(&self, cluster: &str, host: &str) -> Vec<u8> {
        let mut bytes = LABEL.to_vec();
        for text in [cluster, host] {
            bytes.extend((text.len() as u64).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes.extend(self.number.to_be_bytes());
        bytes.extend((self.underlay.len() as u64).to_be_bytes());
        self.underlay.iter().for_each(|address| put(&mut bytes, *address));
        bytes.push(u8::from(self.esp_port.is_some()));
        bytes.extend(self.esp_port.unwrap_or(0).to_be_bytes());
        bytes.extend((self.halves.len() as u64).to_be_bytes());
        for half in &self.halves {
            bytes.extend(half.generation.to_be_bytes());
            bytes.extend(half.public);
            bytes.extend(half.nonce);
            bytes.extend(half.secret.0);
        }
        // Behind what tells how long it is, and only where there is any: hosts that know nothing of it seal as ever.
        if self.outside != Outside::default() {
            let site = self.outside.site.as_deref().unwrap_or_default();
            bytes.push(u8::from(self.outside.site.is_some()));
            bytes.extend((site.len() as u64).to_be_bytes());
            bytes.extend(site.as_bytes());
            bytes.push(u8::from(self.outside.public.is_some()));
            self.outside.public.iter().for_each(|address| put(&mut bytes, *address));
        }
        bytes
    }

    /// Under the seal of the secret in use.
    pub fn seal(&self, cluster: &str, host: &str, secrets: &Secrets) -> Sealed {
        let halves = self.halves.iter().map(|half| HalfRecord {
            generation: half.generation,
            public: STANDARD.encode(half.public),
            nonce: STANDARD.encode(half.nonce),
            secret: STANDARD.encode(half.secret.0),
            other: serde_json::Map::new(),
        });
        Sealed {
            esp_port: self.esp_port,
            halves: halves.collect(),
            seal: STANDARD.encode(secrets.current().seal(&self.bytes(cluster, host))),
        }
    }
}

impl Mesh {
    /// What it says, if it was sealed for this host of this cluster.
    ///
    /// # Errors
    /// See [`Error`].
    pub fn open(&self, cluster: &str, host: &str, secrets: &Secrets) -> Result<Opened, Error> {
        let halves: Option<Vec<_>> = self.sealed.halves.iter().map(read).collect();
        let opened = Opened {
            number: self.number,
            underlay: self.underlay.clone(),
            outside: self.outside.clone(),
            esp_port: self.sealed.esp_port,
            // What cannot be read was changed after it was sealed.
            halves: halves.ok_or(Error::Seal)?,
        };
        let seal = decode(&self.sealed.seal).ok_or(Error::Seal)?;
        let bytes = opened.bytes(cluster, host);
        if !secrets.all().any(|secret| secret.is_seal(&bytes, &seal)) {
            return Err(Error::Seal);
        }
        if !NUMBERS.contains(&opened.number) {
            return Err(Error::Nonsense("a host number that has no room in an SPI"));
        }
        if opened.halves.is_empty() || opened.halves.len() > MOST_HALVES {
            return Err(Error::Nonsense("no half, or too many"));
        }
        if opened.halves.windows(2).any(|pair| pair[0].generation >= pair[1].generation) {
            return Err(Error::Nonsense("halves that do not follow each other"));
        }
        if opened.underlay.is_empty() {
            return Err(Error::Nonsense("no address"));
        }
        Ok(opened)
    }
}

fn put(bytes: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            bytes.push(4);
            bytes.extend(address.octets());
        }
        IpAddr::V6(address) => {
            bytes.push(6);
            bytes.extend(address.octets());
        }
    }
}

fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

fn read(half: &HalfRecord) -> Option<PublicHalf> {
    Some(PublicHalf {
        generation: half.generation,
        public: decode(&half.public)?,
        nonce: decode(&half.nonce)?,
        secret: SecretName(decode(&half.secret)?),
    })
}

#[cfg(test)]
mod tests {
    use super::super::{half::Half, secret::ClusterSecret};
    use super::*;
    use crate::network::mesh::{Encryption, Underlay};
    use proptest::prelude::*;
    use serde_json::Value;

    fn secrets(byte: u8) -> Secrets {
        Secrets::new(ClusterSecret::new(&[byte; 32]), None)
    }

    /// A whole record, sealed by the secret of this byte.
    fn record(opened: &Opened, byte: u8) -> Mesh {
        let sealed = opened.seal("c1", "h7", &secrets(byte));
        let underlay = Underlay { address: opened.underlay[0], mtu: 1500 };
        let mesh = Mesh::new(opened.number, underlay, 1380, Encryption::Ipsec, sealed);
        Mesh { underlay: opened.underlay.clone(), outside: opened.outside.clone(), ..mesh }
    }

    fn opened() -> Opened {
        let name = secrets(1).current().name();
        let halves = [(4, 1), (5, 2)].map(|(generation, byte)| Half::fixed(generation, byte, name).public).to_vec();
        Opened {
            number: 7,
            underlay: vec!["198.18.0.7".parse().unwrap(), "fd00::7".parse().unwrap()],
            outside: Outside { public: Some("203.0.113.7".parse().unwrap()), site: Some("there".into()) },
            esp_port: None,
            halves,
        }
    }

    #[test]
    fn a_record_is_opened_as_it_was_sealed() {
        let text = serde_json::to_string(&record(&opened(), 1)).unwrap();
        let read: Mesh = serde_json::from_str(&text).unwrap();
        assert_eq!(read.open("c1", "h7", &secrets(1)), Ok(opened()));
        // While the secret is changed, either is good.
        let changing = Secrets::new(ClusterSecret::new(&[2; 32]), Some(ClusterSecret::new(&[1; 32])));
        assert_eq!(read.open("c1", "h7", &changing), Ok(opened()));
        // Another secret, host or cluster: nothing.
        for (cluster, host, byte) in [("c1", "h7", 2), ("c1", "h8", 1), ("c2", "h7", 1), ("c1h", "7", 1)] {
            assert_eq!(read.open(cluster, host, &secrets(byte)), Err(Error::Seal));
        }
    }

    #[test]
    fn every_field_is_under_the_seal() {
        let sealed = serde_json::to_value(record(&opened(), 1)).unwrap();
        let change = |pointer: &str, value: Value| {
            let mut changed = sealed.clone();
            *changed.pointer_mut(pointer).unwrap() = value;
            let changed: Mesh = serde_json::from_value(changed).unwrap();
            assert_eq!(changed.open("c1", "h7", &secrets(1)), Err(Error::Seal), "{pointer}");
        };
        change("/number", 8.into());
        change("/underlay/0", "198.18.0.8".into());
        change("/underlay", serde_json::json!(["198.18.0.7"]));
        change("/halves/1/generation", 6.into());
        change("/halves/0/public", STANDARD.encode([3; 32]).into());
        change("/halves/0/nonce", STANDARD.encode([3; 32]).into());
        change("/halves/0/secret", STANDARD.encode([3; 8]).into());
        change("/halves", serde_json::json!([]));
        change("/halves/0/public", "rubbish".into());
        change("/seal", STANDARD.encode([0; 32]).into());
        change("/seal", "".into());
        let mut with_port = sealed.clone();
        with_port["espPort"] = 4500.into();
        let with_port: Mesh = serde_json::from_value(with_port).unwrap();
        assert_eq!(with_port.open("c1", "h7", &secrets(1)), Err(Error::Seal));
    }

    #[test]
    fn nonsense_is_refused_though_sealed() {
        let refuse = |opened: Opened| {
            let mut mesh = record(&self::opened(), 1);
            mesh.sealed = opened.seal("c1", "h7", &secrets(1));
            (mesh.number, mesh.underlay) = (opened.number, opened.underlay);
            let result = mesh.open("c1", "h7", &secrets(1));
            assert!(matches!(result, Err(Error::Nonsense(_))), "{result:?}");
        };
        refuse(Opened { number: 1 << 20, ..opened() });
        refuse(Opened { number: 0, ..opened() });
        refuse(Opened { halves: vec![], ..opened() });
        refuse(Opened { underlay: vec![], ..opened() });
        refuse(Opened { halves: vec![opened().halves[1], opened().halves[0]], ..opened() });
    }

    #[test]
    fn what_a_newer_version_wrote_survives() {
        let mut value = serde_json::to_value(record(&opened(), 1)).unwrap();
        value["colour"] = "blue".into();
        value["halves"][0]["shape"] = "round".into();
        let read: Mesh = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(&read).unwrap(), value);
        assert!(read.open("c1", "h7", &secrets(1)).is_ok());
    }

    proptest! {
        #[test]
        fn rubbish_from_the_store_is_an_error_and_no_panic(text in ".*", halves in prop::collection::vec((any::<u32>(), ".{0,50}", ".{0,50}", ".{0,16}"), 0..6), seal in ".{0,50}") {
            let _ = serde_json::from_str::<Mesh>(&text);
            let halves: Vec<_> = halves.into_iter().map(|(generation, public, nonce, secret)|
                serde_json::json!({"generation": generation, "public": public, "nonce": nonce, "secret": secret})).collect();
            let value = serde_json::json!({"number": 1, "underlay": ["::1"], "mac": "", "port": 1, "vni": 1, "mtu": 1,
                "encryption": "ipsec", "halves": halves, "seal": seal});
            let record: Mesh = serde_json::from_value(value).unwrap();
            prop_assert!(record.open("c1", "h1", &secrets(1)).is_err());
        }
    }
}
