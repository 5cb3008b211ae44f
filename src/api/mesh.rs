//! `GET /v1/hosts/<id>/mesh`: how a host reaches the others. Only its own agent knows: whoever is asked asks that one.

use super::error::ApiError;
use super::exchange::{Answer, Exchange};
use crate::membership::trust::MESH;
use crate::network::report::MeshReport;
use crate::resource::{identifier, types};
use axum::http::{Method, StatusCode};
use serde_json::json;

pub const LINK: &str = "mesh";
const HOST: &str = "host";

/// Whether a path's first part is the hosts.
pub fn concerns(collection: &str) -> bool {
    types::find_address(collection).is_some_and(|declared| declared.name == HOST)
}

impl Exchange<'_> {
    pub async fn mesh(&self, id: &str) -> Result<Answer, ApiError> {
        if !matches!(self.request.method, Method::GET | Method::HEAD) {
            return Err(self.not_allowed(&["GET"]));
        }
        if !self.request.principal.sees_all() {
            return Err(ApiError::forbidden("how hosts reach each other is for administrators"));
        }
        let declared = types::find(HOST).ok_or_else(ApiError::internal)?;
        let row = self.row(declared, id).await?.row;
        let name = row.name.clone().unwrap_or_default();
        let report = self.mesh_of(&name).await?;
        let host = identifier::format(HOST, row.id);
        let origin = format!("{}/hosts/{host}", self.request.base);
        let mut answer = serde_json::to_value(report).map_err(|_| ApiError::internal())?;
        if let Some(fields) = answer.as_object_mut() {
            fields.insert("type".into(), "mesh".into());
            fields.insert("hostId".into(), host.into());
            fields.insert("links".into(), json!({ "self": format!("{origin}/{LINK}"), HOST: origin }));
            fields.insert("actions".into(), json!({}));
        }
        Answer::json(StatusCode::OK, &answer)
    }

    async fn mesh_of(&self, name: &str) -> Result<MeshReport, ApiError> {
        let context = self.context;
        if let Some(report) = context.mesh.get().map(|mesh| mesh.report()).filter(|report| report.host == name) {
            return Ok(report);
        }
        let (Some(trust), Some((host, alive))) = (&context.trust, context.agent_of(name).await?) else {
            return Err(silent(name, "it is not there"));
        };
        trust.question(&host, &alive.address, MESH).await.map_err(|error| silent(name, &error.to_string()))
    }
}

/// Only that host could have told.
fn silent(name: &str, why: &str) -> ApiError {
    ApiError {
        detail: Some(why.to_owned()),
        ..ApiError::with_code(
            StatusCode::SERVICE_UNAVAILABLE,
            "HostUnavailable",
            format!(
                "{name} does not say how it reaches the others; ask again when it is active, or look on it with `ip xfrm state`"
            ),
        )
    }
}
