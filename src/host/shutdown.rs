//! A machine that goes down in good order is drained first.
//!
//! ```text
//! inhibitor held ──► logind: about to go down ──► drained, or the limit ──► inhibitor let go ──► the machine goes down
//!       ▲                    │ called off: the drain is taken back                                      │
//!       └────────────────────┴── the next boot: the drain is over, the host as it was before ◄──────────┘
//! ```

use super::chain;
use crate::environment::{Backoff, Environment};
use crate::orchestration::{Orchestrator, ServiceError};
use crate::systemd::shutdown::{self, Delay};
use crate::systemd::{self, bus};
use futures::StreamExt;
use std::time::Duration;

/// How often a drain is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// What is left of logind's limit when the machine is let go: not to be cut off in the middle of a write.
const MARGIN: Duration = Duration::from_secs(1);
/// A store that does not answer for so long holds up nothing.
const PATIENCE: Duration = Duration::from_secs(5);

/// Takes back what the end of the last boot left, and then, with systemd, sees to the end of this one.
pub async fn keep(orchestrator: Orchestrator, environment: Environment, host: u64, systemd: bool) {
    let mut backoff = Backoff::new(&environment, Duration::from_millis(200), Duration::from_secs(30));
    while let Err(error) = orchestrator.end_shutdown(host, false).await {
        tracing::warn!(error = chain(&error), "cannot take back the drain of the last boot's end; trying on");
        backoff.wait().await;
    }
    if !systemd {
        return;
    }
    let mut told = false;
    let mut backoff = Backoff::new(&environment, Duration::from_secs(1), Duration::from_secs(60));
    loop {
        match follow(&orchestrator, &environment, host).await {
            Ok(()) => backoff.reset(),
            Err(error) if !std::mem::replace(&mut told, true) => {
                tracing::warn!(error = chain(&error), "a shutdown would not wait for the host to be drained");
            }
            Err(_) => {}
        }
        backoff.wait().await;
    }
}

/// Until the bus is lost.
async fn follow(orchestrator: &Orchestrator, environment: &Environment, host: u64) -> Result<(), systemd::Error> {
    let connection = bus::connect(bus::LIMIT).await?;
    let mut announcements = shutdown::announcements(&connection).await?;
    let mut held = Some(shutdown::delay(&connection).await?);
    tracing::debug!(limit = ?held.as_ref().map(|held| held.limit), "a shutdown waits for the host to be drained");
    while let Some(begins) = announcements.next().await {
        if begins {
            leave(orchestrator, environment, host, held.as_ref()).await;
            // Let go: the machine goes down now.
            held = None;
        } else {
            tracing::info!("the shutdown was called off");
            if let Err(error) = orchestrator.end_shutdown(host, true).await {
                tracing::warn!(error = chain(&error), "the host stays drained: activate it");
            }
            held = Some(shutdown::delay(&connection).await?);
        }
    }
    Ok(())
}

async fn leave(orchestrator: &Orchestrator, environment: &Environment, host: u64, held: Option<&Delay>) {
    let limit = held.map_or(Duration::ZERO, |held| held.limit.saturating_sub(MARGIN));
    let begun = environment.clock.boottime();
    tracing::info!(?limit, "the machine goes down: what may move is moved first");
    let left = tokio::time::timeout(limit, drained(orchestrator, environment, host)).await;
    let took = environment.clock.boottime().saturating_sub(begun);
    match left {
        Ok(Ok(message)) => tracing::info!(?took, message, "the machine is let go"),
        Ok(Err(error)) => tracing::warn!(?took, error = chain(&error), "the machine is let go undrained"),
        Err(_) => tracing::warn!(?took, "the machine is let go before all has moved"),
    }
}

/// Until nothing more can leave.
async fn drained(orchestrator: &Orchestrator, environment: &Environment, host: u64) -> Result<String, ServiceError> {
    let mut answered = environment.clock.boottime();
    let mut asked = false;
    loop {
        let step = async {
            if !asked {
                orchestrator.drain_for_shutdown(host).await?;
            }
            // Its shard's owner does so too, but may be about to go down itself.
            orchestrator.drive("host", host).await?;
            orchestrator.drain_of(host).await
        };
        match step.await {
            Ok(None) => return Ok("an operator ended the drain".into()),
            Ok(Some(drain)) if drain.done || drain.stuck => return Ok(drain.message),
            Ok(Some(_)) => {
                asked = true;
                answered = environment.clock.boottime();
            }
            Err(error) if environment.clock.boottime().saturating_sub(answered) > PATIENCE => return Err(error),
            Err(error) => tracing::debug!(error = chain(&error), "tried again"),
        }
        tokio::time::sleep(LOOK).await;
    }
}
