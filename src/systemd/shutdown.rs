//! Being told by logind that the machine is about to go down, and holding that up for a while.

use super::Error;
use super::bus::{LIMIT, call, within};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::time::Duration;
use zbus::Connection;
use zbus::proxy::CacheProperties;
use zbus_systemd::login1::ManagerProxy;

const LOGIND: &str = "systemd-logind.service";

/// As long as it is there, a shutdown waits, up to logind's limit.
#[derive(Debug)]
pub struct Delay {
    _held: zbus::OwnedFd,
    /// How long logind lets itself be delayed.
    pub limit: Duration,
}

/// Has a shutdown that begins from now on wait.
///
/// # Errors
/// Where logind is not there, or a shutdown is under way already.
pub async fn delay(connection: &Connection) -> Result<Delay, Error> {
    let failed = |source| call("delay a shutdown by", LOGIND, source);
    within("delay a shutdown", LIMIT, async {
        let manager = manager(connection).await.map_err(failed)?;
        let words = ["shutdown", "stampede", "moves instances to other hosts", "delay"].map(str::to_owned);
        let [what, who, why, mode] = words;
        let held = manager.inhibit(what, who, why, mode).await.map_err(failed)?;
        let limit = manager.inhibit_delay_max_u_sec().await.map_err(failed)?;
        Ok(Delay { _held: held, limit: Duration::from_micros(limit) })
    })
    .await
}

/// True when the machine is about to go down, false where that was called off. Ends when the bus is lost.
///
/// # Errors
/// Where the bus does not answer.
pub async fn announcements(connection: &Connection) -> Result<BoxStream<'static, bool>, Error> {
    let failed = |source| call("listen to", LOGIND, source);
    within("listen to logind", LIMIT, async {
        let manager = manager(connection).await.map_err(failed)?;
        let signals = manager.receive_prepare_for_shutdown().await.map_err(failed)?;
        Ok(signals.filter_map(async |signal| signal.args().ok().map(|args| args.start)).boxed())
    })
    .await
}

async fn manager(connection: &Connection) -> zbus::Result<ManagerProxy<'static>> {
    ManagerProxy::builder(connection).cache_properties(CacheProperties::No).build().await
}
