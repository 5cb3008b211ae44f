//! What the API asks of the cluster: create, change, act. Whoever answers it decides by transactions alone.

use super::Publication;
use crate::resource::{Resource, State};
use crate::store::{self, Revision};
use serde_json::{Map, Value};
use std::fmt::Debug;

/// A resource that was checked against its type's declaration and is to be made.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// Under which it is stored: `instance`, `credential`, `account`.
    pub base: String,
    /// As its resource has it. The type where that is one of several of its base (`container`, `apiKey`); else what the
    /// client chose, like `user` for an account, or the base.
    pub kind: String,
    pub account_id: Option<u64>,
    pub uuid: Option<String>,
    pub name: Option<String>,
    pub description: Option<String>,
    pub data: Map<String, Value>,
    /// The type's fields, with defaults, references as plain numbers; also those that are never shown (`networkIds`).
    pub fields: Map<String, Value>,
}

/// What was written, and when: a read on this node waits until it knows that revision.
#[derive(Clone, Debug)]
pub struct Written {
    pub resources: Vec<Resource>,
    pub revision: Revision,
    /// The base types whose records were written, beside the one that the rows' type is kept in where that is only one.
    pub bases: Vec<&'static str>,
}

impl Written {
    pub fn one(resource: Resource, revision: Revision) -> Self {
        Self { resources: vec![resource], revision, bases: Vec::new() }
    }
}

/// Why something was not done. Nothing was changed then, but for [`store::Error::OutcomeUnknown`].
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    #[error("there is no such resource")]
    NotFound,
    /// It is not any more what whoever asked went by.
    #[error("it was changed meanwhile")]
    Changed,
    /// Another with the same uuid, or it is busy.
    #[error("{0}")]
    Conflict(String),
    #[error("{action} is not possible while it is {state}")]
    ActionNotAvailable { action: String, state: State },
    /// `code` as in the contract: `InvalidReference`, `MissingRequired`.
    #[error("{message}")]
    Invalid { code: &'static str, field: Option<String>, message: String },
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl ServiceError {
    /// After as many tries as there are of one change.
    pub(super) fn busy() -> Self {
        Self::Conflict("it is being changed by others all the time; try again".into())
    }
}

/// See the module's text.
#[async_trait::async_trait]
pub trait Service: Debug + Send + Sync {
    /// Makes one, or as many as its `count` says.
    async fn create(&self, draft: Draft) -> Result<Written, ServiceError>;
    /// Changes fields; null takes one away. Where `expected` is given, only what was last written at that revision.
    async fn update_if(
        &self,
        base: &str,
        id: u64,
        changes: Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError>;
    /// Begins a transition: `start`, `stop`, `remove`; `expected` as above.
    async fn act_if(
        &self,
        base: &str,
        id: u64,
        action: &str,
        input: Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError>;
    /// Takes what an external handler says to an event; whether anything waited for it.
    async fn publish(&self, publication: Publication) -> Result<bool, ServiceError>;

    /// [`Self::update_if`], whatever it is now.
    async fn update(&self, base: &str, id: u64, changes: Map<String, Value>) -> Result<Written, ServiceError> {
        self.update_if(base, id, changes, None).await
    }

    /// [`Self::act_if`], whatever it is now.
    async fn act(&self, base: &str, id: u64, action: &str, input: Map<String, Value>) -> Result<Written, ServiceError> {
        self.act_if(base, id, action, input, None).await
    }
}
