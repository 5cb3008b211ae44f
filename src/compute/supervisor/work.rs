//! What a supervisor does, in order.

use super::decide::{self, Action, Beginning, Machine};
use super::guard::{External, guarded};
use super::journal::Journal;
use super::output::Follower;
use super::{EXTENSION, Options, Output};
use crate::compute::{Created, Driver, End, Error, Health, Observed, halt};
use crate::environment::Backoff;
use crate::resource::assignment::{Assignment, Desired};
use crate::store::ledger::{EndReason, Phase};
use crate::systemd::{self, EXIT_AGAIN, EXIT_ENDED, bus};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// While we work on a start or wait for Docker, systemd hears this often that it goes on.
const BEAT: Duration = Duration::from_secs(15);
/// How long a daemon that killed its container may take until it is seen to go down itself.
const SETTLE: Duration = Duration::from_millis(300);
/// Systemd's time to say whether the machine goes down.
const ASK_MACHINE: Duration = Duration::from_secs(1);
/// How long the last of an instance's output may take after its end.
const DRAIN: Duration = Duration::from_secs(1);
/// A daemon that is away when we are told to stop may come back for so long.
const STOP_WITHOUT_DAEMON: Duration = Duration::from_secs(5);

pub(super) async fn run(id: &str, driver: Arc<dyn Driver>, options: Options) -> u8 {
    let assignment = match options.ledger.assignment(id) {
        Ok(Some(assignment)) if assignment.desired == Desired::Running => assignment,
        Ok(Some(_)) => {
            tracing::info!(instance = id, "is not to run");
            options.announce.ready();
            return EXIT_ENDED;
        }
        Ok(None) => {
            tracing::warn!(instance = id, "nothing is known of it on this host");
            return EXIT_ENDED;
        }
        Err(error) => {
            tracing::error!(instance = id, error = &error as &dyn std::error::Error, "its file cannot be read");
            return EXIT_ENDED;
        }
    };
    let journal = Journal::open(&options, &assignment);
    let external = External::default();
    let (told, from, with) = (assignment.clone(), driver.clone(), options.clone());
    let supervisor = Supervisor { assignment, driver, options, journal, output: None, external: external.clone() };
    guarded(&told, from, &with, external, supervisor.stand_by()).await
}

struct Supervisor {
    assignment: Assignment,
    driver: Arc<dyn Driver>,
    options: Options,
    journal: Journal,
    /// Follows what the instance writes.
    output: Option<AbortOnDropHandle<()>>,
    /// For who has to kill it without asking Docker which it is.
    external: External,
}

/// Why a round is over.
enum Over {
    /// With this exit code.
    Done(u8),
    /// We are told to stop.
    Stop,
    /// The daemon is not there.
    Gone(Option<End>, Option<Error>),
}

impl Supervisor {
    async fn stand_by(mut self) -> u8 {
        // Once it has gone away from us, it is not knocked for.
        let mut gone = false;
        loop {
            let over = if gone && !self.daemon_is_back().await { Over::Stop } else { self.round().await };
            match over {
                Over::Done(code) => return code,
                Over::Stop => return self.stop().await,
                Over::Gone(end, error) => {
                    self.await_daemon_as_reported(end, error).await;
                    gone = true;
                }
            }
        }
    }

    /// From looking to its end.
    async fn round(&mut self) -> Over {
        match self.begin().await {
            Ok(()) => {}
            Err(over) => return over,
        }
        let Some(Phase::Running { external_id, .. }) = self.journal.phase.clone() else {
            return Over::Done(EXIT_ENDED);
        };
        let stop = self.options.stop.clone();
        let end = tokio::select! {
            biased;
            () = stop.cancelled() => return Over::Stop,
            end = self.driver.wait(&external_id) => end,
        };
        match end {
            Ok(end) => self.ended(end).await,
            Err(error) if error.is_gone() => Over::Gone(None, Some(error)),
            // It cannot be waited for; whether it runs is looked at again.
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot wait for its end");
                Over::Gone(None, Some(error))
            }
        }
    }

    /// Until it runs and that is reported.
    async fn begin(&mut self) -> Result<(), Over> {
        // With nothing to go on from, making it finds what is there: one look less on the way of every start.
        let found = if self.journal.last_seen().is_some() { self.observe().await? } else { None };
        let by_daemon = match (&found, self.journal.last_seen()) {
            (Some(found), Some(_)) if !found.running => {
                // In doubt it is started again: that can be undone.
                self.driver.outlived(found).await.map_err(|error| self.failed(error))?.unwrap_or(true)
            }
            _ => false,
        };
        let mut started = None;
        match decide::on_beginning(self.journal.last_seen(), found.as_ref(), by_daemon) {
            Beginning::Ended(end) => return Err(self.ended(end).await),
            Beginning::TakeOver => tracing::info!(instance = self.assignment.id, "runs already: taken over"),
            Beginning::Start => started = Some(self.start().await?),
        }
        let by_us = started.is_some();
        let running = match (found.filter(|found| found.running), started) {
            (Some(found), _) => Some(found),
            (None, Some(external_id)) => self.look(&external_id).await?,
            (None, None) => self.observe().await?,
        };
        // Gone between its start and our look: waiting for it tells the rest.
        let Some(running) = running else {
            return Err(self.ended(End::removed()).await);
        };
        self.external.set(&running.external_id);
        let started_at = running.started_at.unwrap_or_default();
        // What the agent started has its times from there.
        if by_us {
            self.journal.time("look");
        }
        self.journal.report(Phase::Running { external_id: running.external_id.clone(), started_at });
        self.output = Some(AbortOnDropHandle::new(tokio::spawn(
            Follower {
                id: self.assignment.id.clone(),
                driver: self.driver.clone(),
                external_id: running.external_id,
                started_at,
                output: self.options.output,
                runtime: self.options.runtime.clone(),
                environment: self.options.environment.clone(),
            }
            .follow(),
        )));
        Ok(())
    }

    /// What is there of ours; what is there of another's under our id is not.
    async fn observe(&mut self) -> Result<Option<Observed>, Over> {
        match self.driver.observe(&self.assignment.id).await {
            Ok(found) => Ok(found.filter(|found| found.uuid == self.assignment.uuid)),
            Err(error) => Err(self.fail_unless_gone(error).await),
        }
    }

    /// What we have just started.
    async fn look(&mut self, external_id: &str) -> Result<Option<Observed>, Over> {
        match self.driver.look(external_id).await {
            Ok(found) => Ok(found),
            Err(error) => Err(self.fail_unless_gone(error).await),
        }
    }

    /// Makes and starts it, or takes over what runs already; the driver's id of it.
    async fn start(&mut self) -> Result<String, Over> {
        self.journal.restart_timings();
        self.journal.report(Phase::Starting);
        let created = match self.ensure_created().await {
            Ok(created) => created,
            Err(StartError::Stop) => return Err(Over::Stop),
            Err(StartError::Failed(error)) => return Err(self.fail_unless_gone(error).await),
        };
        self.external.set(&created.external_id);
        self.journal.time("create");
        if created.running {
            tracing::info!(instance = self.assignment.id, "runs already: taken over");
            return Ok(created.external_id);
        }
        // Not cut short by a stop: a start under way would go on without us.
        let driver = self.driver.clone();
        match self.patiently(driver.start(&created.external_id)).await {
            Ok(()) => self.journal.time("start"),
            Err(error) => return Err(self.fail_unless_gone(error).await),
        }
        if self.options.stop.is_cancelled() { Err(Over::Stop) } else { Ok(created.external_id) }
    }

    async fn ensure_created(&mut self) -> Result<Created, StartError> {
        let driver = self.driver.clone();
        let assignment = self.assignment.clone();
        let image = match self.patiently(driver.ensure_created(&assignment)).await {
            Ok(created) => return Ok(created),
            Err(Error::ImageAbsent(image)) => image,
            Err(error) => return Err(StartError::Failed(error)),
        };
        self.pull(&image).await?;
        self.journal.time("pull");
        self.patiently(driver.ensure_created(&assignment)).await.map_err(StartError::Failed)
    }

    async fn pull(&mut self, image: &str) -> Result<(), StartError> {
        let (said, mut hear) = tokio::sync::watch::channel(format!("pulling {image}"));
        hear.mark_changed();
        let driver = self.driver.clone();
        let tell = move |text: &str| {
            said.send_replace(text.to_owned());
        };
        let assignment = self.assignment.clone();
        let mut pull = std::pin::pin!(driver.pull(&assignment, &tell));
        let stop = self.options.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return Err(StartError::Stop),
                pulled = &mut pull => return pulled.map_err(StartError::Failed),
                () = async {
                    // At most two reports a second, and one every now and then while nothing is heard.
                    let _ = tokio::time::timeout(BEAT, hear.changed()).await;
                    tokio::time::sleep(Duration::from_millis(500)).await;
                } => {
                    let message = hear.borrow_and_update().clone();
                    self.journal.extend(EXTENSION);
                    self.journal.report(Phase::Pulling { message });
                }
            }
        }
    }

    /// Does it, and tells systemd that it is at it.
    async fn patiently<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            match tokio::time::timeout(BEAT, &mut work).await {
                Ok(done) => return done,
                Err(_) => self.journal.extend(EXTENSION),
            }
        }
    }

    /// A refusal of a daemon that is on its way out says nothing of the instance.
    async fn fail_unless_gone(&mut self, error: Error) -> Over {
        if error.is_gone() || self.driver.health().await != Health::Answers {
            return Over::Gone(None, Some(error));
        }
        self.failed(error)
    }

    fn failed(&mut self, error: Error) -> Over {
        if error.is_gone() {
            return Over::Gone(None, Some(error));
        }
        tracing::error!(instance = self.assignment.id, error = &error as &dyn std::error::Error, "cannot be started");
        self.journal.report(Phase::Failed { message: words(&error) });
        Over::Done(EXIT_ENDED)
    }

    /// It has ended: by itself, with its daemon, or with the machine?
    async fn ended(&mut self, mut end: End) -> Over {
        let ended_at = self.options.environment.clock.now();
        let (mut health, machine) = self.circumstances().await;
        if health == Health::Answers && machine != Machine::Leaving && decide::may_be_killed(end.exit_code) {
            tokio::time::sleep(SETTLE).await;
            health = self.driver.health().await;
        }
        if health == Health::Answers {
            health = self.look_at_end(&mut end).await;
        }
        let ran = match self.journal.last_seen() {
            Some((_, Some(started_at))) => Duration::from_millis((ended_at.0 - started_at).max(0).unsigned_abs()),
            _ => Duration::ZERO,
        };
        let short_runs = decide::short_runs(self.journal.short_runs, ran);
        let asked = self.options.stop.is_cancelled();
        // The policy can be changed while it runs.
        if let Ok(Some(now)) = self.options.ledger.assignment(&self.assignment.id) {
            self.assignment.on_end = now.on_end;
        }
        let action = decide::on_end(health, machine, asked, self.assignment.on_end, short_runs);
        tracing::info!(
            instance = self.assignment.id,
            exit_code = end.exit_code,
            oom = end.oom,
            ?health,
            ?machine,
            ?action,
            "it has ended"
        );
        match action {
            Action::AwaitDaemon => Over::Gone(Some(end), None),
            Action::Stay(reason) => {
                // An end that is found at the beginning is no failed start.
                self.options.announce.ready();
                self.drain().await;
                self.report_end(reason, &end);
                Over::Done(EXIT_ENDED)
            }
            Action::Again { delay } => {
                self.options.announce.ready();
                self.drain().await;
                self.journal.short_runs = short_runs;
                self.report_end(EndReason::Own, &end);
                let delay = self.options.environment.jitter(delay);
                tokio::select! {
                    biased;
                    () = self.options.stop.cancelled() => Over::Stop,
                    () = tokio::time::sleep(delay) => Over::Done(EXIT_AGAIN),
                }
            }
        }
    }

    /// Adds what Docker knows of an end, and whether it is the same daemon still.
    async fn look_at_end(&self, end: &mut End) -> Health {
        let look = async {
            let found = self.driver.observe(&self.assignment.id).await?;
            let Some(found) = found.filter(|found| found.uuid == self.assignment.uuid) else {
                end.message = End::removed().message;
                return Ok(Health::Answers);
            };
            end.oom = found.oom;
            end.message = end.message.take().or_else(|| found.message.clone());
            let another = self.driver.outlived(&found).await?.unwrap_or(false);
            Ok::<_, Error>(if another { Health::Away } else { Health::Answers })
        };
        match look.await {
            Ok(health) => health,
            Err(error) if error.is_gone() => Health::Silent,
            Err(error) => {
                tracing::debug!(error = &error as &dyn std::error::Error, "no more is known of the end");
                Health::Answers
            }
        }
    }

    fn report_end(&mut self, reason: EndReason, end: &End) {
        let message = match (end.oom, end.message.clone()) {
            (true, None) => Some("the kernel killed it for want of memory".to_owned()),
            (_, message) => message,
        };
        self.journal.report(Phase::Ended { reason, exit_code: end.exit_code, message });
    }

    async fn circumstances(&self) -> (Health, Machine) {
        futures::join!(self.driver.health(), self.machine())
    }

    async fn machine(&self) -> Machine {
        // Tasks of one process are not units that systemd stops with the machine.
        if !systemd::booted() || self.options.output == Output::Trace {
            return Machine::Silent;
        }
        let asked = async {
            let connection = bus::connect(ASK_MACHINE).await?;
            bus::machine_stopping(&connection, ASK_MACHINE).await
        };
        match asked.await {
            Ok(true) => Machine::Leaving,
            Ok(false) => Machine::Staying,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "systemd does not say whether the machine stays"
                );
                Machine::Unknown
            }
        }
    }

    /// Lets the last of the output through.
    async fn drain(&mut self) {
        if let Some(output) = self.output.take() {
            // Late, or broken: the rest stays with Docker.
            let _ = tokio::time::timeout(DRAIN, output).await;
        }
    }

    async fn await_daemon_as_reported(&mut self, end: Option<End>, error: Option<Error>) {
        self.output = None;
        let seen = self.journal.phase.clone().filter(|phase| decide::last_seen(phase).is_some());
        let message = error.map(|error| words(&error)).or_else(|| end.as_ref().and_then(|end| end.message.clone()));
        let daemon = self.driver.daemon();
        tracing::warn!(instance = self.assignment.id, message, "{daemon} is gone; waiting for it");
        self.journal.report(Phase::Ended {
            reason: EndReason::DriverGone,
            exit_code: end.and_then(|end| end.exit_code),
            message,
        });
        // The report says that Docker is gone; what ran before is still to be compared with.
        if seen.is_some() {
            self.journal.phase = seen;
        }
    }

    /// Waits until the daemon is to be relied on again; `false`: told to stop in the meantime.
    async fn daemon_is_back(&mut self) -> bool {
        let mut backoff = Backoff::new(&self.options.environment, Duration::from_millis(100), Duration::from_secs(3));
        let stop = self.options.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return false,
                () = backoff.wait() => {}
            }
            if self.driver.health().await == Health::Answers {
                return true;
            }
            self.journal.extend(EXTENSION);
        }
    }

    /// Told to stop: stop it, report why.
    async fn stop(&mut self) -> u8 {
        self.options.announce.stopping();
        let reason = decide::on_stop(self.machine().await);
        tracing::info!(instance = self.assignment.id, ?reason, "stopping it");
        let limit = self.driver.grace() + Duration::from_secs(60);
        let stopped = if !self.daemon_answers_soon().await {
            Err(format!("{} is not there to stop it", self.driver.daemon()))
        } else {
            match tokio::time::timeout(limit, self.stop_container()).await {
                Ok(Ok(end)) => Ok(end),
                Ok(Err(error)) => Err(words(&error)),
                Err(_) => Err(format!("{} has not stopped it in time", self.driver.daemon())),
            }
        };
        let end = stopped.unwrap_or_else(|message| {
            self.external.leave();
            self.journal.left = true;
            End { message: Some(message), ..End::default() }
        });
        self.drain().await;
        self.report_end(reason, &end);
        EXIT_ENDED
    }

    /// A daemon that is away may be just coming back.
    async fn daemon_answers_soon(&self) -> bool {
        let mut backoff = Backoff::new(&self.options.environment, Duration::from_millis(100), Duration::from_secs(1));
        let answers = async {
            while self.driver.health().await != Health::Answers {
                backoff.wait().await;
            }
        };
        tokio::time::timeout(STOP_WITHOUT_DAEMON, answers).await.is_ok()
    }

    async fn stop_container(&self) -> Result<End, Error> {
        let id = &self.assignment.id;
        let ours = |found: &Observed| found.uuid == self.assignment.uuid;
        let Some(found) = self.driver.observe(id).await?.filter(ours) else { return Ok(End::default()) };
        halt(&*self.driver, &found, self.driver.grace()).await?;
        Ok(self.driver.observe(id).await?.filter(ours).map(|found| found.end()).unwrap_or_default())
    }
}

enum StartError {
    Stop,
    Failed(Error),
}

/// An error with what is behind it, in one line.
fn words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}
