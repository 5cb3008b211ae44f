//! The fence, on the side of what it ends: a timer on `/run/stampede/deadline`, held by the supervisor itself.
//!
//! Work that must not run twice goes on as long as the deadline moves on ([`crate::membership::fence`]). Past it, it is killed
//! through its cgroup, whatever else hangs: the agent, Docker, a disk, or the supervisor's own work, from which the timer has a
//! thread apart. A start that is under way is no exception.

use super::cgroup::Killer;
use super::journal::Journal;
use super::{EXTENSION, Options};
use crate::compute::{Driver, Health};
use crate::environment::{Clock, Environment};
use crate::membership::Place;
use crate::membership::fence::{self, DeadlineFile, Fence};
use crate::resource::assignment::{Assignment, Exclusive};
use crate::store::ledger::{EndReason, Phase};
use crate::systemd::EXIT_ENDED;
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// So shortly before the deadline it is looked at no more.
const LAST_LOOK: Duration = Duration::from_millis(50);
/// Between two looks at what is being killed.
const KILLING: Duration = Duration::from_millis(20);
/// Between two looks at a Docker in which a start may still be under way.
const LINGERING: Duration = Duration::from_millis(100);
/// How long such a start may take to show once Docker answers.
const LATE_START: Duration = Duration::from_secs(5);
/// For one question to Docker meanwhile.
const QUESTION: Duration = Duration::from_secs(2);

/// How an exclusive instance is ended.
#[derive(Clone, Debug)]
pub struct Fencing {
    pub killer: Arc<dyn Killer>,
    /// Where the timer runs.
    pub place: Place,
}

/// What is known of the container beside the work: Docker's id of it, as soon as there is one.
#[derive(Clone, Debug, Default)]
pub(super) struct External {
    id: Arc<Mutex<Option<String>>>,
    left: Arc<AtomicBool>,
}

impl External {
    pub fn set(&self, id: &str) {
        *self.id.lock().unwrap_or_else(PoisonError::into_inner) = Some(id.to_owned());
    }

    fn get(&self) -> Option<String> {
        self.id.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The work ends, and nobody can say that the container has.
    pub fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }
}

/// Whether it may run now: the deadline up to which it may.
pub fn allowed(exclusive: Exclusive, file: &DeadlineFile, environment: &Environment) -> Option<Fence> {
    let none = Fence { life: exclusive.life, deadline: Duration::ZERO };
    let found = file.read();
    fence::look(none, found, environment.clock.boottime())
}

/// Does `work`, within the deadline where it is exclusive; the exit code.
pub(super) async fn guarded(
    assignment: &Assignment,
    driver: Arc<dyn Driver>,
    options: &Options,
    external: External,
    work: impl Future<Output = u8>,
) -> u8 {
    let Some(exclusive) = assignment.exclusive else { return work.await };
    let file = DeadlineFile::new(&options.runtime, &options.environment.identity.boot_id);
    let guard = Guard {
        own: allowed(exclusive, &file, &options.environment),
        file,
        clock: options.environment.clock.clone(),
        killer: options.fencing.killer.clone(),
        id: assignment.id.clone(),
        external: external.clone(),
        fenced: CancellationToken::new(),
    };
    let (own, fenced) = (guard.own, guard.fenced.clone());
    let (ended, mut sealed) = oneshot::channel();
    // It ends with us, at the latest.
    let over = CancellationToken::new();
    let _over = over.clone().drop_guard();
    match options.fencing.place {
        Place::Task => drop(tokio::spawn(guard.keep(Timer::Sleep, over, ended))),
        Place::Thread => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let thread = runtime.and_then(|runtime| {
                let work = move || runtime.block_on(async { guard.keep(Timer::new(), over, ended).await });
                std::thread::Builder::new().name("fence".into()).spawn(work)
            });
            if let Err(error) = thread {
                // Nothing was begun, and systemd tries again.
                tracing::error!(instance = assignment.id, %error, "cannot be guarded, so it is not started");
                return 1;
            }
        }
    }
    if own.is_some() {
        // The fence first: past the deadline nothing of the work goes on.
        tokio::select! {
            biased;
            () = fenced.cancelled() => {}
            code = work => {
                // Nobody holds its timer after us.
                if external.is_left() {
                    end(assignment, driver.as_ref(), options, &external).await;
                }
                return code;
            }
        }
    } else {
        drop(work);
    }
    tracing::warn!(instance = assignment.id, "past the deadline: ended, since another host may run it");
    let mut journal = Journal::open(options, assignment);
    let sealed = loop {
        tokio::select! {
            sealed = &mut sealed => break sealed.unwrap_or(false),
            () = tokio::time::sleep(EXTENSION / 4) => journal.extend(EXTENSION),
        }
    };
    if !(sealed && driver.in_slices()) {
        linger(assignment, driver.as_ref(), options, &external, &mut journal).await;
    }
    let message = "the cluster could not be reached in time, and another host may run it".to_owned();
    journal.report(Phase::Ended { reason: EndReason::Fenced, exit_code: None, message: Some(message) });
    EXIT_ENDED
}

/// Docker was not there to stop it: through its cgroup then.
async fn end(assignment: &Assignment, driver: &dyn Driver, options: &Options, external: &External) {
    tracing::warn!(instance = assignment.id, "Docker has not stopped it: killed");
    let sealed = loop {
        let left = options.fencing.killer.end(&assignment.id, external.get().as_deref());
        if !left.running {
            break left.sealed;
        }
        tokio::time::sleep(KILLING).await;
    };
    if !(sealed && driver.in_slices()) {
        let mut journal = Journal::open(options, assignment);
        tokio::select! {
            biased;
            () = linger(assignment, driver, options, external, &mut journal) => {}
            () = daemon_is_gone(driver, options.environment.clock.as_ref()) => {}
        }
    }
}

/// A daemon that is down may be waiting for us: systemd starts it when this unit, which is ordered after it, has stopped. The
/// report says that something may be left, so that its agent asks Docker when that is back.
async fn daemon_is_gone(driver: &dyn Driver, clock: &dyn Clock) {
    let mut since = None;
    loop {
        let away = driver.health().await == Health::Away;
        let now = clock.boottime();
        since = if away { since.or(Some(now)) } else { None };
        if since.is_some_and(|since| now >= since + LATE_START) {
            return;
        }
        tokio::time::sleep(LINGERING).await;
    }
}

/// Where the slice keeps nothing out: stays until a start that may be under way has shown itself, and was ended.
async fn linger(
    assignment: &Assignment,
    driver: &dyn Driver,
    options: &Options,
    external: &External,
    journal: &mut Journal,
) {
    let clock = &options.environment.clock;
    let (mut quiet_since, mut told) = (None, clock.boottime());
    loop {
        let left = options.fencing.killer.end(&assignment.id, external.get().as_deref());
        let look = tokio::time::timeout(QUESTION, driver.observe(&assignment.id)).await;
        let quiet = match look {
            Ok(Ok(Some(found))) if found.running && found.uuid == assignment.uuid => {
                external.set(&found.external_id);
                // Where it cannot be reached through its cgroup, Docker can; what it says is looked at again.
                let _ = tokio::time::timeout(QUESTION, driver.stop(&found.external_id, Duration::ZERO)).await;
                false
            }
            Ok(Ok(_)) => !left.running,
            _ => false,
        };
        let now = clock.boottime();
        quiet_since = if quiet { quiet_since.or(Some(now)) } else { None };
        if quiet_since.is_some_and(|since| now >= since + LATE_START) {
            return;
        }
        if now >= told + EXTENSION / 4 {
            told = now;
            journal.extend(EXTENSION);
        }
        tokio::time::sleep(LINGERING).await;
    }
}

struct Guard {
    /// Up to when it may run as far as we know.
    own: Option<Fence>,
    file: DeadlineFile,
    clock: Arc<dyn Clock>,
    killer: Arc<dyn Killer>,
    id: String,
    external: External,
    fenced: CancellationToken,
}

impl Guard {
    async fn keep(mut self, timer: Timer, over: CancellationToken, ended: oneshot::Sender<bool>) {
        while let Some(own) = self.own {
            tokio::select! {
                () = timer.until(next_look(own, self.clock.boottime()), self.clock.as_ref()) => {}
                () = over.cancelled() => return,
            }
            let found = self.file.read();
            self.own = fence::look(own, found, self.clock.boottime());
        }
        self.fenced.cancel();
        let sealed = loop {
            let left = self.killer.end(&self.id, self.external.get().as_deref());
            if !left.running {
                break left.sealed;
            }
            tokio::time::sleep(KILLING).await;
        };
        // Who does not listen any more has ended by itself.
        let _ = ended.send(sealed);
    }
}

/// When half of what is left is over, so that another life of the host is seen before this one's deadline; at the end
/// the deadline itself.
fn next_look(own: Fence, now: Duration) -> Duration {
    let left = own.deadline.saturating_sub(now);
    if left > LAST_LOOK { now + left / 2 } else { own.deadline }
}

/// Something to wait with.
enum Timer {
    /// On CLOCK_BOOTTIME: a machine that was asleep is late the moment it wakes up. It blocks its thread, which has nothing else
    /// to do.
    Kernel(OwnedFd),
    /// Tokio's clock, which a simulation governs.
    Sleep,
}

impl Timer {
    fn new() -> Self {
        match timerfd_create(TimerfdClockId::Boottime, TimerfdFlags::CLOEXEC) {
            Ok(timer) => Self::Kernel(timer),
            Err(error) => {
                tracing::warn!(%error, "no timer that counts while the machine sleeps");
                Self::Sleep
            }
        }
    }

    async fn until(&self, moment: Duration, clock: &dyn Clock) {
        if let Self::Kernel(timer) = self
            && set(timer, moment).is_ok()
            && rustix::io::read(timer, &mut [0_u8; 8]).is_ok()
        {
            return;
        }
        tokio::time::sleep(moment.saturating_sub(clock.boottime())).await;
    }
}

fn set(timer: &OwnedFd, moment: Duration) -> rustix::io::Result<()> {
    let value = Timespec {
        tv_sec: i64::try_from(moment.as_secs()).unwrap_or(i64::MAX),
        // All zero would turn it off.
        tv_nsec: i64::from(moment.subsec_nanos().max(1)),
    };
    let interval = Timespec { tv_sec: 0, tv_nsec: 0 };
    // Setting it anew also takes back that it has run out.
    timerfd_settime(timer, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval: interval, it_value: value }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compute::simulated::{Gait, NoWitness, Simulated};
    use crate::compute::supervisor::cgroup::Left;
    use crate::environment::Environment;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Says how often it was asked to kill, and needs three times.
    #[derive(Debug, Default)]
    struct Counting(AtomicUsize);

    impl Killer for Counting {
        fn end(&self, _: &str, _: Option<&str>) -> Left {
            Left { running: self.0.fetch_add(1, Ordering::SeqCst) < 2, sealed: true }
        }
        fn lift(&self, _: &str) {}
    }

    #[derive(Debug)]
    struct Paused(tokio::time::Instant);

    impl Clock for Paused {
        fn now(&self) -> crate::environment::Timestamp {
            crate::environment::Timestamp(0)
        }
        fn boottime(&self) -> Duration {
            Duration::from_secs(100) + self.0.elapsed()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_daemon_that_is_down_is_given_up_and_one_that_hangs_is_not() {
        let environment = Environment::system().unwrap();
        let daemon = Simulated::new(&environment, "h1", Gait::default(), Arc::new(NoWitness));
        let clock = Paused(tokio::time::Instant::now());
        let given_up = |limit| tokio::time::timeout(limit, daemon_is_gone(&daemon, &clock));
        assert!(given_up(Duration::from_secs(60)).await.is_err(), "it answers");
        daemon.hang();
        assert!(given_up(Duration::from_secs(60)).await.is_err(), "it hangs");
        daemon.go_away();
        assert!(given_up(LATE_START - LINGERING).await.is_err(), "it may be just coming back");
        given_up(LATE_START * 2).await.unwrap();
    }

    struct World {
        file: DeadlineFile,
        clock: Arc<dyn Clock>,
        killer: Arc<Counting>,
        fenced: CancellationToken,
        ended: oneshot::Receiver<bool>,
        over: CancellationToken,
        _run: tempfile::TempDir,
    }

    /// A guard of something that was allowed in life 5, up to second 104.
    fn world() -> World {
        let run = tempfile::tempdir().unwrap();
        let file = DeadlineFile::new(run.path(), "b");
        let clock: Arc<dyn Clock> = Arc::new(Paused(tokio::time::Instant::now()));
        let (killer, fenced, over) =
            (Arc::new(Counting::default()), CancellationToken::new(), CancellationToken::new());
        let (ended, hear) = oneshot::channel();
        let guard = Guard {
            own: Some(Fence { life: 5, deadline: Duration::from_secs(104) }),
            file: file.clone(),
            clock: clock.clone(),
            killer: killer.clone(),
            id: "1i7".into(),
            external: External::default(),
            fenced: fenced.clone(),
        };
        tokio::spawn(guard.keep(Timer::Sleep, over.clone(), ended));
        World { file, clock, killer, fenced, ended: hear, over, _run: run }
    }

    impl World {
        fn extend(&self, life: i64, seconds: u64) {
            self.file.write(Fence { life, deadline: Duration::from_secs(seconds) }).unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn kills_at_the_deadline_until_nothing_is_left() {
        let world = world();
        assert!(world.ended.await.unwrap());
        let at = world.clock.boottime();
        assert!(at >= Duration::from_secs(104) && at < Duration::from_millis(104_200), "{at:?}");
        assert!(world.fenced.is_cancelled());
        assert_eq!(world.killer.0.load(Ordering::SeqCst), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn goes_on_with_each_deadline_and_with_the_next_life() {
        let world = world();
        for second in 1..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // Each life is followed by another before its deadline.
            world.extend(second / 10, u64::try_from(104 + second).unwrap());
        }
        assert!(!world.fenced.is_cancelled());
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(world.fenced.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn who_ended_is_not_killed() {
        let world = world();
        world.over.cancel();
        assert!(world.ended.await.is_err());
        assert_eq!(world.killer.0.load(Ordering::SeqCst), 0);
    }

    proptest! {
        #[test]
        fn looks_come_to_the_deadline_and_not_past_it(left in 0..10_000_u64) {
            let deadline = Duration::from_secs(100);
            let own = Fence { life: 1, deadline };
            let mut now = deadline - Duration::from_millis(left);
            let mut looks = 0;
            while now < deadline {
                now = next_look(own, now);
                looks += 1;
            }
            prop_assert_eq!(now, deadline);
            prop_assert!(looks < 12);
        }
    }
}
