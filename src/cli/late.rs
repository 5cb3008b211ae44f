//! The service before the agent has joined the cluster: it says so, and nothing else.

use crate::orchestration::{Draft, Orchestrator, Publication, Service, ServiceError, Written};
use crate::store::{Error, Revision};
use serde_json::{Map, Value};
use std::sync::OnceLock;

/// Answers `503` until it is given the orchestrator.
#[derive(Debug, Default)]
pub struct LateService(OnceLock<Orchestrator>);

impl LateService {
    pub fn set(&self, orchestrator: Orchestrator) {
        // Set once, by the one who joined.
        let _ = self.0.set(orchestrator);
    }

    fn get(&self) -> Result<&Orchestrator, ServiceError> {
        self.0.get().ok_or_else(|| {
            ServiceError::Store(Error::Unavailable { message: "this agent has not joined the cluster yet".into() })
        })
    }
}

#[async_trait::async_trait]
impl Service for LateService {
    async fn create(&self, draft: Draft) -> Result<Written, ServiceError> {
        self.get()?.create(draft).await
    }

    async fn update_if(
        &self,
        base: &str,
        id: u64,
        changes: Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        self.get()?.update_if(base, id, changes, expected).await
    }

    async fn act_if(
        &self,
        base: &str,
        id: u64,
        action: &str,
        input: Map<String, Value>,
        expected: Option<Revision>,
    ) -> Result<Written, ServiceError> {
        self.get()?.act_if(base, id, action, input, expected).await
    }

    async fn publish(&self, publication: Publication) -> Result<bool, ServiceError> {
        self.get()?.publish(publication).await
    }
}
