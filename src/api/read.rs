//! Reading: one resource, lists, what links lead to.

use super::collection::{Body, Query};
use super::error::ApiError;
use super::exchange::{Answer, Exchange, create_defaults};
use super::view::{Frame, Included};
use crate::resource::declaration::{Link, LinkPath, Type};
use crate::resource::{Resource, types};
use axum::http::StatusCode;
use serde_json::{Map, Value};
use std::sync::Arc;

impl Exchange<'_> {
    pub fn frame<'b>(&'b self, included: &'b [Included]) -> Frame<'b> {
        Frame { base: &self.request.base, principal: &self.request.principal, included }
    }

    pub async fn show(&self, declared: &'static Type, row: &Arc<Resource>) -> Result<Answer, ApiError> {
        let included = self.included(types::of(declared, row), std::slice::from_ref(row)).await?;
        Answer::json(StatusCode::OK, &self.frame(&included).show(declared, row))
    }

    /// A resource as the answer to a write.
    pub fn written(
        &self,
        status: StatusCode,
        declared: &'static Type,
        row: &Resource,
        secret: Option<&str>,
    ) -> Result<Answer, ApiError> {
        let frame = self.frame(&[]);
        let mut shown = frame.show(declared, row);
        shown.secret = secret;
        Answer::json(status, &shown)
    }

    pub async fn list(&self, declared: &'static Type) -> Result<Answer, ApiError> {
        let query = Query::read(declared, self.request, self.context.environment.clock.now())?;
        let rows = self.reader.part(declared, query.cut(), |row| query.holds(row)).await?;
        self.page(declared, &query, rows, Map::new()).await
    }

    /// Rows that were just made, as a list.
    pub fn several(&self, declared: &'static Type, rows: Vec<Arc<Resource>>) -> Result<Answer, ApiError> {
        let address = format!("{}/{}", self.request.base, declared.plural.to_ascii_lowercase());
        let envelope = super::collection::envelope(declared.name, &address);
        Answer::json(StatusCode::CREATED, &Body::new(&envelope, &self.frame(&[]), declared, &rows))
    }

    pub async fn linked(
        &self,
        declared: &'static Type,
        row: &Arc<Resource>,
        link: &'static Link,
        target: &'static Type,
    ) -> Result<Answer, ApiError> {
        let mut followed = self.reader.follow(types::of(declared, row), link, std::slice::from_ref(row)).await?;
        let mut rows = followed.as_mut().and_then(|followed| followed.rows.remove(&row.id)).unwrap_or_default();
        if let LinkPath::One(_) = link.path {
            let to = rows.first().ok_or_else(|| {
                ApiError::not_found(format!("this {} has no {}, or none that this account sees", row.kind, link.name))
            })?;
            return self.show(target, to).await;
        }
        let query = Query::read(target, self.request, self.context.environment.clock.now())?;
        rows.retain(|row| query.holds(row));
        self.page(target, &query, rows, create_defaults(declared, link, row)).await
    }

    async fn page(
        &self,
        declared: &'static Type,
        query: &Query,
        rows: Vec<Arc<Resource>>,
        defaults: Map<String, Value>,
    ) -> Result<Answer, ApiError> {
        let page = query.page(rows);
        let included = self.included(declared, &page.rows).await?;
        let envelope = query.envelope(declared, self.request, &page, defaults);
        Answer::json(StatusCode::OK, &Body::new(&envelope, &self.frame(&included), declared, &page.rows))
    }

    /// What `include` asks for, for the rows that are shown.
    pub async fn included(&self, declared: &'static Type, rows: &[Arc<Resource>]) -> Result<Vec<Included>, ApiError> {
        let mut included: Vec<Included> = Vec::new();
        for (_, name) in self.request.query.iter().filter(|(parameter, _)| parameter == "include") {
            let Some(link) = declared.link(name) else { continue };
            if included.iter().any(|known| known.name == link.name) {
                continue;
            }
            included.extend(self.reader.follow(declared, link, rows).await?);
        }
        Ok(included)
    }
}
