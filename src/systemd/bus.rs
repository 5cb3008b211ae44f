//! Questions to systemd's manager, one call each, with a limit each. Nothing is cached: whoever asks wants it as it is.

use super::{Error, UnitState, unit_name};
use std::time::Duration;
use zbus::Connection;
use zbus::proxy::CacheProperties;
use zbus_systemd::systemd1::{ManagerProxy, ServiceProxy, UnitProxy};

/// No answer from systemd takes longer than this, or it is taken for gone.
pub const LIMIT: Duration = Duration::from_secs(10);

/// A connection to the system bus.
///
/// # Errors
/// Where there is none, or it does not answer within `limit`.
pub async fn connect(limit: Duration) -> Result<Connection, Error> {
    within("connect to the system bus", limit, async {
        Connection::system().await.map_err(|source| Error::Connect { source })
    })
    .await
}

/// Whether the machine is going down: a shutdown, a reboot, a halt is under way.
///
/// # Errors
/// Where systemd does not answer.
pub async fn machine_stopping(connection: &Connection, limit: Duration) -> Result<bool, Error> {
    let failed = |source| Error::Call { action: "ask for the state of", unit: "the machine".to_owned(), source };
    within("ask for the machine's state", limit, async {
        Ok(manager(connection).await.map_err(failed)?.system_state().await.map_err(failed)? == "stopping")
    })
    .await
}

/// The load state and active state of any unit (`docker.service`).
///
/// # Errors
/// Where systemd does not answer.
pub async fn unit_states(connection: &Connection, unit: &str, limit: Duration) -> Result<(String, String), Error> {
    let failed = |source| call("ask for the state of", unit, source);
    within("ask for a unit's state", limit, async {
        let proxy = unit_proxy(connection, unit).await.map_err(failed)?;
        let (load, active) = futures::join!(proxy.load_state(), proxy.active_state());
        Ok((load.map_err(failed)?, active.map_err(failed)?))
    })
    .await
}

/// The state of an instance's unit.
pub(super) async fn instance_state(connection: &Connection, id: &str) -> Result<UnitState, Error> {
    let unit = unit_name(id);
    let failed = |source| call("ask for the state of", &unit, source);
    within("ask for a unit's state", LIMIT, async {
        // A look at a unit's properties makes systemd load it, tell everybody, and drop it again: whoever looks because he
        // was told would look for ever. So only at what is loaded.
        match manager(connection).await.map_err(failed)?.get_unit(unit.clone()).await {
            Ok(_) => {}
            Err(error) if is_no_such_unit(&error) => return Ok(UnitState::NotLoaded),
            Err(error) => return Err(failed(error)),
        }
        let proxy = unit_proxy(connection, &unit).await.map_err(failed)?;
        let service = ServiceProxy::builder(connection)
            .path(object_path(&unit))
            .cache_properties(CacheProperties::No)
            .build()
            .await
            .map_err(failed)?;
        let (load, active, result, code) =
            futures::join!(proxy.load_state(), proxy.active_state(), service.result(), service.exec_main_status());
        Ok(state_of(
            &load.map_err(failed)?,
            &active.map_err(failed)?,
            &result.map_err(failed)?,
            Some(code.map_err(failed)?),
        ))
    })
    .await
}

pub(super) fn is_no_such_unit(error: &zbus::Error) -> bool {
    matches!(error, zbus::Error::MethodError(name, ..) if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit")
}

/// Systemd's words as a state.
pub(super) fn state_of(load: &str, active: &str, result: &str, exit_code: Option<i32>) -> UnitState {
    match active {
        "active" | "reloading" | "refreshing" => UnitState::Active,
        "activating" | "maintenance" => UnitState::Activating,
        "deactivating" => UnitState::Deactivating,
        "failed" => UnitState::Failed { result: result.to_owned(), exit_code },
        _ if load == "not-found" => UnitState::NotLoaded,
        _ => UnitState::Inactive { exit_code },
    }
}

pub(super) async fn manager(connection: &Connection) -> zbus::Result<ManagerProxy<'static>> {
    ManagerProxy::builder(connection).cache_properties(CacheProperties::No).build().await
}

async fn unit_proxy(connection: &Connection, unit: &str) -> zbus::Result<UnitProxy<'static>> {
    UnitProxy::builder(connection).path(object_path(unit)).cache_properties(CacheProperties::No).build().await
}

pub(super) fn call(action: &'static str, unit: &str, source: zbus::Error) -> Error {
    Error::Call { action, unit: unit.to_owned(), source }
}

pub(super) async fn within<T>(
    action: &'static str,
    limit: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    tokio::time::timeout(limit, work).await.unwrap_or(Err(Error::Late { action, limit }))
}

/// Where a unit's object is: its name with all but letters and digits as `_xx`, a digit in front too.
pub(super) fn object_path(unit: &str) -> String {
    let mut path = "/org/freedesktop/systemd1/unit/".to_owned();
    for (at, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    path
}

/// The unit of an object; `None` where the path is no unit's.
pub(super) fn unit_at(path: &str) -> Option<String> {
    let label = path.strip_prefix("/org/freedesktop/systemd1/unit/")?;
    let mut name = Vec::with_capacity(label.len());
    let mut bytes = label.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'_' {
            let digits = [bytes.next()?, bytes.next()?];
            name.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            name.push(byte);
        }
    }
    String::from_utf8(name).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_unit_s_object_is_where_systemd_has_it() {
        let path = "/org/freedesktop/systemd1/unit/stampede_2dinstance_401i54_2eservice";
        assert_eq!(object_path("stampede-instance@1i54.service"), path);
        assert_eq!(unit_at(path).as_deref(), Some("stampede-instance@1i54.service"));
        assert_eq!(unit_at("/org/freedesktop/systemd1/unit/a_2"), None);
        assert_eq!(unit_at("/org/freedesktop/systemd1/job/5"), None);
    }

    proptest! {
        #[test]
        fn a_path_tells_its_unit(name in "[ -~]{1,40}") {
            prop_assert_eq!(unit_at(&object_path(&name)), Some(name));
        }
    }
}
