//! `?wait=running&timeout=30`: the answer comes when the resource is in that state, or it is clear that it will not be.
//!
//! The header `X-Stampede-Wait` says which: `reached`, `failed` (its last step failed, or it is gone), `timeout`. The answer
//! is the resource as it is then, with the status that it has without waiting.

use super::cache::{Tag, Tagged};
use super::error::ApiError;
use super::exchange::Exchange;
use super::request::Request;
use crate::resource::declaration::Type;
use crate::resource::validation::InvalidCode;
use crate::resource::{Resource, State, Transitioning};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Unless told.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Below what an answer may take in all.
const LONGEST: u64 = 50;

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Wait {
    states: Vec<State>,
    until: Instant,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Reached,
    Failed,
    Timeout,
}

impl Ended {
    /// As the header says it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
        }
    }
}

impl Wait {
    /// What a request asks to wait for.
    pub fn read(request: &Request) -> Result<Option<Self>, ApiError> {
        let Some(states) = request.parameter("wait").filter(|states| !states.is_empty()) else { return Ok(None) };
        let states = states.split(',').map(|name| {
            State::parse(name.trim()).ok_or_else(|| ApiError {
                field: Some("wait".into()),
                ..ApiError::invalid(
                    InvalidCode::InvalidOption,
                    format!("{name:.40} is no state; give one like running, or several with commas between"),
                )
            })
        });
        let states = states.collect::<Result<Vec<State>, ApiError>>()?;
        let timeout = match request.parameter("timeout").filter(|timeout| !timeout.is_empty()) {
            None => TIMEOUT,
            Some(seconds) => match seconds.trim().parse::<u64>() {
                Ok(seconds) if seconds <= LONGEST => Duration::from_secs(seconds),
                _ => {
                    return Err(ApiError {
                        field: Some("timeout".into()),
                        ..ApiError::invalid(InvalidCode::InvalidFormat, format!("0 to {LONGEST}, whole seconds"))
                    });
                }
            },
        };
        Ok(Some(Self { states, until: Instant::now() + timeout }))
    }

    /// Whether there is nothing more to wait for.
    fn over(&self, row: &Resource) -> Option<Ended> {
        if self.states.contains(&row.state) {
            return Some(Ended::Reached);
        }
        let gone = matches!(row.state, State::Purged);
        (gone || row.transitioning == Transitioning::Error).then_some(Ended::Failed)
    }
}

impl Exchange<'_> {
    /// The row when the wait is over, and how that was.
    pub async fn wait(&self, declared: &'static Type, wait: &Wait, from: Tagged) -> Result<(Tagged, Ended), ApiError> {
        if let Some(ended) = wait.over(&from.row) {
            return Ok((from, ended));
        }
        let mut followed = self.context.cache.follow(declared.base).await?;
        let mut last = from;
        loop {
            // What is followed may be behind what was read.
            match followed.row(last.row.id) {
                Some(now) if now.tag.revision >= last.tag.revision => last = now,
                _ => {}
            }
            if let Some(ended) = wait.over(&last.row) {
                return Ok((last, ended));
            }
            if timeout_at(wait.until, followed.changed()).await.is_err() {
                return Ok((last, Ended::Timeout));
            }
        }
    }

    /// The same for rows that were just written.
    pub async fn wait_all(
        &self,
        declared: &'static Type,
        wait: &Wait,
        rows: Vec<Resource>,
        tag: &Tag,
    ) -> Result<(Vec<Tagged>, Ended), ApiError> {
        let (mut all, mut worst) = (Vec::new(), Ended::Reached);
        for row in rows {
            let written = Tagged { row: Arc::new(row), tag: tag.clone() };
            let (row, ended) = self.wait(declared, wait, written).await?;
            worst = if ended == Ended::Reached { worst } else { ended };
            all.push(row);
        }
        Ok((all, worst))
    }
}
