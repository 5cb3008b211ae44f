//! The socket for ESP in UDP, which systemd keeps from one agent to the next.

use crate::host::config::ConfigError;
use crate::network::ipsec::EspInUdp;
use crate::systemd::keep;

/// What systemd keeps for the next agent.
const ESP_SOCKET: &str = "stampede-esp";

/// There is to be none. Where systemd is not to be reached, it keeps nothing either.
pub fn forget() {
    let _ = keep::forget(ESP_SOCKET);
}

/// The socket for ESP in UDP: the one that an agent before opened, so that nothing was lost meanwhile, else a new one.
pub fn open(port: u16, ipv4: bool) -> Result<EspInUdp, ConfigError> {
    let kept = keep::kept(ESP_SOCKET).unwrap_or_else(|error| {
        tracing::warn!(%error, "what systemd kept is no UDP socket");
        None
    });
    if let Some(kept) = kept.and_then(|socket| EspInUdp::inherited(socket, port, ipv4)) {
        return Ok(kept);
    }
    let opened = EspInUdp::open(port, ipv4).map_err(|error| {
        ConfigError::Wrong(format!(
            "network.esp_udp_port = {port}: this host cannot take in ESP in UDP there ({error}); is an IKE daemon or another \
             agent at that port?"
        ))
    })?;
    if let Err(error) = keep::keep(ESP_SOCKET, opened.socket()) {
        tracing::warn!(%error, "nobody keeps the socket for ESP in UDP: packets are lost while the agent starts again");
    }
    Ok(opened)
}
