//! One request of one account: what its path and method mean.

use super::Context;
use super::cache::Tagged;
use super::collection;
use super::definitions;
use super::error::ApiError;
use super::mesh;
use super::reader::Reader;
use super::request::Request;
use super::simulated;
use super::wait::{Ended, Wait};
use crate::resource::declaration::{Link, LinkPath, Type};
use crate::resource::{Resource, identifier, openapi, schema, types};
use axum::body::Bytes;
use axum::http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// What is to be sent.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Vec<u8>,
    /// For how long nothing newer could be known.
    pub stale: Option<Duration>,
    pub etag: Option<String>,
    /// How a wait ended, where one was asked for.
    pub waited: Option<Ended>,
}

/// What reading and writing share.
#[derive(Debug)]
pub struct Exchange<'a> {
    pub context: &'a Context,
    pub request: &'a Request,
    pub reader: Reader<'a>,
}

/// `/`: the versions there are.
pub fn versions(request: &Request) -> Result<Answer, ApiError> {
    only_get(request)?;
    let root = request.base.trim_end_matches("/v1");
    let mut envelope = collection::envelope("apiVersion", &format!("{root}/"));
    envelope.insert("links".into(), json!({ "self": format!("{root}/"), "latest": request.base }));
    let version = json!({ "id": "v1", "type": "apiVersion", "links": { "self": request.base }, "actions": {} });
    envelope.insert("data".into(), json!([version]));
    Answer::json(StatusCode::OK, &envelope)
}

/// Everything below `/v1`.
pub async fn answer(context: &Context, request: &Request, body: Bytes) -> Result<Answer, ApiError> {
    let exchange = Exchange { context, request, reader: Reader::new(&context.cache, &request.principal) };
    let mut answer = exchange.route(body).await?;
    answer.stale = exchange.reader.stale();
    Ok(answer)
}

impl Exchange<'_> {
    async fn route(&self, body: Bytes) -> Result<Answer, ApiError> {
        let path: Vec<&str> = self.request.path.iter().map(String::as_str).collect();
        match path.as_slice() {
            [] => self.version(),
            ["openapi.json"] => self.openapi(),
            [publish] if publish.eq_ignore_ascii_case("publish") => self.publish(body).await,
            [collection] => {
                let declared = self.collection_type(collection)?;
                if declared.name == "schema" {
                    return self.schemas();
                }
                if definitions::is_defined(declared) {
                    return self.definitions(declared, None).await;
                }
                match self.request.method {
                    Method::GET | Method::HEAD => self.list(declared).await,
                    Method::POST if simulated::concerns(declared) => self.bring_up(declared, body).await,
                    Method::POST => self.create(declared, Map::new(), body).await,
                    _ => Err(self.not_allowed(declared.collection_methods)),
                }
            }
            [collection, id] => {
                let declared = self.collection_type(collection)?;
                if declared.name == "schema" {
                    return self.schema(id);
                }
                if definitions::is_defined(declared) {
                    return self.definitions(declared, Some(id)).await;
                }
                let row = self.row(declared, id).await?;
                match self.request.method {
                    Method::GET | Method::HEAD => self.get(declared, row).await,
                    Method::PUT => self.update(declared, &row, body).await,
                    Method::DELETE if simulated::concerns(declared) => self.take_down(declared, &row).await,
                    Method::DELETE => self.remove(declared, &row).await,
                    Method::POST if !declared.actions.is_empty() => self.act(declared, &row, body).await,
                    _ => {
                        let acts = (!declared.actions.is_empty()).then_some("POST");
                        let methods: Vec<&str> = declared.resource_methods.iter().copied().chain(acts).collect();
                        Err(self.not_allowed(&methods))
                    }
                }
            }
            [collection, id, mesh::LINK] if mesh::concerns(collection) => self.mesh(id).await,
            [collection, id, link] => {
                let declared = self.collection_type(collection)?;
                let Tagged { row, .. } = self.row(declared, id).await?;
                let (link, target) = Self::link(declared, &row, link)?;
                match (&self.request.method, link.path) {
                    (&Method::GET | &Method::HEAD, _) => self.linked(declared, &row, link, target).await,
                    (&Method::POST, LinkPath::Many(_)) => {
                        self.create(target, create_defaults(declared, link, &row), body).await
                    }
                    _ => Err(self.not_allowed(&["GET"])),
                }
            }
            _ => Err(ApiError::not_found("there is nothing at this address; a resource's links say where things are")),
        }
    }

    /// The type of `/v1/<plural>`: one that has a list.
    fn collection_type(&self, name: &str) -> Result<&'static Type, ApiError> {
        types::find_address(name).filter(|declared| declared.listable).ok_or_else(|| {
            ApiError::not_found(format!("there is no /v1/{name:.40}; {} lists what there is", self.request.base))
        })
    }

    /// The row of that id: to be shown from memory, to be changed as it is now.
    pub async fn row(&self, declared: &'static Type, text: &str) -> Result<Tagged, ApiError> {
        let shown = matches!(self.request.method, Method::GET | Method::HEAD);
        self.find(declared, text, shown).await
    }

    /// The same as it is now, whatever is done with it.
    pub async fn current_row(&self, declared: &'static Type, text: &str) -> Result<Tagged, ApiError> {
        self.find(declared, text, false).await
    }

    async fn find(&self, declared: &'static Type, text: &str, from_memory: bool) -> Result<Tagged, ApiError> {
        let missing = || {
            let list = declared.plural.to_ascii_lowercase();
            ApiError::not_found(format!(
                "there is no {} {text:.40}; {}/{list} lists them",
                declared.name, self.request.base
            ))
        };
        let plain = self.request.principal.sees_all() && self.request.parameter("_plainId") == Some("true");
        let id = identifier::parse(declared.base, text).or_else(|| text.parse().ok().filter(|_| plain));
        let id = id.ok_or_else(missing)?;
        let found = if from_memory {
            self.reader.recalled(declared, id).await?
        } else {
            self.reader.tagged(declared, id).await?
        };
        found.ok_or_else(missing)
    }

    /// One resource; where that is asked for, when it is in a state.
    async fn get(&self, declared: &'static Type, row: Tagged) -> Result<Answer, ApiError> {
        let (row, ended) = match Wait::read(self.request)? {
            Some(wait) => {
                let (row, ended) = self.wait(declared, &wait, row).await?;
                (row, Some(ended))
            }
            None => (row, None),
        };
        let answer = self.show(declared, &row.row).await?;
        Ok(Answer { waited: ended, ..self.request.tagged(answer, &row.tag) })
    }

    fn link(declared: &'static Type, row: &Resource, name: &str) -> Result<(&'static Link, &'static Type), ApiError> {
        let link = types::of(declared, row).link(name);
        link.and_then(|link| Some((link, types::find(link.target)?))).ok_or_else(|| {
            ApiError::not_found(format!("a {} has no link {name:.40}; its links say which it has", row.kind))
        })
    }

    /// 405, and what there is.
    pub fn not_allowed(&self, methods: &[&str]) -> ApiError {
        ApiError::not_allowed(&self.request.method, methods)
    }

    /// `/v1`: an address for each list.
    fn version(&self) -> Result<Answer, ApiError> {
        only_get(self.request)?;
        let mut links = Map::new();
        links.insert("self".into(), Value::from(self.request.base.as_str()));
        for declared in types::ALL.iter().filter(|declared| declared.listable) {
            let address = format!("{}/{}", self.request.base, declared.plural.to_ascii_lowercase());
            links.insert(declared.plural.into(), Value::from(address));
        }
        Answer::json(StatusCode::OK, &json!({ "id": "v1", "type": "apiVersion", "links": links, "actions": {} }))
    }

    fn openapi(&self) -> Result<Answer, ApiError> {
        only_get(self.request)?;
        let origin = self.request.base.trim_end_matches("/v1");
        Answer::json(StatusCode::OK, &openapi::document(self.request.principal.writer(), origin))
    }

    fn schemas(&self) -> Result<Answer, ApiError> {
        only_get(self.request)?;
        let writer = self.request.principal.writer();
        let schemas = types::ALL.iter().map(|declared| schema::schema(declared, writer, &self.request.base));
        let mut envelope = collection::envelope("schema", &format!("{}/schemas", self.request.base));
        envelope.insert("data".into(), schemas.collect());
        Answer::json(StatusCode::OK, &envelope)
    }

    fn schema(&self, id: &str) -> Result<Answer, ApiError> {
        only_get(self.request)?;
        let declared = types::find_address(id).ok_or_else(|| {
            ApiError::not_found(format!("there is no schema {id:.40}; {}/schemas lists them", self.request.base))
        })?;
        let writer = self.request.principal.writer();
        Answer::json(StatusCode::OK, &schema::schema(declared, writer, &self.request.base))
    }
}

pub fn only_get(request: &Request) -> Result<(), ApiError> {
    match request.method {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(ApiError::not_allowed(&request.method, &["GET"])),
    }
}

/// What a POST to a list under a parent fills in: the parent's id.
pub fn create_defaults(declared: &'static Type, link: &Link, parent: &Resource) -> Map<String, Value> {
    let mut defaults = Map::new();
    if let Some(field) = link.create_default {
        defaults.insert(field.into(), Value::from(identifier::format(declared.base, parent.id)));
    }
    defaults
}
