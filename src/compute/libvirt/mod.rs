//! The driver for virtual machines: libvirt, asked through the program that links it ([`stampede_libvirt_protocol`] says why).
//!
//! Domains are found by our element in their metadata, never by name. A domain is defined for good, so that `virsh` shows what is
//! stopped too, and defined anew before each start; libvirt starts none by itself. What it is made of lies in a pool of
//! libvirt's: `1i54-root.qcow2`, a copy-on-write clone of its image, and `1i54-config.iso`, made anew at each start.
//!
//! A start is three steps, of which each finds out whether it was done: the domain is started and held at its first instruction,
//! marked as such; its port is pinned; it goes on, and the mark goes. Whoever waits for one that is held does the rest.

mod attach;
mod client;
mod console;
mod disks;
mod domain;
mod port;

pub use client::Client;
pub use disks::LiveDisks;
pub use domain::Disk;

use super::{Created, Daemon, Driver, DriverInfo, End, Error, Event, Health, LogLine, Observed};
use crate::environment::Environment;
use crate::network;
use crate::resource::assignment::{Assignment, Machine, Workload};
use crate::storage::{
    self, config_drive,
    pool::{Images, Stored},
};
use domain::{Mark, Parts};
use futures::stream::{BoxStream, StreamExt};
use stampede_libvirt_protocol::{
    Answer, Backing, Domain, Event as Happened, LIBVIRT_SOCKET, Off, POOL_PATH, Probed, Request, SOCKET,
};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// For questions and small changes.
const LIMIT: Duration = Duration::from_secs(30);
/// For what starts a process, or writes to a disk.
const LONG: Duration = Duration::from_secs(120);
const HEALTH: Duration = Duration::from_secs(5);
/// A guest has so long between being asked to power off and being ended.
const GRACE: Duration = Duration::from_secs(60);
/// One that is just booting does not hear it the first time.
const ASK_AGAIN: Duration = Duration::from_secs(8);
/// After a line that was lost, until there is another.
const SOON: Duration = Duration::from_secs(2);

/// libvirt on this host.
#[derive(Clone, Debug)]
pub struct Libvirt(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    environment: Environment,
    images: Images,
    /// Where the network driver listens.
    network: PathBuf,
}

/// What a domain says on its serial console, until it is down.
struct Said {
    libvirt: Libvirt,
    external_id: String,
    since: String,
    /// Of the file that is written now.
    lines: Option<BoxStream<'static, Result<LogLine, Error>>>,
}

impl Said {
    async fn next(mut self) -> Result<Option<(LogLine, Self)>, Error> {
        loop {
            if let Some(lines) = &mut self.lines {
                if let Some(line) = lines.next().await.transpose()? {
                    self.since.clone_from(&line.at);
                    return Ok(Some((line, self)));
                }
                // Who has the file open closes it for other reasons than the domain's end, too; another may write on.
                if !self.libvirt.look(&self.external_id).await?.is_some_and(|found| found.running) {
                    return Ok(None);
                }
                tokio::time::sleep(SOON).await;
            }
            let Some(found) = self.libvirt.look(&self.external_id).await? else { return Ok(None) };
            self.lines = Some(console::follow(domain::console_log(&found.instance), &self.since));
        }
    }
}

impl Libvirt {
    /// Nothing is asked yet: libvirt need not be there.
    pub fn new(environment: &Environment) -> Self {
        Self(Arc::new(Inner {
            client: Client::new(Path::new(SOCKET), Path::new(LIBVIRT_SOCKET)),
            environment: environment.clone(),
            images: Images::new(&Path::new(POOL_PATH).join("images")),
            network: network::driver::SOCKET.into(),
        }))
    }

    /// Whether there is any libvirt to ask.
    pub fn is_there(&self) -> bool {
        self.0.client.is_there()
    }

    /// What libvirt is like here.
    ///
    /// # Errors
    /// Where it does not answer.
    pub async fn probed(&self) -> Result<Probed, Error> {
        match self.ask("ask how it is", LONG, Request::Probe).await? {
            Answer::Probed(probed) => Ok(probed),
            other => Err(astray("ask how it is", &other)),
        }
    }

    async fn ask(&self, action: &'static str, limit: Duration, request: Request) -> Result<Answer, Error> {
        self.0.client.ask(action, limit, request).await
    }

    async fn done(&self, action: &'static str, limit: Duration, request: Request) -> Result<(), Error> {
        self.ask(action, limit, request).await.map(drop)
    }

    async fn domain(&self, action: &'static str, request: Request) -> Result<Option<Domain>, Error> {
        match self.ask(action, LIMIT, request).await? {
            Answer::Domain { domain } => Ok(domain),
            other => Err(astray(action, &other)),
        }
    }

    async fn by_uuid(&self, uuid: &str) -> Result<Option<Domain>, Error> {
        self.domain("look at the virtual machine", Request::Look { uuid: uuid.to_owned() }).await
    }

    /// The domain of an instance; of several, the one that runs.
    async fn find(&self, id: &str, uuid: Option<&str>) -> Result<Option<(Domain, Mark)>, Error> {
        let mut found: Vec<(Domain, Mark)> = self.marked().await?;
        found.retain(|(_, mark)| mark.instance == id && uuid.is_none_or(|uuid| mark.uuid == uuid));
        found.sort_by_key(|(domain, _)| !domain.active);
        Ok(found.into_iter().next())
    }

    async fn marked(&self) -> Result<Vec<(Domain, Mark)>, Error> {
        let action = "list virtual machines";
        match self.ask(action, LIMIT, Request::List).await? {
            Answer::Domains { domains } => Ok(domains.into_iter().filter_map(marked).collect()),
            other => Err(astray(action, &other)),
        }
    }

    async fn make(&self, assignment: &Assignment, machine: &Machine) -> Result<Created, Error> {
        let found = self.find(&assignment.id, Some(&assignment.uuid)).await?;
        if let Some((domain, mark)) = &found
            && domain.active
        {
            return Ok(Created { external_id: domain.uuid.clone(), adopted: true, running: !is_held(domain, mark) });
        }
        let image = self.image(machine).await?;
        let probed = self.probed().await?;
        let accelerator = probed.accelerator.ok_or_else(|| {
            refused("create the virtual machine", &probed.warning.unwrap_or_else(|| "no guest runs here".to_owned()))
        })?;
        let name = match &found {
            Some((domain, _)) => domain.name.clone(),
            None => self.free_name(domain::name(&assignment.id, machine)).await?,
        };
        let started = found.as_ref().and_then(|(_, mark)| mark.started);
        let mark = Mark { started, ..Mark::of(assignment) };
        let parts = Parts { name: &name, mark: &mark, accelerator, base: &image.path, base_format: image.format };
        // Before its disks: whatever is there of it is found by it.
        let define = Request::Define { xml: domain::xml(assignment, machine, &parts) };
        let action = "define the virtual machine";
        let defined = self.domain(action, define).await?.ok_or_else(|| refused(action, "it is not there"))?;
        self.disks(assignment, machine, &image, started.is_none()).await?;
        Ok(Created { external_id: defined.uuid, adopted: found.is_some(), running: false })
    }

    async fn image(&self, machine: &Machine) -> Result<Stored, Error> {
        let (images, image) = (self.0.images.clone(), machine.image.clone());
        let found = tokio::task::spawn_blocking(move || images.find(&image)).await.map_err(storage::Error::from)??;
        found.ok_or_else(|| Error::ImageAbsent(machine.image.url.clone()))
    }

    /// The name, where no other domain has it.
    async fn free_name(&self, name: String) -> Result<String, Error> {
        let other = self.domain("look for its name", Request::LookByName { name: name.clone() }).await?;
        if other.is_some() { Err(Error::Foreign { daemon: Daemon::Libvirt, name }) } else { Ok(name) }
    }

    /// Its disk, with what is on it unless it was never started; and its config drive.
    async fn disks(&self, assignment: &Assignment, machine: &Machine, image: &Stored, anew: bool) -> Result<(), Error> {
        let capacity = image.capacity.max(machine.disk_mb.saturating_mul(1 << 20));
        let backing = Backing { path: image.path.to_string_lossy().into_owned(), format: image.format };
        let root = Disk::root(&assignment.id, &machine.layers);
        self.ensure_layers(&root, capacity, Some(&backing), anew).await?;
        for volume in &machine.volumes {
            self.ensure_layers(&Disk::data(volume), 0, None, false).await?;
        }
        let (path, files) = (domain::config_drive(&assignment.id), network::metadata::config_drive(assignment));
        let written = tokio::task::spawn_blocking(move || {
            let files = files.iter().map(|(path, content)| (path.as_str(), content.as_ref()));
            config_drive::put(&path, &config_drive::image(files)?)
        });
        let written = written.await.map_err(storage::Error::from)?;
        written.map_err(|source| Error::Disk { action: "write its config drive", source })
    }

    /// The rest of a start: its port is pinned, and it goes on.
    async fn go_on(&self, domain: &Domain, mark: &Mark) -> Result<(), Error> {
        if let Some(address) = &mark.address {
            port::pin(&self.0.network, address).await?;
        }
        let free = Mark { held: false, ..mark.clone() };
        let resume = Request::Resume { uuid: domain.uuid.clone(), metadata: Some(free.text()) };
        self.done("let the virtual machine run", LIMIT, resume).await
    }

    /// Waits until it is off; `false` where that takes longer than `limit`.
    async fn is_off_within(&self, uuid: &str, limit: Duration) -> Result<bool, Error> {
        let wait = async {
            let mut events = self.0.client.follow();
            loop {
                match events.next().await {
                    Some(Happened::Domain { uuid: other, .. }) if other != uuid => {}
                    Some(Happened::Resync | Happened::Domain { .. }) => {
                        if self.by_uuid(uuid).await?.is_none_or(|domain| !domain.active) {
                            return Ok(());
                        }
                    }
                    Some(Happened::Gone) | None => return Err(gone("wait for the virtual machine")),
                }
            }
        };
        match tokio::time::timeout(limit, wait).await {
            Ok(result) => result.map(|()| true),
            Err(_) => Ok(false),
        }
    }
}

#[async_trait::async_trait]
impl Driver for Libvirt {
    fn daemon(&self) -> Daemon {
        Daemon::Libvirt
    }

    fn grace(&self) -> Duration {
        GRACE
    }

    async fn probe(&self) -> Result<DriverInfo, Error> {
        let probed = self.probed().await?;
        Ok(DriverInfo {
            version: probed.libvirt,
            api_version: probed.qemu,
            cgroup_driver: "none".to_owned(),
            storage_driver: "qcow2".to_owned(),
            live_restore: true,
            operating_system: "unknown".to_owned(),
            kernel: "unknown".to_owned(),
            warnings: probed.warning.into_iter().collect(),
        })
    }

    async fn ensure_created(&self, assignment: &Assignment) -> Result<Created, Error> {
        match &assignment.workload {
            Workload::VirtualMachine(machine) => self.make(assignment, machine).await,
            Workload::Container(_) => Err(refused("create the virtual machine", "libvirt runs no containers")),
        }
    }

    async fn start(&self, external_id: &str) -> Result<(), Error> {
        let action = "start the virtual machine";
        let absent = || Error::Refused { action, status: Some(404), message: "it is not there".to_owned() };
        let (domain, mark) = self.by_uuid(external_id).await?.and_then(marked).ok_or_else(absent)?;
        if domain.active {
            return if is_held(&domain, &mark) { self.go_on(&domain, &mark).await } else { Ok(()) };
        }
        let started = Some(self.0.environment.clock.now().0);
        let held = Mark { started, held: true, ..mark };
        self.done(action, LONG, Request::Start { uuid: domain.uuid.clone(), metadata: held.text() }).await?;
        let going = self.go_on(&domain, &held).await;
        if going.is_err() {
            // Not on the network without being held to its address.
            self.done("end it again", LIMIT, Request::Destroy { uuid: domain.uuid }).await?;
        }
        going
    }

    async fn wait(&self, external_id: &str) -> Result<End, Error> {
        let action = "wait for the virtual machine";
        let mut events = self.0.client.follow();
        loop {
            match events.next().await {
                Some(Happened::Domain { uuid, .. }) if uuid != external_id => {}
                Some(Happened::Resync | Happened::Domain { .. }) => {
                    let Some(domain) = self.by_uuid(external_id).await? else { return Ok(removed()) };
                    match marked(domain) {
                        None => return Ok(removed()),
                        Some((domain, _)) if !domain.active => return Ok(end(domain.off)),
                        Some((domain, mark)) if is_held(&domain, &mark) => self.go_on(&domain, &mark).await?,
                        Some(_) => {}
                    }
                }
                Some(Happened::Gone) | None => return Err(gone(action)),
            }
        }
    }

    async fn stop(&self, external_id: &str, grace: Duration) -> Result<(), Error> {
        let uuid = || external_id.to_owned();
        let Some(domain) = self.by_uuid(external_id).await?.filter(|domain| domain.active) else { return Ok(()) };
        let held = marked(domain.clone()).is_some_and(|(domain, mark)| is_held(&domain, &mark));
        if domain.paused && !held {
            // One that somebody paused hears nothing.
            self.done("let it hear that it is to stop", LIMIT, Request::Resume { uuid: uuid(), metadata: None })
                .await?;
        }
        let clock = &self.0.environment.clock;
        let until = clock.boottime() + if held { Duration::ZERO } else { grace };
        while let Some(left) = until.checked_sub(clock.boottime()).filter(|left| !left.is_zero()) {
            match self.done("ask it to power off", LIMIT, Request::Shutdown { uuid: uuid() }).await {
                // It may be off by now, or in a state in which it hears nothing.
                Err(Error::Refused { message, .. }) => tracing::debug!(message, "it is not asked to power off"),
                result => result?,
            }
            if self.is_off_within(external_id, left.min(ASK_AGAIN)).await? {
                return Ok(());
            }
        }
        self.done("end the virtual machine", LONG, Request::Destroy { uuid: uuid() }).await
    }

    async fn remove(&self, external_id: &str) -> Result<(), Error> {
        let Some((domain, mark)) = self.by_uuid(external_id).await?.and_then(marked) else { return Ok(()) };
        self.done("end the virtual machine", LONG, Request::Destroy { uuid: domain.uuid.clone() }).await?;
        // The definition last: by it the rest is found.
        let prefix = domain::volumes(&mark.instance);
        self.done("remove its disks", LONG, Request::DeleteVolumes { prefix }).await?;
        self.done("remove the virtual machine", LIMIT, Request::Undefine { uuid: domain.uuid }).await
    }

    async fn observe(&self, id: &str) -> Result<Option<Observed>, Error> {
        Ok(self.find(id, None).await?.map(observed))
    }

    async fn look(&self, external_id: &str) -> Result<Option<Observed>, Error> {
        Ok(self.by_uuid(external_id).await?.and_then(marked).map(observed))
    }

    async fn list(&self) -> Result<Vec<Observed>, Error> {
        Ok(self.marked().await?.into_iter().map(observed).collect())
    }

    async fn pull(
        &self,
        assignment: &Assignment,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<(), Error> {
        let Workload::VirtualMachine(machine) = &assignment.workload else { return Ok(()) };
        self.0.images.ensure(&machine.image, &self.0.environment, progress).await?;
        Ok(())
    }

    fn logs(&self, external_id: &str, since: &str) -> BoxStream<'static, Result<LogLine, Error>> {
        let said =
            Said { libvirt: self.clone(), external_id: external_id.to_owned(), since: since.to_owned(), lines: None };
        futures::stream::try_unfold(said, Said::next).boxed()
    }

    fn events(&self) -> BoxStream<'static, Event> {
        let client = self.0.client.clone();
        let begun = futures::stream::unfold(client, |client| async move {
            // The first is no time after the last.
            tokio::time::sleep(SOON).await;
            Some((client.follow(), client))
        });
        let events = begun.flatten().filter_map(async |event| match event {
            Happened::Domain { uuid, kind } => Some(Event::Instance { id: uuid, kind: format!("{kind:?}") }),
            Happened::Resync => Some(Event::Resync),
            Happened::Gone => None,
        });
        events.boxed()
    }

    async fn health(&self) -> Health {
        match self.ask("ask whether it is there", HEALTH, Request::Ping).await {
            Ok(_) => Health::Answers,
            Err(Error::Late { .. }) => Health::Silent,
            Err(_) => Health::Away,
        }
    }

    /// libvirt leaves what runs running, whatever becomes of it.
    async fn outlived(&self, _observed: &Observed) -> Result<Option<bool>, Error> {
        Ok(Some(false))
    }
}

fn gone(action: &'static str) -> Error {
    Error::Gone { daemon: Daemon::Libvirt, action, source: "the line to it was lost".into() }
}

fn refused(action: &'static str, message: &str) -> Error {
    Error::Refused { action, status: None, message: message.to_owned() }
}

fn astray(action: &'static str, answer: &Answer) -> Error {
    Error::Answer { daemon: Daemon::Libvirt, action, source: format!("{answer:?}").into() }
}

/// With our element of its metadata; `None` where it is none of ours.
fn marked(domain: Domain) -> Option<(Domain, Mark)> {
    let mark = Mark::parse(domain.metadata.as_deref()?)?;
    Some((domain, mark))
}

/// Whether its start is not over: nobody let it go on.
fn is_held(domain: &Domain, mark: &Mark) -> bool {
    domain.active && domain.paused && mark.held
}

fn observed((domain, mark): (Domain, Mark)) -> Observed {
    let end = end(domain.off);
    Observed {
        instance: mark.instance,
        uuid: mark.uuid,
        token: Some(mark.token),
        generation: Some(mark.generation),
        external_id: domain.uuid,
        running: domain.active,
        exit_code: end.exit_code.filter(|_| !domain.active),
        started_at: mark.started,
        message: end.message.filter(|_| !domain.active),
        oom: false,
    }
}

fn removed() -> End {
    End { exit_code: None, message: Some("the virtual machine was removed".to_owned()), oom: false }
}

/// How it came to be off. A guest that powers itself off has done so well.
fn end(off: Option<Off>) -> End {
    let (exit_code, message) = match off {
        Some(Off::Shutdown) => (Some(0), "the guest powered itself off"),
        Some(Off::Destroyed) => (None, "it was ended from outside (virsh destroy)"),
        Some(Off::Crashed) => (None, "its qemu died"),
        Some(Off::Failed) => (None, "it could not be started"),
        Some(Off::Saved) => (None, "it was saved to a file (virsh save)"),
        Some(Off::Migrated) => (None, "it was moved to another host"),
        Some(Off::Unknown) | None => (None, "it is off"),
    };
    End { exit_code, message: Some(message.to_owned()), oom: false }
}
