//! The tree as OpenStack has it: a few documents, each from some version on.

use super::facts::{Facts, Place, Row, mask};
use super::tree::{Directory, Kind};
use serde_json::{Map, Value, json};

const LATEST: &str = "latest";
/// The first version of all, and those with which documents came.
pub const VERSIONS: &[&str] = &[
    "2012-08-10",
    "2013-04-04",
    VENDOR_DATA,
    NETWORK_DATA,
    "2016-06-30",
    VENDOR_DATA_2,
    "2017-02-22",
    "2018-08-27",
    LATEST,
];
const VENDOR_DATA: &str = "2013-10-17";
const NETWORK_DATA: &str = "2015-10-15";
const VENDOR_DATA_2: &str = "2016-10-06";
/// What the interface is called in the documents.
const LINK: &str = "eth0";

/// One version, by its name.
pub fn version(name: &str, facts: &Facts) -> Directory {
    let has = |since: &str| name == LATEST || name >= since;
    let json = |directory: Directory, name: &str, value: &Value| directory.leaf(name, Kind::Json, value.to_string());
    let mut directory = match &facts.row {
        Some(row) => json(Directory::default(), "meta_data.json", &meta_data(facts, row)),
        None => Directory::partial(),
    };
    if let Some(userdata) = facts.row.as_ref().and_then(|row| row.userdata.as_ref()) {
        directory = directory.leaf("user_data", Kind::Bytes, userdata.clone());
    }
    let documents = [
        ("vendor_data.json", VENDOR_DATA, json!({})),
        ("network_data.json", NETWORK_DATA, network_data(&facts.place)),
        ("vendor_data2.json", VENDOR_DATA_2, json!({})),
    ];
    let there = documents.iter().filter(|(_, since, _)| has(since));
    there.fold(directory, |directory, (name, _, value)| json(directory, name, value))
}

fn meta_data(facts: &Facts, row: &Row) -> Value {
    let mut named = Map::new();
    for key in &row.keys {
        // Two may be called the same.
        let mut name = key.name.clone();
        while named.contains_key(&name) {
            name.push('_');
        }
        named.insert(name, key.value.clone().into());
    }
    let keys: Vec<Value> =
        named.iter().map(|(name, value)| json!({"name": name, "type": "ssh", "data": value})).collect();
    let mut all = json!({
        "uuid": facts.uuid,
        "hostname": facts.hostname,
        "name": row.name.as_ref().unwrap_or(&facts.hostname),
        "availability_zone": row.zone,
        "launch_index": 0,
        "meta": row.labels,
        "files": [],
        "public_keys": named,
        "keys": keys,
    });
    if let Some(account) = &row.account {
        all["project_id"] = account.as_str().into();
    }
    all
}

fn network_data(place: &Place) -> Value {
    json!({
        "links": [{"id": LINK, "type": "phy", "ethernet_mac_address": place.mac, "mtu": place.mtu}],
        "networks": [{
            "id": "managed",
            "type": "ipv4",
            "link": LINK,
            "ip_address": place.address,
            "netmask": mask(place.prefix),
            "routes": [{"network": "0.0.0.0", "netmask": "0.0.0.0", "gateway": place.gateway}],
        }],
        "services": [{"type": "dns", "address": place.gateway}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_as_people_write_them() {
        let masks = [0, 8, 16, 26, 32].map(|prefix| mask(prefix).to_string());
        assert_eq!(masks, ["0.0.0.0", "255.0.0.0", "255.255.0.0", "255.255.255.192", "255.255.255.255"]);
    }
}
