//! From an instance as it is stored to what its host is to run.

use crate::membership::record::Capability;
use crate::resource::assignment::{
    AssignedFloating, AssignedLink, Assignment, Container, Desired, Exclusive, GuestData, Machine, MachineVolume,
    ManagedAddress, PublicPort, Token, Workload,
};
use crate::resource::snapshot::Layers;
use crate::resource::{Resource, dns_name, floating, identifier, instance, link, port, volume};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What images begin with that only simulated hosts run.
const SIMULATION: &str = "sim";
const SIMULATED: &str = "sim:";
/// Of a virtual machine that says nothing of it.
const MACHINE_MEMORY_MB: u64 = 256;

/// What an assignment says that its row does not.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// What a container's driver calls its image.
    pub image: String,
    /// Its place on the managed network.
    pub network: Option<ManagedAddress>,
    /// What a virtual machine is told.
    pub told: GuestData,
}

/// The assignment of `resource` under the claim `token`.
///
/// `exclusive`: the life of the host in which it may run, where it must not run twice.
pub fn assignment(resource: &Resource, token: Token, given: Given, exclusive: Option<Exclusive>) -> Assignment {
    let Given { image, network, told } = given;
    // One that is only said to run is run by what runs everything.
    let workload = if instance::is_machine(resource) && !image.starts_with(SIMULATED) {
        Workload::VirtualMachine(machine(resource, told))
    } else {
        Workload::Container(container(resource, image, network.as_ref()))
    };
    let desired = instance::desired(resource);
    Assignment {
        id: identifier::instance(resource.id),
        uuid: resource.uuid.clone(),
        token,
        generation: resource.generation,
        restarts: resource.get(instance::RESTARTS).unwrap_or(0),
        desired: if desired == Desired::Purged { Desired::Stopped } else { desired },
        on_end: instance::on_end(resource),
        native: instance::is_native(resource).then(|| resource.get(instance::EXTERNAL_ID)).flatten(),
        exclusive,
        workload,
        account: resource.account_id,
        network,
        ports: ports(resource),
        floating: floating::of(resource)
            .into_iter()
            .map(|one| AssignedFloating { id: one.id, address: one.address })
            .collect(),
        links: links(resource),
    }
}

fn links(resource: &Resource) -> Vec<AssignedLink> {
    let port =
        |port: link::LinkPort| PublicPort { protocol: port.protocol, public: port.public, private: port.private };
    let one = |link: link::Link| AssignedLink {
        name: link.link_name,
        target: link.target.map(identifier::instance),
        ports: link.ports.into_iter().map(port).collect(),
    };
    link::of(resource).into_iter().map(one).collect()
}

fn ports(resource: &Resource) -> Vec<PublicPort> {
    let public = |one: port::Published| {
        one.public.map(|public| PublicPort { protocol: one.protocol, public, private: one.private })
    };
    port::of(resource).into_iter().filter_map(public).collect()
}

/// What runs an image, and what it calls it: `docker:busybox` is Docker's `busybox`, `sim:anything` is said to run by a
/// simulated host.
pub fn image(uuid: &str) -> Option<(Capability, &str)> {
    let (kind, reference) = uuid.split_once(':').filter(|(_, reference)| !reference.is_empty())?;
    match kind {
        "docker" => Some((Capability::Container, reference)),
        SIMULATION => Some((Capability::Simulated, uuid)),
        _ => None,
    }
}

fn machine(resource: &Resource, told: GuestData) -> Machine {
    Machine {
        name: resource.name.clone(),
        hostname: resource.get(instance::HOSTNAME),
        image: resource.get(instance::MACHINE_IMAGE).unwrap_or_default(),
        vcpu: resource.get(instance::VCPU).unwrap_or(1),
        memory_mb: resource.get(instance::MEMORY_MB).unwrap_or(MACHINE_MEMORY_MB),
        disk_mb: resource.get(instance::DISK_MB).unwrap_or(0),
        layers: Layers::of(resource).told(),
        volumes: volumes(resource),
        told,
    }
}

/// Those that are there, in the order of their places.
fn volumes(resource: &Resource) -> Vec<MachineVolume> {
    let mut all = volume::of(resource);
    all.retain(|one| one.ready);
    all.sort_by_key(|one| one.slot);
    all.into_iter()
        .map(|one| MachineVolume { name: volume::name(one.id), slot: one.slot, layers: one.layers })
        .collect()
}

/// The events that are to fail: `data` of a simulated instance names them `<event>::fail`.
fn faults(resource: &Resource, image: &str) -> BTreeSet<String> {
    let simulated = image.starts_with(SIMULATED);
    let truthy = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
    let asked = resource.data.iter().filter(|(_, value)| simulated && truthy(value));
    asked.filter_map(|(name, _)| name.strip_suffix("::fail").map(str::to_owned)).collect()
}

fn container(resource: &Resource, image: String, network: Option<&ManagedAddress>) -> Container {
    let mut command: Vec<String> = resource.get::<String>(instance::COMMAND).into_iter().collect();
    command.extend(resource.get::<Vec<String>>(instance::COMMAND_ARGS).unwrap_or_default());
    let default = || network.map(|network| dns_name::of_address(network.address));
    let hostname = resource.get(instance::HOSTNAME).or_else(default);
    Container {
        name: resource.name.clone(),
        faults: faults(resource, &image),
        image,
        command,
        environment: resource.get::<BTreeMap<String, String>>(instance::ENVIRONMENT).unwrap_or_default(),
        directory: resource.get(instance::DIRECTORY),
        hostname,
        user: resource.get(instance::USER),
        privileged: resource.get(instance::PRIVILEGED).unwrap_or(false),
        volumes: resource.get(instance::VOLUMES).unwrap_or_default(),
        memory_mb: resource.get(instance::MEMORY_LIMIT_MB).unwrap_or(0),
    }
}
