//! What Docker asks and is answered: libnetwork's remote driver and IPAM protocol, as far as it concerns us. Unknown fields
//! are passed over, absent and null ones are empty.

use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// One network's addresses, in `NetworkDriver.CreateNetwork`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct IpamData {
    #[serde(deserialize_with = "or_default")]
    pub pool: String,
}

/// `NetworkDriver.CreateNetwork`
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CreateNetwork {
    #[serde(rename = "IPv4Data", deserialize_with = "or_default")]
    pub ipv4: Vec<IpamData>,
}

/// An endpoint's interface, in a request and in its answer.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Interface {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub address: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
}

/// `NetworkDriver.CreateEndpoint`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateEndpoint {
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub endpoint: String,
    #[serde(deserialize_with = "or_default")]
    pub interface: Interface,
    #[serde(deserialize_with = "or_default")]
    pub options: EndpointOptions,
}

/// What Docker says of a new endpoint besides.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EndpointOptions {
    /// What `-p` and `-P` ask for.
    #[serde(rename = "com.docker.network.portmap", deserialize_with = "or_default")]
    pub ports: Vec<serde_json::Value>,
}

impl EndpointOptions {
    pub fn publishes(&self) -> bool {
        !self.ports.is_empty()
    }
}

/// Calls about an endpoint that exists: Join, Leave, DeleteEndpoint, EndpointOperInfo.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct OfEndpoint {
    #[serde(rename = "EndpointID", deserialize_with = "or_default")]
    pub endpoint: String,
}

/// `IpamDriver.RequestPool`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RequestPool {
    #[serde(deserialize_with = "or_default")]
    pub pool: String,
    #[serde(deserialize_with = "or_default")]
    pub sub_pool: String,
    #[serde(deserialize_with = "or_default")]
    pub v6: bool,
}

/// `IpamDriver.RequestAddress`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RequestAddress {
    #[serde(deserialize_with = "or_default")]
    pub address: String,
    #[serde(deserialize_with = "or_default")]
    pub options: BTreeMap<String, String>,
}

/// `IpamDriver.ReleaseAddress`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ReleaseAddress {
    #[serde(deserialize_with = "or_default")]
    pub address: String,
}

/// `Stampede.Pin`
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Pin {
    #[serde(deserialize_with = "or_default")]
    pub address: String,
}

/// The answer to CreateEndpoint.
#[derive(Debug, Serialize)]
pub struct CreatedEndpoint {
    #[serde(rename = "Interface")]
    pub interface: Interface,
}

/// The answer to Join.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Joined {
    pub interface_name: InterfaceName,
    pub gateway: String,
    /// Docker is to add no bridge of its own for the way out.
    pub disable_gateway_service: bool,
}

/// Which link Docker moves into the container, and what it is called there.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InterfaceName {
    pub src_name: String,
    pub dst_prefix: &'static str,
}

/// A refusal.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Refused {
    pub err: String,
}
