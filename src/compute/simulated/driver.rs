//! The daemon as who drives it sees it.

use super::daemon::{Condition, Container, gone, succeeds};
use super::{Running, Simulated, Why, faults, image};
use crate::compute::{Created, Daemon, Driver, DriverInfo, End, Error, Event, Health, LogLine, Observed};
use crate::resource::assignment::Assignment;
use futures::stream::{BoxStream, StreamExt};
use std::time::Duration;
use tokio::sync::oneshot;

/// As long as Docker is waited for: most calls, and those that take longer.
const LIMIT: Duration = Duration::from_secs(10);
const LONG: Duration = Duration::from_secs(120);

impl Simulated {
    /// A call that only looks.
    async fn ask(&self, action: &'static str, limit: Duration) -> Result<(), Error> {
        let answered = async {
            self.takes(self.gait.call).await;
            if self.condition() == Condition::Hung {
                self.until(|condition| condition != Condition::Hung).await;
            }
        };
        if self.condition() == Condition::Away {
            return Err(gone(action));
        }
        tokio::time::timeout(limit, answered).await.map_err(|_| Error::Late {
            daemon: Daemon::Docker,
            action,
            limit,
        })?;
        if self.condition() == Condition::Away { Err(gone(action)) } else { Ok(()) }
    }

    /// A call that does something, which the daemon goes on with whether or not anybody waits for it.
    async fn order<T: Send + 'static>(
        &self,
        action: &'static str,
        takes: Duration,
        limit: Duration,
        act: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        if self.condition() == Condition::Away {
            return Err(gone(action));
        }
        let (done, answer) = oneshot::channel();
        let (this, boot) = (self.clone(), self.state().boot);
        tokio::spawn(async move {
            this.takes(takes).await;
            this.until(|condition| condition != Condition::Hung).await;
            if this.condition() == Condition::Away || this.state().boot != boot {
                let _ = done.send(Err(gone(action)));
                return;
            }
            let result = act(&this);
            // What it was at when it began to hang is done; the answer waits as well.
            let _ = done.send(result);
        });
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(gone(action)),
            Err(_) => Err(Error::Late { daemon: Daemon::Docker, action, limit }),
        }
    }

    async fn takes(&self, most: Duration) {
        let most = usize::try_from(most.as_millis()).unwrap_or(0);
        let span = self.environment().below(most + 1);
        if span > 0 {
            tokio::time::sleep(Duration::from_millis(span as u64)).await;
        }
    }

    /// As Docker does it: one that is being started is looked at when that is over.
    async fn started(
        &self,
        action: &'static str,
        limit: Duration,
        asked: impl Fn(&Container) -> bool,
    ) -> Result<(), Error> {
        let mut changes = self.changes();
        let over = async {
            while self.state().containers.values().any(|one| one.starting && asked(one)) {
                let _ = changes.changed().await;
            }
        };
        tokio::time::timeout(limit, over).await.map_err(|_| Error::Late { daemon: Daemon::Docker, action, limit })
    }

    /// The container of an instance; of several, the one that runs.
    fn find(&self, id: &str, uuid: Option<&str>) -> Option<Observed> {
        let state = self.state();
        let mut found: Vec<&Container> = state
            .containers
            .values()
            .filter(|one| one.what.instance == id && uuid.is_none_or(|uuid| one.what.uuid == uuid))
            .collect();
        found.sort_by_key(|one| !one.running);
        found.first().map(|one| one.observed())
    }

    /// Whether a start of it is under way; else one is from now on.
    fn another_starts(&self, external_id: &str) -> bool {
        let away = self.condition() == Condition::Away;
        let mut state = self.state();
        let container = state.containers.get_mut(external_id).filter(|one| !one.running && !away);
        container.is_some_and(|one| std::mem::replace(&mut one.starting, true))
    }

    /// What does not run takes the address that it has now.
    fn rejoin(&self, found: &Observed, assignment: &Assignment) {
        let address = assignment.address();
        if let Some(container) = self.state().containers.get_mut(&found.external_id) {
            container.faults.clone_from(faults(assignment));
            if !container.running {
                container.what.address = address;
            }
        }
    }

    fn make(&self, assignment: &Assignment) -> Result<Created, Error> {
        if let Some(found) = self.find(&assignment.id, Some(&assignment.uuid)) {
            // Made from an older word and never started: nothing is lost with it.
            let stale = !found.running && found.started_at.is_none() && found.generation != Some(assignment.generation);
            if !stale {
                self.rejoin(&found, assignment);
                return Ok(Created { external_id: found.external_id, adopted: true, running: found.running });
            }
            self.forget(&found.external_id);
        }
        if self.find(&assignment.id, None).is_some() {
            return Err(Error::Foreign { daemon: Daemon::Docker, name: assignment.id.clone() });
        }
        for event in ["storage.image.activate", "storage.volume.activate"] {
            succeeds(faults(assignment), event, "create the container")?;
        }
        let mut state = self.state();
        if !state.images.contains(image(assignment)) {
            return Err(Error::ImageAbsent(image(assignment).to_owned()));
        }
        let external_id = self.name_next(&mut state);
        let what = Running::of(assignment, external_id.clone());
        let container = Container {
            what,
            running: false,
            starting: false,
            started_at: None,
            exit_code: None,
            dying: None,
            faults: faults(assignment).clone(),
        };
        state.containers.insert(external_id.clone(), container);
        Ok(Created { external_id, adopted: false, running: false })
    }
}

#[async_trait::async_trait]
impl Driver for Simulated {
    async fn probe(&self) -> Result<DriverInfo, Error> {
        self.ask("ask how it is", LIMIT).await?;
        Ok(DriverInfo {
            version: "simulated".to_owned(),
            api_version: "0".to_owned(),
            cgroup_driver: if self.gait.slices { "systemd" } else { "none" }.to_owned(),
            storage_driver: "none".to_owned(),
            live_restore: self.gait.live_restore,
            operating_system: "none".to_owned(),
            kernel: "none".to_owned(),
            warnings: Vec::new(),
        })
    }

    async fn ensure_created(&self, assignment: &Assignment) -> Result<Created, Error> {
        let assignment = assignment.clone();
        self.order("create the container", self.gait.call * 4, LONG, move |this| this.make(&assignment)).await
    }

    async fn start(&self, external_id: &str) -> Result<(), Error> {
        let action = "start the container";
        self.succeeds(external_id, "compute.instance.activate", action)?;
        // As Docker does it: who comes second waits for the first, and then it runs already.
        if self.another_starts(external_id) {
            self.started(action, LONG, |one| one.what.external_id == external_id).await?;
            return self.look(external_id).await.map(drop);
        }
        let external_id = external_id.to_owned();
        self.order(action, self.gait.start, LONG, move |this| this.begin(&external_id)).await
    }

    async fn wait(&self, external_id: &str) -> Result<End, Error> {
        let action = "wait for the container";
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            if self.condition() == Condition::Away {
                return Err(gone(action));
            }
            let found = self.state().containers.get(external_id).map(|one| (one.running, one.observed().end()));
            match found {
                None => return Ok(End::removed()),
                // One that hangs tells nothing.
                Some((false, end)) if self.condition() == Condition::Answers => return Ok(end),
                Some((false, _)) => self.until(|condition| condition != Condition::Hung).await,
                Some((true, _)) => {
                    tokio::select! {
                        biased;
                        () = self.until(|condition| condition == Condition::Away) => {}
                        _ = changes.changed() => {}
                    }
                }
            }
        }
    }

    async fn stop(&self, external_id: &str, grace: Duration) -> Result<(), Error> {
        self.succeeds(external_id, "compute.instance.deactivate", "stop the container")?;
        let external_id = external_id.to_owned();
        let takes = self.gait.stop.min(grace);
        self.order("stop the container", takes, grace + LIMIT, move |this| {
            Simulated::end(this, &external_id, Why::Stopped, 143);
            Ok(())
        })
        .await
    }

    async fn remove(&self, external_id: &str) -> Result<(), Error> {
        self.succeeds(external_id, "compute.instance.remove", "remove the container")?;
        let external_id = external_id.to_owned();
        self.order("remove the container", self.gait.call * 4, LONG, move |this| {
            this.forget(&external_id);
            Ok(())
        })
        .await
    }

    async fn observe(&self, id: &str) -> Result<Option<Observed>, Error> {
        let action = "look for the container";
        self.ask(action, LIMIT).await?;
        self.started(action, LIMIT, |one| one.what.instance == id).await?;
        Ok(self.find(id, None))
    }

    async fn look(&self, external_id: &str) -> Result<Option<Observed>, Error> {
        let action = "look at the container";
        self.ask(action, LIMIT).await?;
        self.started(action, LIMIT, |one| one.what.external_id == external_id).await?;
        Ok(self.state().containers.get(external_id).map(Container::observed))
    }

    async fn list(&self) -> Result<Vec<Observed>, Error> {
        let action = "list containers";
        self.ask(action, LIMIT).await?;
        self.started(action, LIMIT, |_| true).await?;
        Ok(self.state().containers.values().map(Container::observed).collect())
    }

    async fn pull(
        &self,
        assignment: &Assignment,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<(), Error> {
        progress("pulling");
        let image = image(assignment).to_owned();
        self.order("pull the image", self.gait.start * 4, LONG, move |this| {
            this.state().images.insert(image);
            Ok(())
        })
        .await
    }

    /// It writes nothing.
    fn logs(&self, _external_id: &str, _since: &str) -> BoxStream<'static, Result<LogLine, Error>> {
        futures::stream::empty().boxed()
    }

    fn events(&self) -> BoxStream<'static, Event> {
        futures::stream::unfold((self.clone(), false), |(this, begun)| async move {
            if begun {
                this.until(|condition| condition == Condition::Away).await;
                this.until(|condition| condition == Condition::Answers).await;
            }
            Some((Event::Resync, (this, true)))
        })
        .boxed()
    }

    async fn health(&self) -> Health {
        match self.condition() {
            Condition::Answers => Health::Answers,
            Condition::Hung => Health::Silent,
            Condition::Away => Health::Away,
        }
    }

    fn in_slices(&self) -> bool {
        self.gait.slices
    }

    async fn outlived(&self, observed: &Observed) -> Result<Option<bool>, Error> {
        self.ask("ask since when it is there", LIMIT).await?;
        if self.gait.live_restore {
            return Ok(Some(false));
        }
        let since = self.state().since;
        Ok(observed.started_at.map(|container| since > container))
    }
}
