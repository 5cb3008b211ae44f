//! The connection to libvirt: opened, kept, and opened again.
//!
//! ```text
//!  open ── events, close callback, keepalive ──► there ── lost, or not alive at a look ──► gone ── 0.2 s … 5 s ──► open
//!                                                 │ Resync to all who follow                │ Gone to all who follow
//! ```
//! libvirt lists all domains anew for who asks after a Resync; nothing is remembered here.

use crate::shim;
use stampede_libvirt_protocol::{Event, Probed};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, SyncSender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use virt::connect::Connect;
use virt::error::Error;

/// Between two tries to open it.
const SOONEST: Duration = Duration::from_millis(200);
const LATEST: Duration = Duration::from_secs(5);
/// It is looked at this often, beside what the close callback tells.
const LOOK: Duration = Duration::from_secs(10);
/// A daemon that says nothing for three times this, in seconds, is gone.
const KEEPALIVE: i32 = 5;
/// So many events wait for one who follows; who is further behind begins anew.
const BACKLOG: usize = 1024;
/// Who asks what is there waits so long for it to be tried.
const PROBING: Duration = Duration::from_secs(40);

/// An open connection; it closes when nobody uses it any more.
#[derive(Debug)]
pub struct Held(pub Connect, shim::Registration);

impl Drop for Held {
    fn drop(&mut self) {
        shim::forget(&self.0, &self.1);
        if let Err(error) = self.0.close() {
            tracing::debug!(%error, "the connection does not close");
        }
    }
}

#[derive(Debug)]
enum State {
    /// In libvirt's words.
    Gone(String),
    There(Arc<Held>),
}

/// libvirt, as it is known here. One for the program's life.
#[derive(Debug)]
pub struct Daemon {
    uri: String,
    state: Mutex<State>,
    probed: Mutex<Option<Probed>>,
    is_probed: Condvar,
    followers: Mutex<Vec<SyncSender<Event>>>,
    /// Volumes are made and taken away one at a time: libvirt refuses to look through a pool while one is being made.
    pub volumes: Mutex<()>,
}

pub fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Daemon {
    pub fn new(uri: &str) -> Self {
        Self {
            uri: uri.to_owned(),
            state: Mutex::new(State::Gone("it was not asked yet".to_owned())),
            probed: Mutex::default(),
            is_probed: Condvar::new(),
            followers: Mutex::default(),
            volumes: Mutex::default(),
        }
    }

    /// The connection, where there is one; else why not.
    pub fn connection(&self) -> Result<Arc<Held>, String> {
        match &*locked(&self.state) {
            State::There(held) => Ok(held.clone()),
            State::Gone(why) => Err(why.clone()),
        }
    }

    /// What was found out of it; waits for that. `None` where it takes too long.
    pub fn probed(&self) -> Option<Probed> {
        let waiting = self.is_probed.wait_timeout_while(locked(&self.probed), PROBING, |probed| probed.is_none());
        waiting.unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    /// Events from now on; the first says how it is.
    pub fn follow(&self) -> Receiver<Event> {
        let (sender, receiver) = mpsc::sync_channel(BACKLOG);
        // Under the lock of those who follow, so that a change goes before or after, and never unheard.
        let mut followers = locked(&self.followers);
        let first = if self.connection().is_ok() { Event::Resync } else { Event::Gone };
        if sender.try_send(first).is_ok() {
            followers.push(sender);
        }
        receiver
    }

    fn tell(&self, event: &Event) {
        locked(&self.followers).retain(|follower| follower.try_send(event.clone()).is_ok());
    }

    /// Keeps a connection for ever. `probe` is asked once there is one, until it has found what runs guests.
    pub fn keep(self: &Arc<Self>, probe: impl Fn(&Connect, Option<Probed>) -> Probed) {
        let mut wait = SOONEST;
        loop {
            let (lost, hear) = mpsc::channel();
            match self.open(lost) {
                Ok(held) => {
                    wait = SOONEST;
                    let held = Arc::new(held);
                    *locked(&self.state) = State::There(held.clone());
                    self.tell(&Event::Resync);
                    tracing::info!(uri = self.uri, "libvirt is there");
                    let before = locked(&self.probed).clone();
                    let probed = probe(&held.0, before);
                    tracing::info!(?probed, "what it can");
                    *locked(&self.probed) = Some(probed);
                    self.is_probed.notify_all();
                    until_lost(&held.0, &hear);
                    *locked(&self.state) = State::Gone("the connection to libvirt was lost".to_owned());
                    self.tell(&Event::Gone);
                    tracing::warn!("libvirt is gone");
                }
                Err(error) => {
                    tracing::debug!(%error, "libvirt cannot be reached");
                    *locked(&self.state) = State::Gone(error.message().to_owned());
                }
            }
            std::thread::park_timeout(wait);
            wait = (wait * 2).min(LATEST);
        }
    }

    fn open(self: &Arc<Self>, lost: Sender<()>) -> Result<Held, Error> {
        let mut connect = Connect::open(Some(&self.uri))?;
        let prepare = || {
            // Drivers without a daemon behind them have none.
            if let Err(error) = connect.set_keep_alive(KEEPALIVE, 3) {
                tracing::debug!(%error, "no keepalive");
            }
            let lost = Mutex::new(lost);
            let closed = move || {
                let _ = locked(&lost).send(());
            };
            if let Err(error) = shim::on_close(&connect, Box::new(closed)) {
                tracing::debug!(%error, "nobody tells when it is lost; it is looked at");
            }
            let this = self.clone();
            shim::on_domain_events(&connect, Box::new(move |uuid, kind| this.tell(&Event::Domain { uuid, kind })))
        };
        match prepare() {
            Ok(registration) => Ok(Held(connect, registration)),
            Err(error) => {
                let _ = connect.close();
                Err(error)
            }
        }
    }
}

fn until_lost(connect: &Connect, lost: &Receiver<()>) {
    loop {
        match lost.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) if connect.is_alive().unwrap_or(false) => {}
            // Where nobody tells, only the looks do.
            Err(RecvTimeoutError::Disconnected) if connect.is_alive().unwrap_or(false) => {
                std::thread::park_timeout(LOOK)
            }
            _ => return,
        }
    }
}
