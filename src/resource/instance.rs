//! Fields of instances that agents work with, by name: read and written with [`super::Resource::get`] and `set`.

use super::Resource;
use super::assignment::{Desired, OnEnd, OnHostLoss};

/// Base type: the one under which containers and virtual machines are stored.
pub const BASE: &str = "instance";

/// The network that an instance is on where nothing else was chosen, and its addresses: seeded, so that their numbers are known.
pub const MANAGED_NETWORK: u64 = 2;
pub const MANAGED_SUBNET: u64 = 1;

pub const HOST: &str = "hostId";
/// Name of the host that holds the claim; kept over stop and start.
pub const HOST_NAME: &str = "hostName";
/// What it should be doing: `running`, `stopped`, `purged`.
pub const DESIRED: &str = "desired";
/// Grows with each restart that is asked for.
pub const RESTARTS: &str = "restarts";
pub const IMAGE_UUID: &str = "imageUuid";
pub const IMAGE_ID: &str = "imageId";
pub const COMMAND: &str = "command";
pub const COMMAND_ARGS: &str = "commandArgs";
pub const ENVIRONMENT: &str = "environment";
pub const DIRECTORY: &str = "directory";
pub const HOSTNAME: &str = "hostname";
pub const USER: &str = "user";
/// What it is told of by its metadata, as it is.
pub const USERDATA: &str = "userdata";
/// SSH keys that it is told of, by their numbers.
pub const CREDENTIALS: &str = "credentialIds";
pub const MOST_CREDENTIALS: usize = 32;
pub const PRIVILEGED: &str = "privileged";
pub const VOLUMES: &str = "dockerVolumes";
/// What placement counts with; no limit by itself.
pub const MEMORY_MB: &str = "memoryMb";
/// A limit that its host enforces; unlike the above, only where it was asked for.
pub const MEMORY_LIMIT_MB: &str = "memoryLimitMb";
/// What placement counts with, where it is not the limit.
pub const MEMORY_RESERVATION_MB: &str = "memoryReservationMb";
/// Thousandths of a processor that placement counts with.
pub const COMPUTE: &str = "compute";
/// Disk that placement counts with.
pub const DISK_MB: &str = "diskMb";
/// Whether what its image exposes is published.
pub const PUBLISH_ALL: &str = "publishAllPorts";
pub const NETWORK_IDS: &str = "networkIds";
pub const REQUESTED_HOST: &str = "requestedHostId";
pub const VALID_HOSTS: &str = "validHostIds";
pub const TRIGGERED_STOP: &str = "instanceTriggeredStop";
/// `stay` or `move`.
pub const ON_HOST_LOSS: &str = "onHostLoss";
/// How many seconds a host may be gone before what moves is moved.
pub const HOST_LOSS_GRACE: &str = "hostLossGraceSeconds";
pub const START_ON_CREATE: &str = "startOnCreate";
pub const ADDRESS: &str = "primaryIpAddress";
/// The floating address that leads to it.
pub const PUBLIC_ADDRESS: &str = "primaryAssociatedIpAddress";
pub const FIRST_RUNNING: &str = "firstRunning";
/// When it was last started, in milliseconds.
pub const STARTED_AT: &str = "startedAt";
/// That Docker made it for somebody, and no claim: it is shown and led to, and nothing here starts it again.
pub const NATIVE: &str = "nativeContainer";
/// Docker's id of the container, once there is one.
pub const EXTERNAL_ID: &str = "externalId";

/// What it should be doing.
pub fn desired(instance: &Resource) -> Desired {
    instance.get(DESIRED).unwrap_or(Desired::Stopped)
}

/// Whether it moves when its host is gone, and must therefore never run twice.
pub fn is_exclusive(instance: &Resource) -> bool {
    instance.get::<OnHostLoss>(ON_HOST_LOSS) == Some(OnHostLoss::Move)
}

/// The kind of a virtual machine.
pub const MACHINE: &str = "virtualMachine";
/// Processors of a virtual machine.
pub const VCPU: &str = "vcpu";
/// Of a virtual machine: its image's address and checksum, as they were when it was made.
pub const MACHINE_IMAGE: &str = "machineImage";

/// Whether it is a virtual machine.
pub fn is_machine(instance: &Resource) -> bool {
    instance.kind == MACHINE
}

/// Whether it is a container that somebody made with Docker alone.
pub fn is_native(instance: &Resource) -> bool {
    instance.get(NATIVE).unwrap_or(false)
}

/// What follows when it ends by itself.
pub fn on_end(instance: &Resource) -> OnEnd {
    instance.get(TRIGGERED_STOP).unwrap_or_default()
}
