//! What is made of what is stored: the rows of types that are parts of others. Each says only what is known.

use crate::resource::derived::{number, part};
use crate::resource::{Resource, State, floating, instance, volume};
use serde_json::Value;

/// Nothing: there are none of that type yet.
pub fn nothing(_: &str, _: &Resource) -> Vec<Resource> {
    Vec::new()
}

/// A part of a host; `away` is its state while the host's lease has ended.
fn of_host(host: &Resource, kind: &str, away: State) -> Resource {
    let mut row = part(host, kind, host.id);
    row.enter(match host.state {
        State::Disconnected => away,
        State::Draining => State::Active,
        state => state,
    });
    row.name.clone_from(&host.name);
    row
}

pub fn agent(_: &str, host: &Resource) -> Vec<Resource> {
    let mut row = of_host(host, "agent", State::Reconnecting);
    let address = host.get::<String>("agentAddress");
    row.set(
        "uri",
        match &host.name {
            Some(name) if can(host, "simulated") => Some(format!("sim://{name}")),
            _ => address.map(|address| format!("https://{address}")),
        },
    );
    row.set("zoneId", host.fields.get("zoneId").cloned().unwrap_or_default());
    vec![row]
}

pub fn physical_host(_: &str, host: &Resource) -> Vec<Resource> {
    vec![of_host(host, "physicalHost", State::Inactive)]
}

fn can(host: &Resource, what: &str) -> bool {
    host.get::<Vec<String>>("capabilities").unwrap_or_default().iter().any(|known| known == what)
}

fn runs_containers(host: &Resource) -> bool {
    can(host, "container") || can(host, "simulated")
}

pub fn storage_pool(_: &str, host: &Resource) -> Vec<Resource> {
    let mut row = of_host(host, "storagePool", State::Inactive);
    row.set("agentId", host.id);
    row.set("external", false);
    row.set("zoneId", host.fields.get("zoneId").cloned().unwrap_or_default());
    Some(row).filter(|_| runs_containers(host)).into_iter().collect()
}

pub fn storage_pool_host_map(_: &str, host: &Resource) -> Vec<Resource> {
    let mut row = of_host(host, "storagePoolHostMap", State::Inactive);
    row.set("hostId", host.id);
    row.set("storagePoolId", host.id);
    Some(row).filter(|_| runs_containers(host)).into_iter().collect()
}

pub fn zone(_: &str, host: &Resource) -> Vec<Resource> {
    let name = host.fields.get("labels").and_then(|labels| labels.get("zone")).and_then(Value::as_str);
    let one = |name: &str| {
        let mut row = part(host, "zone", number(name));
        row.enter(State::Active);
        row.uuid = format!("zone-{name}");
        row.name = Some(name.to_owned());
        row
    };
    name.map(one).into_iter().collect()
}

/// A part of an instance; there is one of a kind.
pub(super) fn of_instance(whole: &Resource, kind: &str) -> Resource {
    let mut row = part(whole, kind, whole.id);
    row.enter(match whole.state {
        State::Creating | State::Starting => State::Activating,
        State::Stopped | State::Restoring | State::UpdatingStopped => State::Inactive,
        state @ (State::Requested | State::Removing | State::Removed | State::Purging | State::Purged) => state,
        _ => State::Active,
    });
    row
}

/// The network that it is on; and its subnet, where that is the managed one.
fn place(whole: &Resource) -> (u64, Option<u64>) {
    match whole.get::<Vec<u64>>(instance::NETWORK_IDS).unwrap_or_default().first() {
        None | Some(&instance::MANAGED_NETWORK) => (instance::MANAGED_NETWORK, Some(instance::MANAGED_SUBNET)),
        Some(id) => (*id, None),
    }
}

fn in_place(whole: &Resource, mut row: Resource) -> Resource {
    let (network, subnet) = place(whole);
    row.set("networkId", network);
    row.set("subnetId", subnet);
    row
}

fn has_address(whole: &Resource) -> bool {
    whole.fields.contains_key(instance::ADDRESS)
}

pub fn nic(_: &str, whole: &Resource) -> Vec<Resource> {
    let mut row = in_place(whole, of_instance(whole, "nic"));
    row.set("instanceId", whole.id);
    row.set("deviceNumber", 0);
    vec![row]
}

pub fn ip_address(base: &str, whole: &Resource) -> Vec<Resource> {
    if base == floating::BASE {
        return vec![floating_address(whole)];
    }
    let mut row = in_place(whole, of_instance(whole, "ipAddress"));
    row.set("address", whole.get::<String>(instance::ADDRESS));
    row.set("role", "primary");
    Some(row).filter(|_| has_address(whole)).into_iter().collect()
}

fn floating_address(address: &Resource) -> Resource {
    let mut row = Resource { kind: floating::SHOWN.into(), id: floating::shown_id(address.id), ..address.clone() };
    row.set("role", "floating");
    // Of the row, but not of what is shown.
    row.set(floating::INSTANCE, Value::Null);
    row
}

/// An address and what it leads to; there is one while it leads anywhere.
pub fn ip_association(_: &str, address: &Resource) -> Vec<Resource> {
    let one = |instance: u64| {
        let mut row = part(address, "ipAssociation", address.id);
        row.enter(if address.state == State::Associated { State::Active } else { State::Activating });
        row.set("ipAddressId", floating::shown_id(address.id));
        row.set("childIpAddressId", instance);
        row
    };
    floating::target(address).map(one).into_iter().collect()
}

pub fn ip_address_nic_map(_: &str, whole: &Resource) -> Vec<Resource> {
    let mut row = of_instance(whole, "ipAddressNicMap");
    row.set("ipAddressId", whole.id);
    row.set("nicId", whole.id);
    Some(row).filter(|_| has_address(whole)).into_iter().collect()
}

pub fn instance_host_map(_: &str, whole: &Resource) -> Vec<Resource> {
    let one = |host: u64| {
        let mut row = of_instance(whole, "instanceHostMap");
        row.set("hostId", host);
        row.set("instanceId", whole.id);
        row
    };
    whole.get(instance::HOST).map(one).into_iter().collect()
}

pub fn credential_instance_map(_: &str, whole: &Resource) -> Vec<Resource> {
    let one = |credential: u64| {
        let mut row = part(whole, "credentialInstanceMap", (whole.id << 24) | credential);
        row.enter(of_instance(whole, "credentialInstanceMap").state);
        row.uuid = format!("{}-credential-{credential}", whole.uuid);
        row.set("credentialId", credential);
        row.set("instanceId", whole.id);
        row
    };
    whole.get::<Vec<u64>>(instance::CREDENTIALS).unwrap_or_default().into_iter().map(one).collect()
}

/// The host that an instance has been made on, with its image: it has run there.
fn made_on(whole: &Resource) -> Option<(u64, u64)> {
    whole.get::<i64>(instance::FIRST_RUNNING)?;
    Some((whole.get(instance::HOST)?, whole.get(instance::IMAGE_ID)?))
}

pub fn volume(base: &str, whole: &Resource) -> Vec<Resource> {
    if base == volume::BASE {
        return vec![Resource { kind: volume::SHOWN.into(), ..whole.clone() }];
    }
    let one = |(_, image): (u64, u64)| {
        let mut row = of_instance(whole, "volume");
        row.set("imageId", image);
        row.set("instanceId", whole.id);
        row.set("deviceNumber", 0);
        row.set("format", if instance::is_machine(whole) { "qcow2" } else { "docker" });
        row.set(volume::ATTACHED_STATE, "active");
        row.set(volume::ALLOCATION_STATE, "active");
        row.set(instance::HOST, whole.get::<u64>(instance::HOST));
        if instance::is_machine(whole) {
            row.set(volume::SIZE_MB, whole.get::<u64>(instance::DISK_MB));
        }
        row
    };
    made_on(whole).map(one).into_iter().collect()
}

pub fn volume_storage_pool_map(base: &str, whole: &Resource) -> Vec<Resource> {
    let (mut row, host) = if base == volume::BASE {
        (part(whole, "volumeStoragePoolMap", whole.id), whole.get::<u64>(instance::HOST))
    } else {
        (of_instance(whole, "volumeStoragePoolMap"), made_on(whole).map(|(host, _)| host))
    };
    row.set("storagePoolId", host);
    row.set("volumeId", whole.id);
    Some(row).filter(|_| host.is_some()).into_iter().collect()
}

/// Instances of one image on one host share it.
pub fn image_storage_pool_map(_: &str, whole: &Resource) -> Vec<Resource> {
    let one = |(host, image): (u64, u64)| {
        let mut row = part(whole, "imageStoragePoolMap", (host << 24) | image);
        row.enter(State::Active);
        (row.account_id, row.removed, row.remove_time) = (None, None, None);
        row.uuid = format!("image-{image}-on-{host}");
        row.set("imageId", image);
        row.set("storagePoolId", host);
        row
    };
    made_on(whole).map(one).into_iter().collect()
}

/// A part of the managed network, which all accounts see as they see that.
fn of_network(network: &Resource, kind: &str, id: u64, name: &str) -> Resource {
    let mut row = part(network, kind, id);
    row.name = Some(name.to_owned());
    row.set("isPublic", true);
    row.set("networkId", network.id);
    row
}

fn is_ours(network: &Resource) -> bool {
    network.kind == "hostOnlyNetwork" && network.id == instance::MANAGED_NETWORK
}

pub fn provider(_: &str, network: &Resource) -> Vec<Resource> {
    let row = of_network(network, "networkServiceProvider", network.id, "the agents");
    Some(row).filter(|_| is_ours(network)).into_iter().collect()
}

/// Those that the agents do. Names are not among them yet; encryption is each host's own setting.
pub fn services(_: &str, network: &Resource) -> Vec<Resource> {
    let kinds = [
        ("gatewayService", "gateway"),
        ("hostNatGatewayService", "host-nat-gateway"),
        ("portService", "port"),
        ("linkService", "link"),
        ("metadataService", "metadata"),
        ("dhcpService", "dhcp"),
    ];
    let one = |(at, (kind, name)): (u64, (&str, &str))| {
        let mut row = of_network(network, kind, network.id * 16 + at, name);
        row.uuid = format!("docker0-{name}-service");
        row.set("networkServiceProviderId", network.id);
        if kind == "metadataService" {
            row.set("configDrive", false);
        }
        row
    };
    (0..).zip(kinds).filter(|_| is_ours(network)).map(one).collect()
}
