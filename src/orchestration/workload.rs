//! From an instance as it is stored to what its host is to run.

use crate::resource::assignment::{Assignment, Container, Desired, Exclusive, ManagedAddress, Token, Workload};
use crate::resource::{Resource, identifier, instance};
use std::collections::BTreeMap;

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
        exclusive,
        workload: Workload::Container(container(resource, image, network.as_ref())),
        network,
    }
}

/// `docker:busybox` is Docker's `busybox`.
pub fn docker_reference(image_uuid: &str) -> Option<&str> {
    image_uuid.strip_prefix("docker:").filter(|reference| !reference.is_empty())
}

fn container(resource: &Resource, image: String, network: Option<&ManagedAddress>) -> Container {
    let mut command: Vec<String> = resource.get::<String>(instance::COMMAND).into_iter().collect();
    command.extend(resource.get::<Vec<String>>(instance::COMMAND_ARGS).unwrap_or_default());
    let hostname = resource.get(instance::HOSTNAME).or_else(|| network.map(default_hostname));
    Container {
        name: resource.name.clone(),
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

/// As the contract has it: `ip-10-42-3-7`.
fn default_hostname(network: &ManagedAddress) -> String {
    format!("ip-{}", network.address.to_string().replace('.', "-"))
}
