//! Docker's side of the managed network: one Docker network, served by our driver, in which every container has the
//! address that its claim holds.

use super::error::within;
use super::{Docker, LIMIT, LONG};
use crate::compute::Error;
use crate::resource::assignment::ManagedAddress;
use bollard::models::{
    ContainerInspectResponse, EndpointIpamConfig, EndpointSettings, Ipam, IpamConfig, NetworkConnectRequest,
    NetworkCreateRequest, NetworkDisconnectRequest, NetworkInspect,
};

/// The Docker network's name, and that of its driver.
pub const NETWORK: &str = "stampede";

/// What the Docker network has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ManagedNetwork {
    /// `10.42.0.0/16`
    pub subnet: String,
    pub gateway: std::net::Ipv4Addr,
}

impl Docker {
    /// Makes the Docker network unless it is there. The network driver must be listening.
    ///
    /// # Errors
    /// Where Docker or the driver refuses, or a network of that name is another's.
    pub async fn ensure_network(&self, wanted: &ManagedNetwork) -> Result<(), Error> {
        let action = "make the network";
        // Once more, should somebody else have made it in between.
        for _ in 0..2 {
            let client = self.client(action)?;
            match within("look at the network", LIMIT, client.inspect_network(NETWORK, None)).await {
                Ok(found) => return check(&found, wanted),
                Err(error) if error.is_absent() => {}
                Err(error) => return Err(error),
            }
            let request = NetworkCreateRequest {
                name: NETWORK.to_owned(),
                driver: Some(NETWORK.to_owned()),
                ipam: Some(Ipam {
                    driver: Some(NETWORK.to_owned()),
                    config: Some(vec![IpamConfig {
                        subnet: Some(wanted.subnet.clone()),
                        gateway: Some(wanted.gateway.to_string()),
                        ..IpamConfig::default()
                    }]),
                    options: None,
                }),
                ..NetworkCreateRequest::default()
            };
            match within(action, LONG, client.create_network(request)).await {
                Ok(_) => return Ok(()),
                Err(Error::Refused { status: Some(409), .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Network { name: NETWORK.to_owned(), reason: "it comes and goes".to_owned() })
    }
}

fn check(found: &NetworkInspect, wanted: &ManagedNetwork) -> Result<(), Error> {
    let wrong = |reason: String| Err(Error::Network { name: NETWORK.to_owned(), reason });
    let driver = found.driver.as_deref().unwrap_or_default();
    if driver != NETWORK {
        return wrong(format!("its driver is {driver}"));
    }
    let ipam = found.ipam.clone().unwrap_or_default();
    let subnets: Vec<_> = ipam.config.unwrap_or_default().into_iter().filter_map(|config| config.subnet).collect();
    if subnets != [wanted.subnet.clone()] {
        return wrong(format!("its subnet is {}, not {}", subnets.join(", "), wanted.subnet));
    }
    Ok(())
}

/// How a container stands in the network.
pub(super) fn endpoint(address: &ManagedAddress) -> EndpointSettings {
    EndpointSettings {
        ipam_config: Some(EndpointIpamConfig {
            ipv4_address: Some(address.address.to_string()),
            ..EndpointIpamConfig::default()
        }),
        // Docker before 25 does not listen to this; our driver gives the same.
        mac_address: Some(address.mac.clone()),
        ..EndpointSettings::default()
    }
}

/// Gives a container that does not run the address of its present claim, if it has another.
pub(super) async fn rejoin(
    docker: &Docker,
    found: &ContainerInspectResponse,
    external_id: &str,
    address: &ManagedAddress,
) -> Result<(), Error> {
    let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    let present = networks.and_then(|networks| networks.get(NETWORK));
    let configured = present.and_then(|endpoint| endpoint.ipam_config.as_ref()?.ipv4_address.clone());
    if configured == Some(address.address.to_string()) {
        return Ok(());
    }
    let action = "move the container to its address";
    let client = docker.client(action)?;
    if present.is_some() {
        let request = NetworkDisconnectRequest { container: external_id.to_owned(), force: Some(true) };
        within(action, LONG, client.disconnect_network(NETWORK, request)).await?;
    }
    let request = NetworkConnectRequest { container: external_id.to_owned(), endpoint_config: Some(endpoint(address)) };
    within(action, LONG, client.connect_network(NETWORK, request)).await
}
