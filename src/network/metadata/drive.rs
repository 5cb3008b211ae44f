//! What metadata says, as the files of a config drive: for a guest that asks before it has a network, or has none of ours.
//!
//! It is of the moment that the guest was started; what changes later is told over HTTP.

use super::facts::{Facts, NO_ZONE, Row};
use super::{ec2, openstack};
use crate::resource::assignment::{Assignment, Workload};
use crate::resource::identifier;
use bytes::Bytes;

/// Versions of EC2's tree that are on a drive, as OpenStack has it.
const EC2: &[&str] = &["2009-04-04", "latest"];

/// The files of `assignment`'s drive, by path; none of what is no virtual machine, or is not on the managed network.
pub fn files(assignment: &Assignment) -> Vec<(String, Bytes)> {
    let Some(facts) = facts(assignment) else { return Vec::new() };
    let mut files = Vec::new();
    for version in openstack::VERSIONS {
        files.extend(openstack::version(version, &facts).documents(&format!("openstack/{version}")));
    }
    for version in EC2 {
        let meta_data = ec2::meta_data(&facts).json().to_string();
        files.push((format!("ec2/{version}/meta-data.json"), meta_data.into()));
        if let Some(userdata) = facts.row.as_ref().and_then(|row| row.userdata.clone()) {
            files.push((format!("ec2/{version}/user-data"), userdata));
        }
    }
    files
}

fn facts(assignment: &Assignment) -> Option<Facts> {
    let Workload::VirtualMachine(machine) = &assignment.workload else { return None };
    let told = &machine.told;
    let row = Row {
        name: machine.name.clone(),
        kind: "virtualMachine".to_owned(),
        image: Some(identifier::format("image", machine.image.id)),
        account: assignment.account.map(|id| identifier::format("account", id)),
        keys: told.keys.clone(),
        userdata: told.userdata.clone().map(Bytes::from),
        zone: told.zone.clone().unwrap_or_else(|| NO_ZONE.to_owned()),
        labels: told.labels.clone(),
        public: assignment.floating.first().map(|one| one.address),
    };
    Some(Facts { row: Some(row), ..Facts::of(assignment)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::SubnetSpec;
    use crate::resource::assignment::{GuestData, Machine};
    use crate::resource::ssh_key::SshKey;
    use serde_json::{Value, json};
    use std::collections::BTreeMap;
    use std::net::Ipv4Addr;

    #[test]
    fn both_trees_with_the_same_in_them() {
        let key = SshKey { name: "mine".into(), value: "ssh-ed25519 AAAA".into() };
        let told = GuestData { userdata: Some("#!/bin/sh\n".into()), keys: vec![key], ..GuestData::default() };
        let machine = Machine { name: Some("web".into()), told, ..Machine::default() };
        let assignment = Assignment {
            workload: Workload::VirtualMachine(machine),
            network: Some(SubnetSpec::default().managed(Ipv4Addr::new(10, 42, 7, 9), 1380)),
            account: Some(5),
            ..Assignment::example("1i54")
        };
        let files: BTreeMap<String, Bytes> = files(&assignment).into_iter().collect();
        let document = |path: &str| serde_json::from_slice::<Value>(&files[path]).unwrap();
        let meta = document("openstack/latest/meta_data.json");
        assert_eq!((&meta["name"], &meta["hostname"]), (&json!("web"), &json!("ip-10-42-7-9")));
        assert_eq!(meta["public_keys"], json!({"mine": "ssh-ed25519 AAAA"}));
        assert_eq!(document("openstack/2015-10-15/network_data.json")["networks"][0]["ip_address"], "10.42.7.9");
        assert!(!files.contains_key("openstack/2012-08-10/network_data.json"), "that version had none");
        let ec2 = document("ec2/2009-04-04/meta-data.json");
        assert_eq!(ec2["public-keys"]["0"]["openssh-key"], "ssh-ed25519 AAAA");
        assert_eq!((&ec2["instance-id"], &ec2["local-ipv4"]), (&json!("1i54"), &json!("10.42.7.9")));
        for path in ["openstack/latest/user_data", "ec2/latest/user-data", "ec2/2009-04-04/user-data"] {
            assert_eq!(files[path], "#!/bin/sh\n", "{path}");
        }
    }
}
