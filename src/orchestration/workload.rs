//! From an instance as it is stored to what its host is to run.

use crate::membership::record::Capability;
use crate::resource::assignment::{
    AssignedFloating, AssignedLink, Assignment, Container, Desired, Exclusive, ManagedAddress, PublicPort, Token,
    Workload,
};
use crate::resource::{Resource, dns_name, floating, identifier, instance, link, port};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The assignment of `resource` under the claim `token`; `address` is its place on the managed network.
///
/// `exclusive`: the life of the host in which it may run, where it must not run twice.
pub fn assignment(
    resource: &Resource,
    token: Token,
    image: String,
    network: Option<ManagedAddress>,
    exclusive: Option<Exclusive>,
) -> Assignment {
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
        workload: Workload::Container(container(resource, image, network.as_ref())),
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
        "sim" => Some((Capability::Simulated, uuid)),
        _ => None,
    }
}

/// The events that are to fail: `data` of a simulated instance names them `<event>::fail`.
fn faults(resource: &Resource, image: &str) -> BTreeSet<String> {
    let simulated = image.starts_with("sim:");
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
