//! The names of instances on the managed network, as its DNS answers them.
//!
//! An instance that runs has up to three: its `name`, its `hostname`, and `ip-10-42-3-7` after its address. They are asked for
//! below [`DOMAIN`], or by themselves where they are one label. What is no name for the DNS (`my web/app`) is left out.

use super::{Resource, State, instance};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// What instances' names end in; also what containers search. `internal` is nobody's on the Internet (reserved by ICANN, 2024).
pub const DOMAIN: &str = "stampede.internal";
/// With the domain behind it, a name may not be longer than 253 (RFC 1035).
const LONGEST: usize = 200;
const LONGEST_LABEL: usize = 63;

/// `dns/<account>/<name>/<instance>`: whom a name leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Named {
    pub address: Ipv4Addr,
    /// Where it runs.
    pub host: String,
    /// What its address is called.
    pub name: String,
    /// What a newer version wrote.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A name as the DNS compares it; `None` where it is none: labels of letters, digits, `-` and `_`, parted by dots.
pub fn normal(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = |label: &str| {
        let letters = label.bytes().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, b'-' | b'_'));
        letters && (1..=LONGEST_LABEL).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
    };
    (name.len() <= LONGEST && name.split('.').all(fits)).then(|| name.to_ascii_lowercase())
}

/// What every instance with this address is called, as the contract has it: `ip-10-42-3-7`.
pub fn of_address(address: Ipv4Addr) -> String {
    format!("ip-{}", address.to_string().replace('.', "-"))
}

/// The names that an instance has now, and what each leads to; none where it does not run.
pub fn of(instance: &Resource) -> BTreeMap<String, Named> {
    let up = matches!(instance.state, State::Running | State::UpdatingRunning | State::Migrating);
    let (Some(address), Some(host)) = (instance.get::<Ipv4Addr>(instance::ADDRESS), instance.get(instance::HOST_NAME))
    else {
        return BTreeMap::new();
    };
    if !up {
        return BTreeMap::new();
    }
    let own = instance.name.as_deref().and_then(normal);
    let hostname = instance.get::<String>(instance::HOSTNAME).and_then(|name| normal(&name));
    let by_address = of_address(address);
    let name = own.as_ref().or(hostname.as_ref()).unwrap_or(&by_address).clone();
    let named = Named { address, host, name, rest: Map::new() };
    let names = own.into_iter().chain(hostname).chain([by_address]);
    names.map(|name| (name, named.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn instance(name: Option<&str>, hostname: Option<&str>, state: &str) -> Resource {
        let mut text = serde_json::json!({
            "id": 5, "kind": "container", "uuid": "u", "created": 5, "state": state, "accountId": 7,
            "primaryIpAddress": "10.42.3.7", "hostName": "h1",
        });
        text["name"] = name.into();
        text["hostname"] = hostname.into();
        serde_json::from_value(text).unwrap()
    }

    fn names(instance: &Resource) -> Vec<String> {
        of(instance).into_keys().collect()
    }

    #[test]
    fn what_runs_has_its_names_and_what_is_down_has_none() {
        assert_eq!(names(&instance(Some("Web"), Some("www.front"), "running")), ["ip-10-42-3-7", "web", "www.front"]);
        assert_eq!(names(&instance(Some("my web/app"), None, "running")), ["ip-10-42-3-7"]);
        assert_eq!(names(&instance(Some("web"), Some("web"), "running")), ["ip-10-42-3-7", "web"]);
        for state in ["starting", "stopping", "stopped", "restarting", "removed", "purged"] {
            assert_eq!(of(&instance(Some("web"), None, state)), BTreeMap::new(), "{state}");
        }
        let mut elsewhere = instance(Some("web"), None, "running");
        elsewhere.set(instance::ADDRESS, Value::Null);
        assert_eq!(of(&elsewhere), BTreeMap::new(), "it is not on the managed network");
    }

    #[test]
    fn an_address_is_called_by_the_best_name() {
        let called = |name, hostname| of(&instance(name, hostname, "running"))["ip-10-42-3-7"].name.clone();
        assert_eq!(called(Some("web"), Some("www")), "web");
        assert_eq!(called(Some("no name"), Some("www")), "www");
        assert_eq!(called(None, None), "ip-10-42-3-7");
    }

    #[test]
    fn what_a_newer_version_wrote_survives() {
        let text = r#"{"address":"10.42.3.7","host":"h1","name":"web","weight":3}"#;
        let named: Named = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&named).unwrap(), text);
    }

    proptest! {
        #[test]
        fn a_normal_name_is_one_key_and_stays_as_it_is(name in "[a-zA-Z0-9_./ -]{0,80}") {
            if let Some(normal_name) = normal(&name) {
                prop_assert!(!normal_name.is_empty() && !normal_name.contains('/') && normal_name.len() <= LONGEST);
                prop_assert_eq!(normal(&normal_name), Some(normal_name.clone()));
                prop_assert_eq!(normal_name, name.trim_end_matches('.').to_lowercase());
            }
        }
    }
}
