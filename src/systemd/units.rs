//! Systemd over D-Bus.
//!
//! One task owns the connection: it subscribes, listens, hands signals round, and when the bus is lost connects anew
//! with back-off and says [`Change::Resync`]. Calls go over whatever connection there is; any number at once.
//!
//! A job's end comes as a signal that systemd may send before it answers `StartUnit`, so a caller listens first and asks
//! then. Signals can be lost around a reload of systemd: while a caller waits it also looks at the unit every few
//! seconds, and what it returns is always read from the unit.

use super::bus::{self, LIMIT, call, within};
use super::{Change, Error, Supervision, UnitState, instance_of, slice_name, unit_name};
use crate::environment::{Backoff, Environment};
use futures::stream::{BoxStream, StreamExt};
use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use zbus::message::Type;
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath};

/// Signals that may wait for a slow listener; beyond it, it looks at everything again.
const QUEUED: usize = 4096;
/// How often a waiting caller looks for itself, should the signal have been lost.
const LOOK: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
enum Signal {
    /// A job is over.
    Job(String),
    Instance(String),
    Resync,
}

/// The instances' units.
#[derive(Debug)]
pub struct Units {
    connection: watch::Receiver<Option<Connection>>,
    signals: broadcast::Sender<Signal>,
    _task: DropGuard,
}

impl Units {
    /// Connects, and stays connected for as long as this lives.
    ///
    /// # Errors
    /// Where the system bus or systemd cannot be reached now.
    pub async fn connect(environment: &Environment) -> Result<Self, Error> {
        let (signals, _) = broadcast::channel(QUEUED);
        let link = Link::open().await?;
        let (publish, connection) = watch::channel(Some(link.connection.clone()));
        let stop = CancellationToken::new();
        let keeper = keep(link, publish, signals.clone(), environment.clone());
        tokio::spawn({
            let stop = stop.clone();
            async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = keeper => {}
                }
            }
        });
        Ok(Self { connection, signals, _task: stop.drop_guard() })
    }

    /// The connection there is, or the next one if it comes soon.
    pub async fn connection(&self) -> Result<Connection, Error> {
        let mut connection = self.connection.clone();
        let found = tokio::time::timeout(LIMIT, connection.wait_for(Option::is_some)).await;
        match found {
            Ok(Ok(found)) => found.clone().ok_or(Error::Lost),
            _ => Err(Error::Lost),
        }
    }

    /// Asks for a job and waits until it is over.
    async fn job(&self, action: Job, id: &str, limit: Duration) -> Result<UnitState, Error> {
        let unit = unit_name(id);
        let connection = self.connection().await?;
        let mut signals = self.signals.subscribe();
        let manager = bus::manager(&connection).await.map_err(|source| call(action.name(), &unit, source))?;
        let asked = within(action.name(), LIMIT, async {
            let mode = "replace".to_owned();
            match action {
                Job::Start => manager.start_unit(unit.clone(), mode).await,
                Job::Stop => manager.stop_unit(unit.clone(), mode).await,
            }
            .map_err(|source| call(action.name(), &unit, source))
        })
        .await;
        let job = match asked {
            Ok(job) => job,
            // There is nothing to stop.
            Err(Error::Call { source, .. }) if action == Job::Stop && bus::is_no_such_unit(&source) => {
                return Ok(UnitState::NotLoaded);
            }
            Err(error) => return Err(error),
        };
        let over = async {
            loop {
                match tokio::time::timeout(LOOK, signals.recv()).await {
                    Ok(Ok(Signal::Job(path))) if path == job.as_str() => break,
                    Ok(Ok(Signal::Job(_) | Signal::Instance(_))) => {}
                    // The signal may be lost: see whether the job still is.
                    Ok(Ok(Signal::Resync) | Err(_)) | Err(_) => {
                        if !self.job_exists(&job).await {
                            break;
                        }
                    }
                }
            }
        };
        // Past the limit the state still tells what is going on.
        let _ = tokio::time::timeout(limit, over).await;
        self.state(id).await
    }

    /// Whether systemd still knows a job; where that cannot be told, it does.
    async fn job_exists(&self, job: &OwnedObjectPath) -> bool {
        let Some(number) = job.as_str().rsplit('/').next().and_then(|number| number.parse().ok()) else { return false };
        let Ok(connection) = self.connection().await else { return true };
        let Ok(manager) = bus::manager(&connection).await else { return true };
        match tokio::time::timeout(LIMIT, manager.get_job(number)).await {
            Ok(Ok(_)) | Err(_) => true,
            Ok(Err(zbus::Error::MethodError(name, ..))) => name.as_str() != "org.freedesktop.systemd1.NoSuchJob",
            Ok(Err(_)) => true,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Job {
    Start,
    Stop,
}

impl Job {
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
        }
    }
}

#[async_trait::async_trait]
impl Supervision for Units {
    async fn start(&self, id: &str, limit: Duration) -> Result<UnitState, Error> {
        self.job(Job::Start, id, limit).await
    }

    async fn stop(&self, id: &str, limit: Duration) -> Result<UnitState, Error> {
        self.job(Job::Stop, id, limit).await
    }

    async fn state(&self, id: &str) -> Result<UnitState, Error> {
        bus::instance_state(&self.connection().await?, id).await
    }

    async fn list(&self) -> Result<BTreeMap<String, UnitState>, Error> {
        let connection = self.connection().await?;
        let failed = |source| call("list", "instances' units", source);
        let listed = within("list units", LIMIT, async {
            let manager = bus::manager(&connection).await.map_err(failed)?;
            manager.list_units_by_patterns(Vec::new(), vec![unit_name("*")]).await.map_err(failed)
        })
        .await?;
        let mut found = BTreeMap::new();
        for (name, _, load, active, ..) in listed {
            let Some(id) = instance_of(&name) else { continue };
            let state = match bus::state_of(&load, &active, "", None) {
                UnitState::Failed { .. } => self.state(id).await?,
                state => state,
            };
            found.insert(id.to_owned(), state);
        }
        Ok(found)
    }

    async fn forget(&self, id: &str) -> Result<(), Error> {
        let (unit, slice) = (unit_name(id), slice_name(id));
        let connection = self.connection().await?;
        let failed = |source| call("reset", &unit, source);
        within("reset a unit", LIMIT, async {
            let manager = bus::manager(&connection).await.map_err(failed)?;
            match manager.reset_failed_unit(unit.clone()).await {
                Err(error) if !bus::is_no_such_unit(&error) => return Err(failed(error)),
                _ => {}
            }
            // Systemd made it for the unit and keeps it; asked about one that it has not, it would load it.
            match manager.get_unit(slice.clone()).await {
                Ok(_) => manager.stop_unit(slice.clone(), "replace".to_owned()).await.map(drop).or_else(|error| {
                    if bus::is_no_such_unit(&error) { Ok(()) } else { Err(call("stop", &slice, error)) }
                }),
                Err(error) if bus::is_no_such_unit(&error) => Ok(()),
                Err(error) => Err(call("look for", &slice, error)),
            }
        })
        .await
    }

    fn changes(&self) -> BoxStream<'static, Change> {
        futures::stream::unfold(self.signals.subscribe(), |mut signals| async move {
            loop {
                let change = match signals.recv().await {
                    Ok(Signal::Instance(id)) => Change::Instance(id),
                    Ok(Signal::Job(_)) => continue,
                    Ok(Signal::Resync) | Err(broadcast::error::RecvError::Lagged(_)) => Change::Resync,
                    Err(broadcast::error::RecvError::Closed) => return None,
                };
                return Some((change, signals));
            }
        })
        .boxed()
    }
}

/// A connection with its signals.
struct Link {
    connection: Connection,
    manager: MessageStream,
    properties: MessageStream,
}

impl Link {
    async fn open() -> Result<Self, Error> {
        let connection = bus::connect(LIMIT).await?;
        let failed = |source| call("subscribe to", "systemd", source);
        within("subscribe to systemd", LIMIT, async {
            let rule = || MatchRule::builder().msg_type(Type::Signal).sender("org.freedesktop.systemd1");
            let of_manager = rule().interface("org.freedesktop.systemd1.Manager").build().map_err(failed)?;
            let of_units = rule()
                .interface("org.freedesktop.DBus.Properties")
                .member("PropertiesChanged")
                .path_namespace("/org/freedesktop/systemd1/unit")
                .build()
                .map_err(failed)?;
            let queued = NonZeroUsize::new(QUEUED);
            let manager = MessageStream::for_match_rule(of_manager, &connection, queued).await.map_err(failed)?;
            let properties = MessageStream::for_match_rule(of_units, &connection, queued).await.map_err(failed)?;
            subscribe(&connection).await.map_err(failed)?;
            Ok(Self { connection: connection.clone(), manager, properties })
        })
        .await
    }
}

/// Systemd sends signals only once someone has asked for them; asking twice is no harm.
async fn subscribe(connection: &Connection) -> zbus::Result<()> {
    match bus::manager(connection).await?.subscribe().await {
        Err(zbus::Error::MethodError(name, ..)) if name.as_str() == "org.freedesktop.systemd1.AlreadySubscribed" => {
            Ok(())
        }
        other => other,
    }
}

/// Listens for ever, over one connection after the other.
async fn keep(
    mut link: Link,
    publish: watch::Sender<Option<Connection>>,
    signals: broadcast::Sender<Signal>,
    environment: Environment,
) {
    let mut backoff = Backoff::new(&environment, Duration::from_millis(100), Duration::from_secs(10));
    loop {
        listen(&mut link, &signals).await;
        tracing::warn!("the system bus is lost; connecting again");
        publish.send_replace(None);
        link = loop {
            backoff.wait().await;
            match Link::open().await {
                Ok(link) => break link,
                Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "systemd cannot be reached"),
            }
        };
        tracing::info!("connected to systemd again");
        publish.send_replace(Some(link.connection.clone()));
        // Nobody may be listening; then nobody missed anything.
        let _ = signals.send(Signal::Resync);
        backoff.reset();
    }
}

/// Hands signals round until the connection ends.
async fn listen(link: &mut Link, signals: &broadcast::Sender<Signal>) {
    loop {
        let message = tokio::select! {
            message = link.manager.next() => message,
            message = link.properties.next() => message,
            () = link.connection.closed() => None,
        };
        let Some(Ok(message)) = message else { return };
        let header = message.header();
        let (Some(member), Some(path)) = (header.member(), header.path()) else { continue };
        match member.as_str() {
            "JobRemoved" => {
                let body = message.body();
                if let Ok((_, job, unit, _)) = body.deserialize::<(u32, OwnedObjectPath, String, String)>() {
                    // Nobody may be listening to either.
                    let _ = signals.send(Signal::Job(job.as_str().to_owned()));
                    if let Some(id) = instance_of(&unit) {
                        let _ = signals.send(Signal::Instance(id.to_owned()));
                    }
                }
            }
            "UnitRemoved" => {
                let body = message.body();
                if let Ok((unit, _)) = body.deserialize::<(String, OwnedObjectPath)>()
                    && let Some(id) = instance_of(&unit)
                {
                    let _ = signals.send(Signal::Instance(id.to_owned()));
                }
            }
            "PropertiesChanged" => {
                if let Some(id) = bus::unit_at(path.as_str()).as_deref().and_then(instance_of) {
                    let _ = signals.send(Signal::Instance(id.to_owned()));
                }
            }
            // Signals sent while systemd reloads its units are lost.
            "Reloading" if message.body().deserialize::<bool>().is_ok_and(|active| !active) => {
                let again = within("subscribe to systemd", LIMIT, async {
                    subscribe(&link.connection).await.map_err(|source| call("subscribe to", "systemd", source))
                });
                if again.await.is_err() {
                    return;
                }
                let _ = signals.send(Signal::Resync);
            }
            _ => {}
        }
    }
}
