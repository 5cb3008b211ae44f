//! Writing: create, update, remove, act. What a client sent is checked here; what becomes of it, orchestration decides.

use super::cache::{Tag, Tagged};
use super::error::ApiError;
use super::exchange::{Answer, Exchange};
use super::quota::Usage;
use super::wait::Wait;
use super::{body, idempotency, secret, streams};
use crate::orchestration::{Draft, ServiceError, Written};
use crate::resource::declaration::Type;
use crate::resource::types::virtual_machine::CONSOLE;
use crate::resource::validation::{self, Invalid, InvalidCode};
use crate::resource::{Resource, State, floating, identifier, instance, schema, transition, types};
use axum::body::Bytes;
use axum::http::StatusCode;
use serde_json::{Map, Value};
use std::sync::Arc;

impl Exchange<'_> {
    pub async fn create(
        &self,
        declared: &'static Type,
        defaults: Map<String, Value>,
        bytes: Bytes,
    ) -> Result<Answer, ApiError> {
        if let Some(action) = self.request.parameter("action") {
            let message = format!("a list has no action {action:.40}; ask it of one resource");
            return Err(ApiError::invalid(InvalidCode::InvalidAction, message));
        }
        let mut input = body::parse(&self.request.content_type, bytes).await?;
        for (field, value) in defaults {
            let given = input.entry(field).or_insert(Value::Null);
            if given.is_null() {
                *given = value;
            }
        }
        let declared = chosen(declared, &input);
        if !declared.collection_methods.contains(&"POST") {
            return Err(self.not_allowed(declared.collection_methods));
        }
        self.may(schema::may_use(declared, "POST", self.request.principal.writer()), declared)?;
        let mut fields = validation::creation(declared, &input, self.request.principal.writer())?;
        self.check_references(declared, &fields).await?;
        let mut text = |name: &str| match fields.remove(name) {
            Some(Value::String(text)) if !text.is_empty() => Some(text),
            _ => None,
        };
        let kind = text("kind").filter(|_| !declared.is_subtype()).unwrap_or_else(|| declared.name.to_owned());
        let (uuid, name, description) = (text("uuid"), text("name"), text("description"));
        if uuid.as_deref().is_some_and(|uuid| uuid.chars().any(|letter| letter.is_control() || letter.is_whitespace()))
        {
            let message = "a uuid has no blanks and control characters; leave it out to be given one";
            return Err(Invalid::new(InvalidCode::InvalidCharacters, "uuid", message).into());
        }
        let wait = Wait::read(self.request)?;
        let data = match fields.remove("data") {
            Some(Value::Object(data)) => data,
            _ => Map::new(),
        };
        let account = fields.remove("accountId").and_then(|account| account.as_u64());
        let owner = account.unwrap_or(self.request.principal.account);
        let account_id = declared.field("accountId").map(|_| owner);
        let (uuid, again) = match (&self.request.idempotency_key, uuid) {
            (Some(given), None) => {
                if fields.get("count").and_then(Value::as_u64).is_some_and(|count| count > 1) {
                    let message = "an Idempotency-Key stands for one resource: ask for each by itself, or leave it out";
                    return Err(Invalid::new(InvalidCode::InvalidOption, "count", message).into());
                }
                (Some(idempotency::uuid(given, self.request.principal.account, declared)?), true)
            }
            (Some(_), uuid) => (uuid, true),
            (None, uuid) => (uuid, false),
        };
        let known = uuid.clone().filter(|_| again);
        if let Some(uuid) = &known
            && let Some(row) = self.made_before(declared, uuid, account_id).await?
        {
            return self.written(StatusCode::OK, declared, &row, None);
        }
        let told = match declared.base {
            "credential" => secret::prepare(&self.context.environment, &kind, &mut fields).await?,
            _ => None,
        };
        let base = declared.base.to_owned();
        let draft = Draft { base, kind, account_id, uuid, name, description, data, fields };
        let made = match declared.base {
            instance::BASE => {
                let count = draft.fields.get("count").and_then(Value::as_u64).unwrap_or(1);
                let wants = Usage::asked(&draft.kind, &draft.fields, count);
                self.within_quota(owner, wants, self.context.service.create(draft)).await?
            }
            _ => self.context.service.create(draft).await,
        };
        let written = match made {
            // Somebody, or this client's first try, was faster.
            Err(ServiceError::Conflict(message)) => {
                let before = match &known {
                    Some(uuid) => self.made_before(declared, uuid, account_id).await?,
                    None => None,
                };
                let row = before.ok_or_else(|| ApiError::from(ServiceError::Conflict(message)))?;
                return self.written(StatusCode::OK, declared, &row, None);
            }
            written => written?,
        };
        self.finish(StatusCode::CREATED, declared, written, wait, told.as_deref()).await
    }

    pub async fn update(&self, declared: &'static Type, found: &Tagged, bytes: Bytes) -> Result<Answer, ApiError> {
        let row = &*found.row;
        let declared = types::of(declared, row);
        self.changeable(declared, row, "PUT")?;
        let (expected, wait) = (self.request.expected(&found.tag)?, Wait::read(self.request)?);
        let input = body::parse(&self.request.content_type, bytes).await?;
        let mut changes = validation::change(declared, row, &input, self.request.principal.writer())?;
        if changes.is_empty() {
            return Ok(self.request.tagged(self.written(StatusCode::OK, declared, row, None)?, &found.tag));
        }
        self.check_references(declared, &changes).await?;
        if declared.base == "credential" {
            secret::hash_secret(&self.context.environment, &mut changes).await?;
        }
        let more = Usage::grown(row, &changes);
        let writing = self.context.service.update_if(declared.base, row.id, changes, expected);
        let written = match row.account_id {
            Some(owner) if declared.base == instance::BASE && more != Usage::default() => {
                self.within_quota(owner, more, writing).await??
            }
            _ => writing.await?,
        };
        self.finish(StatusCode::OK, declared, written, wait, None).await
    }

    /// What runs is stopped first; that too is for orchestration to see to.
    pub async fn remove(&self, declared: &'static Type, found: &Tagged) -> Result<Answer, ApiError> {
        let row = &*found.row;
        let declared = types::of(declared, row);
        self.changeable(declared, row, "DELETE")?;
        let (expected, wait) = (self.request.expected(&found.tag)?, Wait::read(self.request)?);
        let written = self.context.service.act_if(declared.base, row.id, "remove", Map::new(), expected).await?;
        self.finish(StatusCode::OK, declared, written, wait, None).await
    }

    pub async fn act(&self, declared: &'static Type, found: &Tagged, bytes: Bytes) -> Result<Answer, ApiError> {
        let row = &*found.row;
        let declared = types::of(declared, row);
        let Some(name) = self.request.parameter("action") else {
            let message = "say which action: POST …/?action=<name>, one of the resource's actions";
            return Err(ApiError::invalid(InvalidCode::InvalidAction, message));
        };
        let Some(action) = declared.action(name) else {
            let known: Vec<&str> = declared.actions.iter().map(|action| action.name).collect();
            let message = format!("a {} has no action {name:.40}; it has {}", declared.name, known.join(", "));
            return Err(ApiError::invalid(InvalidCode::InvalidAction, message));
        };
        self.may(self.request.principal.may_ask(declared, row, action.name), declared)?;
        if action.name == CONSOLE {
            return self.console(row);
        }
        let (expected, wait) = (self.request.expected(&found.tag)?, Wait::read(self.request)?);
        let input = body::parse(&self.request.content_type, bytes).await?;
        let mut input = match action.input.and_then(types::find) {
            Some(form) => validation::action(form, &input)?,
            None => Map::new(),
        };
        if transition::allowed(declared.base, action.name, row.state).is_none() {
            let possible: Vec<&str> = transition::actions_of(declared.base, row.state).collect();
            let possible = if possible.is_empty() { "nothing".into() } else { possible.join(", ") };
            let message = format!("{name} is not possible while it is {}; {possible} is", row.state);
            return Err(ApiError::invalid(InvalidCode::ActionNotAvailable, message));
        }
        if declared.base == floating::POOL {
            // Whose it is to be.
            input.insert("accountId".into(), self.request.principal.account.into());
        }
        let acting = self.context.service.act_if(declared.base, row.id, action.name, input, expected);
        let written = match row.account_id {
            // It counts again.
            Some(owner) if declared.base == instance::BASE && action.name == "restore" => {
                self.within_quota(owner, Usage::of(row), acting).await??
            }
            _ => acting.await?,
        };
        // What is acquired of a pool is no pool.
        let made = written.resources.first().and_then(|row| types::find(&row.kind));
        let declared = made.filter(|made| made.base != declared.base).unwrap_or(declared);
        self.finish(StatusCode::ACCEPTED, declared, written, wait, None).await
    }

    /// The way to a virtual machine's screen.
    fn console(&self, row: &Resource) -> Result<Answer, ApiError> {
        if row.state != State::Running {
            let message = format!("it has a console while it runs; it is {}", row.state);
            return Err(ApiError::invalid(InvalidCode::ActionNotAvailable, message));
        }
        Answer::json(StatusCode::ACCEPTED, &streams::screen(self.context, self.request)?)
    }

    /// The answer to a write: what was written, or what has become of it when what was waited for is there.
    async fn finish(
        &self,
        status: StatusCode,
        declared: &'static Type,
        written: Written,
        wait: Option<Wait>,
        secret: Option<&str>,
    ) -> Result<Answer, ApiError> {
        if let [base] = declared.kept_in() {
            self.context.cache.wrote(&[base], written.revision);
        }
        self.context.cache.wrote(&written.bases, written.revision);
        let tag = Tag::of(written.revision);
        let (rows, waited) = match wait {
            Some(wait) => {
                let (rows, ended) = self.wait_all(declared, &wait, written.resources, &tag).await?;
                (rows, Some(ended))
            }
            None => {
                let tagged = |row| Tagged { row: Arc::new(row), tag: tag.clone() };
                (written.resources.into_iter().map(tagged).collect(), None)
            }
        };
        let answer = match rows.as_slice() {
            [] => return Err(ApiError::internal()),
            // Of a host, more records count than the one that was written; a part has a version of its own.
            [one] if declared.base == "host" || declared.derived.is_some() => {
                self.written(status, declared, &one.row, secret)?
            }
            [one] => self.request.tagged(self.written(status, declared, &one.row, secret)?, &one.tag),
            _ => self.several(declared, rows.into_iter().map(|it| it.row).collect())?,
        };
        Ok(Answer { waited, ..answer })
    }

    fn changeable(&self, declared: &'static Type, row: &Resource, method: &str) -> Result<(), ApiError> {
        if !declared.resource_methods.contains(&method) {
            return Err(self.not_allowed(declared.resource_methods));
        }
        self.may(self.request.principal.may_write(declared, row), declared)
    }

    pub fn may(&self, may: bool, declared: &Type) -> Result<(), ApiError> {
        if may && self.request.principal.may_change() {
            return Ok(());
        }
        let message =
            format!("this account may not change this {}; ask with a key of its owner or of an admin", declared.name);
        Err(ApiError::forbidden(message))
    }

    /// Every reference leads to something that is there and that this account sees.
    async fn check_references(&self, declared: &Type, values: &Map<String, Value>) -> Result<(), ApiError> {
        for (field, to, id) in validation::references(declared, values) {
            let row = match types::find(to) {
                Some(target) => self.reader.one(target, id).await?,
                None => None,
            };
            if row.is_none_or(|row| row.removed.is_some()) {
                let shown = identifier::format(types::base_of(to), id);
                let message = format!("there is no {to} {shown}; give one that is there, or leave it out");
                return Err(Invalid::new(InvalidCode::InvalidReference, field, message).into());
            }
        }
        Ok(())
    }
}

/// The type that is to be made: in the list of a base, the body can name one of its subtypes.
fn chosen(declared: &'static Type, input: &Map<String, Value>) -> &'static Type {
    let named = |field: &str| {
        let name = input.get(field)?.as_str()?;
        types::subtypes(declared.name).find(|subtype| subtype.name == name)
    };
    named("type").or_else(|| named("kind")).unwrap_or(declared)
}
