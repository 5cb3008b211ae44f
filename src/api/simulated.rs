//! Simulated hosts over the API, where the answering agent was started with `--allow-simulated`: `POST /v1/agents` with a `uri`
//! of `sim://<name>` brings one up in that agent, `DELETE` takes it down again.

use super::body;
use super::cache::Tagged;
use super::error::ApiError;
use super::exchange::{Answer, Exchange};
use crate::membership::JoinError;
use crate::resource::declaration::Type;
use crate::resource::validation::{self, Invalid, InvalidCode};
use crate::resource::{Resource, State, schema, types};
use crate::store::ledger;
use axum::body::Bytes;
use axum::http::StatusCode;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

const TYPE: &str = "agent";
const SCHEME: &str = "sim://";
/// Until the record of a host that is up has come round.
const SEEN: Duration = Duration::from_secs(10);

/// Why a simulated host is not brought up or taken down.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Join(#[from] JoinError),
    #[error("it has not joined within {} s; ask again, the lease of an earlier one may have to end first", .0.as_secs())]
    Late(Duration),
    #[error("its files")]
    Files(#[from] std::io::Error),
    #[error("its ledger")]
    Ledger(#[from] ledger::Error),
}

/// The simulated hosts of one agent.
#[async_trait::async_trait]
pub trait SimulatedHosts: Debug + Send + Sync {
    /// The host of this name is up, as it was or from now on: its number.
    async fn bring_up(&self, name: &str) -> Result<u64, Refused>;
    /// It goes, and with it what it remembers; `false` where there is none here.
    async fn take_down(&self, name: &str) -> Result<bool, Refused>;
}

/// Whether writes of a type are made here.
pub fn concerns(declared: &Type) -> bool {
    declared.name == TYPE
}

impl Exchange<'_> {
    pub async fn bring_up(&self, declared: &'static Type, bytes: Bytes) -> Result<Answer, ApiError> {
        self.may(schema::may_use(declared, "POST", self.request.principal.writer()), declared)?;
        let input = body::parse(&self.request.content_type, bytes).await?;
        let fields = validation::creation(declared, &input, self.request.principal.writer())?;
        let uri = fields.get("uri").and_then(|uri| uri.as_str()).unwrap_or_default();
        let Some(name) = uri.strip_prefix(SCHEME) else {
            let message = "only simulated hosts are made here (sim://<name>); others join by themselves, by a token \
                           (`stampede token create`)";
            return Err(Invalid::new(InvalidCode::InvalidFormat, "uri", message).into());
        };
        let id = self.simulated()?.bring_up(name).await?;
        let row = self.until_seen(declared, id).await?;
        self.written(StatusCode::CREATED, declared, &row, None)
    }

    pub async fn take_down(&self, declared: &'static Type, found: &Tagged) -> Result<Answer, ApiError> {
        self.may(self.request.principal.may_write(declared, &found.row), declared)?;
        let uri = found.row.get::<String>("uri").unwrap_or_default();
        let Some(name) = uri.strip_prefix(SCHEME) else {
            return Err(ApiError::with_code(
                StatusCode::CONFLICT,
                "ActionNotAvailable",
                "an agent goes with its host: drain that, stop the agent, and then remove the host (DELETE /v1/hosts/<id>)",
            ));
        };
        if !self.simulated()?.take_down(name).await? {
            let message = format!("the simulated host {name:.63} is not up in this agent; ask the agent that has it");
            return Err(ApiError::new(StatusCode::CONFLICT, message));
        }
        self.written(StatusCode::OK, declared, &found.row, None)
    }

    fn simulated(&self) -> Result<&Arc<dyn SimulatedHosts>, ApiError> {
        self.context.simulated.get().ok_or_else(|| {
            if self.context.settings.allow_simulated {
                return ApiError::unavailable("this agent has not joined the cluster yet");
            }
            let message = "this agent has no simulated hosts; start it with --allow-simulated to bring some up";
            Invalid::new(InvalidCode::InvalidOption, "uri", message).into()
        })
    }

    /// What was written is read again as soon as this host has heard of it: of the record of the host that is up, and of its lease,
    /// which comes by a watch of its own and may be heard of later.
    async fn until_seen(&self, declared: &'static Type, id: u64) -> Result<Arc<Resource>, ApiError> {
        let host = types::find("host").ok_or_else(ApiError::internal)?;
        let seen = async {
            loop {
                if self.reader.one(host, id).await?.is_some_and(|host| host.state != State::Disconnected)
                    && let Some(row) = self.reader.one(declared, id).await?
                {
                    return Ok(row);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let late = || ApiError::unavailable("the simulated host is up, and this agent has not heard of it yet");
        tokio::time::timeout(SEEN, seen).await.map_err(|_| late())?
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Join(JoinError::Store(error)) => Self::unavailable(error.to_string()),
            Refused::Join(error @ JoinError::Name(_)) => {
                Invalid::new(InvalidCode::InvalidFormat, "uri", error.to_string()).into()
            }
            Refused::Join(error) => Self::new(StatusCode::CONFLICT, error.to_string()),
            error @ Refused::Late(_) => Self::unavailable(error.to_string()),
            error @ (Refused::Files(_) | Refused::Ledger(_)) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::error!(%error, cause, "a simulated host does not come up or go");
                Self::internal()
            }
        }
    }
}
