//! Our schemas against those that a server of the original published, field by field.
//!
//! The recording is no part of this project. It is looked for at `../shared/contract/cattle-v1-types.json` beside the
//! repository, or where `STAMPEDE_CONTRACT` says; a checkout without it cannot make the comparison, and says so.

// All of this is test code, also what stands outside of test functions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Map, Value, json};
use stampede::resource::declaration::Type;
use stampede::resource::schema::schema;
use stampede::resource::types;
use stampede::resource::validation::Writer;
use std::path::PathBuf;

/// Fields of ours that the original does not have.
const ADDED: &[(&str, &[&str])] = &[
    ("account", &["quotaAddresses", "quotaInstances", "quotaMemoryMb"]),
    ("hostOnlyNetwork", &["accountsApart"]),
    (
        "host",
        &[
            "agentAddress",
            "capabilities",
            "hostname",
            "labels",
            "memoryMb",
            "publicAddress",
            "underlayAddress",
            "versions",
            "warnings",
        ],
    ),
    ("publish", &["taken"]),
    ("container", &["memoryLimitMb", "publicIpAddressPoolId"]),
    ("volume", &["hostId"]),
];
/// The same of all that are stored as instances.
const ADDED_TO_INSTANCES: &[&str] = &[
    "affinity",
    "antiAffinity",
    "constraints",
    "diskMb",
    "externalId",
    "hostId",
    "hostLossGraceSeconds",
    "labels",
    "memoryReservationMb",
    "nativeContainer",
    "onHostLoss",
    "placementPolicy",
    "spreadBy",
];

fn is_added(declared: &Type, field: &str) -> bool {
    declared.base == "instance" && ADDED_TO_INSTANCES.contains(&field)
        || ADDED.iter().any(|(of, fields)| *of == declared.name && fields.contains(&field))
}

/// Types whose rows nobody makes or changes over the API, though the original let them be; docs/api.md says why of each.
const READ_ONLY: &[&str] = &[
    "credentialInstanceMap",
    "dhcpService",
    "dnsService",
    "externalHandlerExternalHandlerProcessMap",
    "externalHandlerProcess",
    "gatewayService",
    "hostIpAddressMap",
    "hostNatGatewayService",
    "imageStoragePoolMap",
    "instanceHostMap",
    "ipAddressNicMap",
    "ipAssociation",
    "ipsecTunnelService",
    "linkService",
    "metadataService",
    "networkService",
    "networkServiceProvider",
    "nic",
    "physicalHost",
    "portService",
    "register",
    "registrationToken",
    "setting",
    "storagePool",
    "storagePoolHostMap",
    "subnet",
    "volumeStoragePoolMap",
    "zone",
];

/// Types and actions of ours that the original does not have.
const ADDED_TYPES: &[&str] = &["hostDrain", "hostRemove", "snapshot"];
/// `remove` is the original's too, without an input; what is sent without one means the same.
const ADDED_ACTIONS: &[(&str, &str)] = &[("host", "drain"), ("host", "failover"), ("host", "remove")];

/// Where ours is other on purpose: type, field, why.
const DIFFERENT: &[(&str, &str, &str)] = &[
    ("host", "state", "a host whose lease has ended is disconnected, and one that is being emptied is draining"),
    ("apiKey", "publicValue", "a key is looked up by it: a new key is made instead"),
    ("credential", "publicValue", "a key is looked up by it: a new key is made instead"),
    ("subscribe", "eventNames", "the names of handlers have hyphens"),
    ("virtualMachine", "memoryMb", "changed while it is stopped"),
    ("virtualMachine", "vcpu", "changed while it is stopped"),
    ("volume", "virtualSizeMb", "data volumes are made over the API, and volumes grow"),
    ("sshKey", "secretValue", "private halves of SSH keys are not kept"),
];

/// Filters of the original that ours do not have: fields without a field, and secrets.
const UNFILTERED: &[(&str, &str)] = &[
    ("container", "offeringId"),
    ("instance", "offeringId"),
    ("apiKey", "secretValue"),
    ("credential", "secretValue"),
    ("sshKey", "secretValue"),
    ("virtualMachine", "offeringId"),
    ("register", "token"),
    ("registrationToken", "publicValue"),
    ("registrationToken", "secretValue"),
    ("storagePool", "physicalTotalSizeMb"),
    ("storagePool", "virtualTotalSizeMb"),
    ("volume", "physicalSizeMb"),
];

fn recording() -> Option<Map<String, Value>> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/contract/cattle-v1-types.json");
    let path = std::env::var_os("STAMPEDE_CONTRACT").map_or(beside, PathBuf::from);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(serde_json::from_str(&text).unwrap()),
        Err(error) => {
            eprintln!("NOT COMPARED with the original: {}: {error}", path.display());
            None
        }
    }
}

/// The parts of a field that were recorded, in one form: what is false, null or true by default is left out.
fn essence(field: &Value) -> Map<String, Value> {
    let mut essence = Map::new();
    for (name, value) in field.as_object().unwrap() {
        let usual = match name.as_str() {
            "nullable" => json!(true),
            "create" | "update" | "required" | "unique" => json!(false),
            _ => Value::Null,
        };
        if *value != usual {
            let value = match (name.as_str(), value) {
                // The recording has numbers as the text that they came in.
                ("default", Value::String(text)) => serde_json::from_str(text).unwrap_or_else(|_| value.clone()),
                _ => value.clone(),
            };
            essence.insert(name.clone(), value);
        }
    }
    essence.sort_keys();
    essence
}

/// Methods are the original's where there is a list, but for those that only read.
fn methods(declared: &Type, ours: &Value, theirs: &Value) -> Vec<String> {
    if !declared.listable {
        return Vec::new();
    }
    let read_only = READ_ONLY.contains(&declared.name);
    // Hosts join by themselves; images are found by their names; who is subscribed to is no resource; addresses come with instances
    // or are acquired, and each pool is a subnetIpPool. Data volumes are made and removed over the API.
    let told = [
        ("host", "collectionMethods"),
        ("image", "resourceMethods"),
        ("agent", "resourceMethods"),
        ("ipAddress", "collectionMethods"),
        ("ipPool", "collectionMethods"),
        ("volume", "collectionMethods"),
        ("volume", "resourceMethods"),
    ];
    let mut faults = Vec::new();
    for kind in ["collectionMethods", "resourceMethods"] {
        let same = ours[kind] == theirs[kind];
        let expected = if read_only { ours[kind] == json!(["GET"]) } else { same };
        if !expected && !told.contains(&(declared.name, kind)) {
            faults.push(format!("{}: {kind} {} and not {}", declared.name, ours[kind], theirs[kind]));
        }
    }
    faults
}

#[test]
fn fields_and_filters_are_the_originals() {
    let Some(recording) = recording() else { return };
    let mut faults = Vec::new();
    let mut compared = 0;
    for declared in types::ALL {
        let ours = schema(declared, Writer::Admin, "http://h:9080/v1");
        let Some(theirs) = recording.get(declared.name) else {
            if !ADDED_TYPES.contains(&declared.name) {
                faults.push(format!("{} is no type of the original", declared.name));
            }
            continue;
        };
        if ours["pluralName"] != theirs["pluralName"] {
            faults.push(format!("{}: plural {}", declared.name, ours["pluralName"]));
        }
        let (our_fields, their_fields) =
            (ours["resourceFields"].as_object().unwrap(), theirs["resourceFields"].as_object().unwrap());
        for (name, theirs) in their_fields {
            compared += 1;
            let Some(ours) = our_fields.get(name) else {
                faults.push(format!("{}.{name} is missing", declared.name));
                continue;
            };
            let different = DIFFERENT.iter().any(|(of, field, _)| (*of, *field) == (declared.name, name.as_str()));
            let (ours, theirs) = (essence(ours), essence(theirs));
            if (ours != theirs) != different {
                faults.push(format!("{}.{name}\n  ours:   {ours:?}\n  theirs: {theirs:?}", declared.name));
            }
        }
        for name in our_fields.keys().filter(|name| !their_fields.contains_key(*name)) {
            if !is_added(declared, name) {
                faults.push(format!("{}.{name} is ours alone", declared.name));
            }
        }
        for (name, modifiers) in theirs["collectionFilters"].as_object().unwrap() {
            if !UNFILTERED.contains(&(declared.name, name.as_str()))
                && ours["collectionFilters"][name]["modifiers"] != *modifiers
            {
                faults.push(format!("{}: filters of {name}: {}", declared.name, ours["collectionFilters"][name]));
            }
        }
        faults.extend(methods(declared, &ours, theirs));
        // What ours can be asked for, theirs could: links and actions that lead nowhere yet are left out.
        let links = theirs["includeableLinks"].as_array().unwrap();
        for link in ours["includeableLinks"].as_array().unwrap() {
            if !links.contains(link) {
                faults.push(format!("{}: link {link} is ours alone", declared.name));
            }
        }
        for (name, action) in ours["resourceActions"].as_object().unwrap() {
            if theirs["resourceActions"].get(name) != Some(action)
                && !ADDED_ACTIONS.contains(&(declared.name, name.as_str()))
            {
                faults.push(format!("{}: action {name}: {action}", declared.name));
            }
        }
    }
    let missing = recording.keys().filter(|name| types::find(name).is_none());
    faults.extend(missing.map(|name| format!("{name} is missing")));
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(compared > 200, "only {compared} fields were compared");
}
