//! What other agents ask this one, by mutual TLS: who comes here has shown a certificate of the cluster's authority.
//!
//! `GET /agent/v1/lease` is the question of [`crate::membership::peers`]. It is answered with the store away too, when it matters most.
//! `GET /agent/v1/mesh` is how its host reaches the others ([`super::mesh`]).
//! `GET /agent/v1/streams/…` opens a stream with what runs here ([`super::streams`]).

use super::{Context, streams};
use crate::membership::peers::Answer;
use crate::membership::record::Host;
use crate::membership::trust::{LEASE, MESH};
use crate::store::{decode, key};
use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

/// For the record of who asks. Whoever waits for an answer has a second in all.
const RECORD: Duration = Duration::from_millis(300);

/// The agent at the other end of a connection, as its certificate has it; in each request's extensions.
#[derive(Clone, Debug)]
pub struct Agent {
    pub host: Arc<str>,
    pub identity: Arc<str>,
}

/// What this host's agent says of its own lease.
#[async_trait::async_trait]
pub trait OwnLease: Debug + Send + Sync {
    async fn answer(&self) -> Answer;
}

pub fn router(context: Arc<Context>) -> Router {
    Router::new()
        .route(LEASE, get(lease))
        .route(MESH, get(mesh))
        .route(&format!("{}/{{kind}}/{{id}}/{{uuid}}", streams::PATH), get(stream))
        .layer(from_fn_with_state(context.clone(), known))
        .fallback(async || (StatusCode::NOT_FOUND, "this agent knows no such question; it may be of another version"))
        .with_state(context)
}

async fn lease(State(context): State<Arc<Context>>) -> Response {
    let answer = match &context.lease {
        Some(lease) => lease.answer().await,
        None => Answer::Silent,
    };
    json(&answer)
}

async fn mesh(State(context): State<Arc<Context>>) -> Response {
    match context.mesh.get() {
        Some(mesh) => json(&mesh.report()),
        None => (StatusCode::NOT_FOUND, "this host has no managed network").into_response(),
    }
}

async fn stream(
    State(context): State<Arc<Context>>,
    Path((kind, id, uuid)): Path<(String, String, String)>,
    request: Request,
) -> Response {
    let (parts, _) = request.into_parts();
    match streams::answer_agent(&context, &parts, [&kind, &id, &uuid]).await {
        Ok(response) => response,
        Err(error) => error.response(&context.environment.uuid().to_string()),
    }
}

fn json(answer: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(answer) {
        Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
        Err(error) => {
            tracing::error!(%error, "an answer could not be written");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// Lets in whom the cluster knows: a certificate outlives the host that it was made for, and a name may have come to
/// another host since. Where the store cannot be asked, the certificate has to do.
async fn known(State(context): State<Arc<Context>>, request: Request, next: Next) -> Response {
    let Some(agent) = request.extensions().get::<Agent>().cloned() else {
        return (StatusCode::FORBIDDEN, "only agents are answered here").into_response();
    };
    let record = match tokio::time::timeout(RECORD, context.store.get(&key::host(&agent.host))).await {
        Ok(Ok(lookup)) => lookup.entry.map(|entry| decode::<Host>(&entry)),
        Ok(Err(_)) | Err(_) => return next.run(request).await,
    };
    match record {
        Some(Ok(host)) if *host.identity == *agent.identity => next.run(request).await,
        Some(Ok(_)) | None => {
            tracing::warn!(host = %agent.host, identity = %agent.identity, "an agent is refused: its host was removed or replaced");
            (StatusCode::FORBIDDEN, "the cluster knows no host of this name and identity").into_response()
        }
        Some(Err(error)) => {
            tracing::error!(host = %agent.host, %error, "an agent is refused: its host's record cannot be read");
            StatusCode::FORBIDDEN.into_response()
        }
    }
}
