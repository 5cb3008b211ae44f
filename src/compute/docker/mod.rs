//! The driver for containers: Docker over its socket.
//!
//! Containers are found by label, never by name: `io.stampede.instance` and `io.stampede.uuid` say whose one is,
//! `io.stampede.token` and `io.stampede.generation` from what it was made. Docker's restart policy is never used; who
//! starts what again is the supervisor's business alone.
//!
//! Requests carry no API version, so Docker 20.10 and its successors each speak their own; what is sent is what all of
//! them know. Each call has a limit, and each error says whether Docker is gone or has refused.

mod daemon;
mod error;
mod events;
mod exec;
mod figures;
mod native;
mod network;
mod output;
mod pull;
mod request;
mod streams;
mod time;

pub use network::{ManagedNetwork, NETWORK};

use super::{Created, Daemon, Driver, DriverInfo, End, Error, Event, Health, LogLine, Observed};
use crate::environment::{Backoff, Environment};
use crate::resource::assignment::{Assignment, Container, Token, Workload};
use crate::resource::port::{self, Protocol};
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
    StopContainerOptionsBuilder, WaitContainerOptionsBuilder,
};
use error::{gone, refused, within};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// Where Docker listens.
pub const SOCKET: &str = "/run/docker.sock";

const LABEL_INSTANCE: &str = "io.stampede.instance";
const LABEL_UUID: &str = "io.stampede.uuid";
const LABEL_TOKEN: &str = "io.stampede.token";
const LABEL_GENERATION: &str = "io.stampede.generation";

/// For questions and small changes.
const LIMIT: Duration = Duration::from_secs(30);
/// For what waits for disks, networks and other containers' starts.
const LONG: Duration = Duration::from_secs(120);
/// The client's own limit to an answer's beginning; above all of ours.
const CLIENT_LIMIT: u64 = 600;

/// Docker on this host.
#[derive(Clone, Debug)]
pub struct Docker(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: PathBuf,
    environment: Environment,
    client: OnceLock<bollard::Docker>,
    daemon: daemon::Daemon,
}

impl Docker {
    /// Nothing is asked yet: Docker need not be there.
    ///
    /// `runtime` (`/run/stampede`) is where what is known of the daemon is kept for all who ask on this boot.
    pub fn new(environment: &Environment, socket: &Path, runtime: &Path) -> Self {
        Self(Arc::new(Inner {
            socket: socket.to_owned(),
            environment: environment.clone(),
            client: OnceLock::new(),
            daemon: daemon::Daemon::new(socket, runtime),
        }))
    }

    fn client(&self, action: &'static str) -> Result<&bollard::Docker, Error> {
        if let Some(client) = self.0.client.get() {
            return Ok(client);
        }
        // Fails where the socket is not there yet.
        let made = bollard::Docker::connect_with_unix(
            &self.0.socket.to_string_lossy(),
            CLIENT_LIMIT,
            bollard::API_DEFAULT_VERSION,
        )
        .map_err(|source| gone(action, source))?;
        Ok(self.0.client.get_or_init(|| made))
    }

    async fn inspect(&self, external_id: &str) -> Result<Option<ContainerInspectResponse>, Error> {
        let action = "look at the container";
        let client = self.client(action)?;
        match within(action, LIMIT, client.inspect_container(external_id, None)).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All containers with a label, as they are.
    async fn with_label(&self, label: String) -> Result<Vec<ContainerInspectResponse>, Error> {
        let action = "list containers";
        let filters = HashMap::from([("label", vec![label])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let found = within(action, LIMIT, self.client(action)?.list_containers(Some(options))).await?;
        // One may go while we look.
        futures::stream::iter(found.into_iter().filter_map(|one| one.id))
            .map(|id| async move { self.inspect(&id).await })
            .buffered(8)
            .try_filter_map(|found| async move { Ok(found) })
            .try_collect()
            .await
    }

    /// The container of an instance; of several, the one that runs.
    async fn find(&self, id: &str, uuid: Option<&str>) -> Result<Option<ContainerInspectResponse>, Error> {
        let mut found = self.with_label(format!("{LABEL_INSTANCE}={id}")).await?;
        found.retain(|one| uuid.is_none_or(|uuid| label(one, LABEL_UUID) == Some(uuid)) && !leaving(one));
        found.sort_by_key(|one| !running(one));
        Ok(found.into_iter().next())
    }

    /// Takes over a container that is there; `None` where it is better made anew.
    async fn adopt(&self, assignment: &Assignment, found: &ContainerInspectResponse) -> Result<Option<Created>, Error> {
        let external_id = found.id.clone().unwrap_or_default();
        let running = running(found);
        if !running {
            let observed = observed(found);
            // Made from an older word and never started: nothing is lost with it.
            if observed
                .as_ref()
                .is_none_or(|it| it.started_at.is_none() && it.generation != Some(assignment.generation))
            {
                self.remove(&external_id).await?;
                return Ok(None);
            }
            if let Some(address) = &assignment.network {
                network::rejoin(self, found, &external_id, address).await?;
            }
        }
        Ok(Some(Created { external_id, adopted: true, running }))
    }
}

#[async_trait::async_trait]
impl Driver for Docker {
    async fn probe(&self) -> Result<DriverInfo, Error> {
        daemon::probe(self).await
    }

    async fn ensure_created(&self, assignment: &Assignment) -> Result<Created, Error> {
        let action = "create the container";
        let container = container(assignment, action)?;
        let slices = self.0.daemon.facts(self).await?.slices;
        let name = request::name(&assignment.id, container);
        // Some rounds, for one with our name that is just being made by another of us, or removed.
        let mut backoff = Backoff::new(&self.0.environment, Duration::from_millis(10), Duration::from_millis(500));
        for round in 0..20 {
            if let Some(found) = self.find(&assignment.id, Some(&assignment.uuid)).await?
                && let Some(created) = self.adopt(assignment, &found).await?
            {
                return Ok(created);
            }
            let options = CreateContainerOptionsBuilder::new().name(&name).build();
            let body = request::body(assignment, container, slices);
            match within(action, LONG, self.client(action)?.create_container(Some(options), body)).await {
                Ok(made) => {
                    for warning in made.warnings {
                        tracing::warn!(instance = assignment.id, warning, "Docker made the container, but");
                    }
                    return Ok(Created { external_id: made.id, adopted: false, running: false });
                }
                Err(error) if error.is_absent() => {
                    let client = self.client(action)?;
                    return match within("look for the image", LIMIT, client.inspect_image(&container.image)).await {
                        Err(absent) if absent.is_absent() => Err(Error::ImageAbsent(container.image.clone())),
                        _ => Err(error),
                    };
                }
                Err(error @ Error::Refused { status: Some(409), .. }) => match self.inspect(&name).await? {
                    Some(other) if label(&other, LABEL_UUID) != Some(&assignment.uuid) => {
                        return Err(Error::Foreign { daemon: Daemon::Docker, name });
                    }
                    _ if round == 19 => return Err(error),
                    _ => backoff.wait().await,
                },
                Err(error) => return Err(error),
            }
        }
        Err(Error::Foreign { daemon: Daemon::Docker, name })
    }

    async fn start(&self, external_id: &str) -> Result<(), Error> {
        let action = "start the container";
        within(action, LONG, self.client(action)?.start_container(external_id, None)).await
    }

    async fn wait(&self, external_id: &str) -> Result<End, Error> {
        let action = "wait for the container";
        let options = WaitContainerOptionsBuilder::new().condition("not-running").build();
        let mut answers = std::pin::pin!(self.client(action)?.wait_container(external_id, Some(options)));
        // Without a limit: this is how long it runs.
        match answers.next().await {
            Some(Ok(answer)) => Ok(End { exit_code: Some(answer.status_code), ..End::default() }),
            // What this client calls any exit code but 0.
            Some(Err(bollard::errors::Error::DockerContainerWaitError { error, code })) => {
                Ok(End { exit_code: Some(code), message: (!error.is_empty()).then_some(error), oom: false })
            }
            Some(Err(source)) => match refused(action, source) {
                error if error.is_absent() => Ok(End::removed()),
                error => Err(error),
            },
            None => Err(gone(action, std::io::Error::from(std::io::ErrorKind::UnexpectedEof))),
        }
    }

    async fn stop(&self, external_id: &str, grace: Duration) -> Result<(), Error> {
        let action = "stop the container";
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::new().t(seconds).build();
        let stopped =
            within(action, grace + LIMIT, self.client(action)?.stop_container(external_id, Some(options))).await;
        absent_is_fine(stopped)
    }

    async fn remove(&self, external_id: &str) -> Result<(), Error> {
        let action = "remove the container";
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match within(action, LONG, self.client(action)?.remove_container(external_id, Some(options))).await {
            // "removal of container … is already in progress"
            Err(Error::Refused { status: Some(409), .. }) => Ok(()),
            other => absent_is_fine(other),
        }
    }

    async fn observe(&self, id: &str) -> Result<Option<Observed>, Error> {
        Ok(self.find(id, None).await?.as_ref().and_then(observed))
    }

    async fn look(&self, external_id: &str) -> Result<Option<Observed>, Error> {
        Ok(self.inspect(external_id).await?.filter(|found| !leaving(found)).as_ref().and_then(observed))
    }

    async fn list(&self) -> Result<Vec<Observed>, Error> {
        let mut found = self.with_label(LABEL_INSTANCE.to_owned()).await?;
        found.retain(|one| !leaving(one));
        Ok(found.iter().filter_map(observed).collect())
    }

    async fn exposed(&self, external_id: &str) -> Result<BTreeSet<(u16, Protocol)>, Error> {
        let exposed =
            self.inspect(external_id).await?.and_then(|found| found.config?.exposed_ports).unwrap_or_default();
        // Of other protocols (sctp) none can be published.
        let ports = exposed.iter().filter_map(|text| port::Port::parse(text).ok());
        Ok(ports.map(|port| (port.private, port.protocol)).collect())
    }

    async fn pull(
        &self,
        assignment: &Assignment,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<(), Error> {
        pull::pull(self, &container(assignment, "pull the image")?.image, progress).await
    }

    fn logs(&self, external_id: &str, since: &str) -> BoxStream<'static, Result<LogLine, Error>> {
        output::follow(self.clone(), external_id.to_owned(), since)
    }

    fn events(&self) -> BoxStream<'static, Event> {
        events::follow(self.clone())
    }

    async fn health(&self) -> Health {
        self.0.daemon.health(self).await
    }

    fn in_slices(&self) -> bool {
        self.0.daemon.kept().is_some_and(|facts| facts.slices)
    }

    async fn outlived(&self, observed: &Observed) -> Result<Option<bool>, Error> {
        let facts = self.0.daemon.facts(self).await?;
        if facts.live_restore {
            return Ok(Some(false));
        }
        Ok(facts.started_at.zip(observed.started_at).map(|(daemon, container)| daemon > container))
    }
}

fn container<'a>(assignment: &'a Assignment, action: &'static str) -> Result<&'a Container, Error> {
    match &assignment.workload {
        Workload::Container(container) => Ok(container),
        Workload::VirtualMachine(_) => {
            Err(Error::Refused { action, status: None, message: "Docker runs no virtual machines".to_owned() })
        }
    }
}

fn absent_is_fine(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.is_absent() => Ok(()),
        other => other,
    }
}

fn label<'a>(container: &'a ContainerInspectResponse, name: &str) -> Option<&'a str> {
    container.config.as_ref()?.labels.as_ref()?.get(name).map(String::as_str)
}

fn running(container: &ContainerInspectResponse) -> bool {
    container.state.as_ref().and_then(|state| state.running).unwrap_or(false)
}

/// Whether it is on its way out: what cannot be started any more is not there.
fn leaving(container: &ContainerInspectResponse) -> bool {
    let status = container.state.as_ref().and_then(|state| state.status);
    matches!(status, Some(ContainerStateStatusEnum::REMOVING | ContainerStateStatusEnum::DEAD))
}

/// What a container tells of its instance; `None` where it is none of ours.
fn observed(container: &ContainerInspectResponse) -> Option<Observed> {
    let state = container.state.clone().unwrap_or_default();
    let running = state.running.unwrap_or(false);
    let token = label(container, LABEL_TOKEN).and_then(|token| {
        let (generation, revision) = token.split_once(':')?;
        Some(Token { generation: generation.parse().ok()?, revision: revision.parse().ok()? })
    });
    Some(Observed {
        instance: label(container, LABEL_INSTANCE)?.to_owned(),
        uuid: label(container, LABEL_UUID)?.to_owned(),
        token,
        generation: label(container, LABEL_GENERATION).and_then(|generation| generation.parse().ok()),
        external_id: container.id.clone()?,
        running,
        exit_code: state.exit_code.filter(|_| !running),
        started_at: state.started_at.as_deref().and_then(time::milliseconds),
        message: state.error.filter(|error| !error.is_empty()),
        oom: state.oom_killed.unwrap_or(false),
    })
}
