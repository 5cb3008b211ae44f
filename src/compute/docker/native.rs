//! Docker's part in native containers: those on our network that carry no label of ours.

use super::error::within;
use super::events::follow_natives;
use super::{Docker, LABEL_INSTANCE, LIMIT, LONG, NETWORK, label, leaving, running, time};
use crate::compute::native::{Glimpse, Natives};
use crate::compute::{Driver, Error, Health};
use crate::resource::native::Native;
use crate::resource::port::Port;
use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{ListContainersOptionsBuilder, RestartContainerOptionsBuilder};
use futures::stream::BoxStream;
use std::collections::HashMap;
use std::time::Duration;

/// Docker counts processors in thousand-millionths.
const NANOS_PER_MILLI: i64 = 1_000_000;

fn glimpse(summary: ContainerSummary) -> Option<Glimpse> {
    let ours = summary.labels.as_ref().is_some_and(|labels| labels.contains_key(LABEL_INSTANCE));
    if ours {
        return None;
    }
    let state = summary.state.map(|state| state.to_string()).unwrap_or_default();
    let endpoint = summary.network_settings.and_then(|settings| settings.networks)?.remove(NETWORK)?;
    Some(Glimpse {
        external_id: summary.id?,
        counts: !matches!(state.as_str(), "created" | "removing" | "dead"),
        looks: format!("{:?} {state} {:?} {:?}", summary.names, endpoint.ip_address, endpoint.endpoint_id),
        endpoint: endpoint.endpoint_id.filter(|id| !id.is_empty()),
    })
}

fn native(found: ContainerInspectResponse) -> Option<Native> {
    if label(&found, LABEL_INSTANCE).is_some() || leaving(&found) {
        return None;
    }
    let running = running(&found);
    let endpoint = found.network_settings?.networks?.remove(NETWORK)?;
    let state = found.state.unwrap_or_default();
    let config = found.config.unwrap_or_default();
    let limits = found.host_config.unwrap_or_default();
    let amount = |number: Option<i64>, unit: i64| number.and_then(|number| u64::try_from(number / unit).ok());
    let exposed = config.exposed_ports.unwrap_or_default();
    let ports = exposed.iter().filter_map(|text| Port::parse(text).ok());
    Some(Native {
        external_id: found.id?,
        name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image: config.image.unwrap_or_default(),
        hostname: config.hostname.filter(|name| !name.is_empty()),
        running,
        started_at: state.started_at.as_deref().and_then(time::milliseconds),
        exit_code: state.exit_code.filter(|_| !running),
        address: endpoint.ip_address.and_then(|address| address.parse().ok()),
        memory_mb: amount(limits.memory, 1 << 20).unwrap_or(0),
        cpu_millis: amount(limits.nano_cpus, NANOS_PER_MILLI).unwrap_or(0),
        exposed: ports.map(|port| (port.private, port.protocol)).collect(),
    })
}

#[async_trait::async_trait]
impl Natives for Docker {
    async fn answers(&self) -> bool {
        self.health().await == Health::Answers
    }

    async fn natives(&self) -> Result<Vec<Glimpse>, Error> {
        let action = "list the containers of the network";
        let filters = HashMap::from([("network", vec![NETWORK])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let found = within(action, LIMIT, self.client(action)?.list_containers(Some(options))).await?;
        Ok(found.into_iter().filter_map(glimpse).collect())
    }

    async fn native(&self, external_id: &str) -> Result<Option<Native>, Error> {
        Ok(self.inspect(external_id).await?.and_then(native))
    }

    async fn start_native(&self, external_id: &str) -> Result<(), Error> {
        self.start(external_id).await
    }

    async fn restart_native(&self, external_id: &str, grace: Duration) -> Result<(), Error> {
        let action = "restart the container";
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = RestartContainerOptionsBuilder::new().t(seconds).build();
        within(action, grace + LONG, self.client(action)?.restart_container(external_id, Some(options))).await
    }

    async fn stop_native(&self, external_id: &str, grace: Duration) -> Result<(), Error> {
        self.stop(external_id, grace).await
    }

    async fn remove_native(&self, external_id: &str) -> Result<(), Error> {
        self.remove(external_id).await
    }

    fn native_events(&self) -> BoxStream<'static, ()> {
        follow_natives(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::net::Ipv4Addr;

    fn inspected(labels: Value, state: Value) -> ContainerInspectResponse {
        serde_json::from_value(json!({
            "Id": "c1", "Name": "/web",
            "State": state,
            "Config": {"Image": "nginx:1.27", "Hostname": "3f2a", "Labels": labels, "ExposedPorts": {"80/tcp": {}, "5000/sctp": {}}},
            "HostConfig": {"Memory": 64 << 20, "NanoCpus": 1_500_000_000_i64},
            "NetworkSettings": {"Networks": {"stampede": {"IPAddress": "10.42.7.9"}}},
        }))
        .unwrap()
    }

    #[test]
    fn as_docker_tells_it() {
        let running = json!({"Status": "running", "Running": true, "StartedAt": "2026-11-22T23:24:05Z"});
        let found = native(inspected(json!({}), running.clone())).unwrap();
        assert_eq!((found.name.as_str(), found.address), ("web", Some(Ipv4Addr::new(10, 42, 7, 9))));
        assert_eq!((found.memory_mb, found.cpu_millis, found.exposed.len()), (64, 1500, 1));
        assert_eq!(native(inspected(json!({"io.stampede.instance": "1i5"}), running.clone())), None, "it is ours");
        assert_eq!(native(inspected(json!({}), json!({"Status": "removing"}))), None);
        let mut elsewhere = inspected(json!({}), running);
        elsewhere.network_settings.as_mut().unwrap().networks.as_mut().unwrap().clear();
        assert_eq!(native(elsewhere), None);
    }

    #[test]
    fn a_change_shows_in_how_it_looks() {
        let listed = |name: &str, state: &str| {
            let text = json!({"Id": "c1", "Names": [name], "State": state,
                "NetworkSettings": {"Networks": {"stampede": {"IPAddress": "10.42.7.9", "EndpointID": "e"}}}});
            glimpse(serde_json::from_value(text).unwrap()).unwrap()
        };
        assert_eq!(listed("/a", "running"), listed("/a", "running"));
        assert_ne!(listed("/a", "running"), listed("/b", "running"));
        assert_ne!(listed("/a", "running"), listed("/a", "exited"));
        assert!(!listed("/a", "created").counts);
    }
}
