//! Native containers: those on the managed network that somebody made with Docker alone (`docker run --net stampede`).
//!
//! Docker's word on them is the truth, and their row follows it: name, address and whether they run. They are shown, found by
//! name and led to as all others; nothing here starts them again.

use super::link;
use super::port::Protocol;
use super::{Resource, instance};
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// Who holds an address that a host keeps for Docker, in place of an instance (`address/<subnet>/<ip>`).
pub const HOLDER: &str = "docker";

/// One, as its host's Docker has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Native {
    /// Docker's id.
    pub external_id: String,
    pub name: String,
    /// As it was asked for: `busybox`, `nginx:1.27`.
    pub image: String,
    pub hostname: Option<String>,
    pub running: bool,
    /// When it was last started, in milliseconds; `None` where it never was.
    pub started_at: Option<i64>,
    pub exit_code: Option<i64>,
    /// On the managed network; while it runs.
    pub address: Option<Ipv4Addr>,
    /// Docker's own limits; 0 is none.
    pub memory_mb: u64,
    pub cpu_millis: u64,
    pub exposed: BTreeSet<(u16, Protocol)>,
}

impl Native {
    /// Whether it is on the network now.
    pub fn is_up(&self) -> bool {
        self.running && self.address.is_some()
    }

    /// What `instance` says of it is true from now on, but for its state.
    pub fn describe(&self, instance: &mut Resource) {
        let or_none = |number: u64| if number == 0 { Value::Null } else { Value::from(number) };
        instance.name = Some(self.name.clone());
        instance.set(instance::NATIVE, true);
        instance.set(instance::EXTERNAL_ID, self.external_id.as_str());
        instance.set(instance::HOSTNAME, self.hostname.clone());
        instance.set(instance::ADDRESS, self.address.filter(|_| self.running).map(|address| address.to_string()));
        instance.set(instance::MEMORY_LIMIT_MB, or_none(self.memory_mb));
        instance.set(instance::COMPUTE, or_none(self.cpu_millis));
        instance.set(instance::STARTED_AT, self.started_at);
        link::set_image_ports(instance, &self.exposed);
    }
}
