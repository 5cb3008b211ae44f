//! One subscriber: from the feed to its client, what it may see and wants to hear.
//!
//! Every five seconds it is told a ping, and looked whether its key still opens. It ends when its client goes, when it is
//! too far behind, when something was missed, or with the agent; where it can, with an event `error` that says why.

use super::Closing;
use super::feed::{Backlog, News, Place, Row};
use super::names::Names;
use super::outlet::{NotTaken, Outlet};
use crate::api::cache::Known;
use crate::api::error::ApiError;
use crate::api::exchange::Exchange;
use crate::api::publish::REPLY;
use crate::api::reader::Reader;
use crate::api::request::Request;
use crate::api::{Context, router};
use crate::orchestration::handlers::hold as handlers;
use crate::resource::declaration::Type;
use crate::resource::{Resource, identifier, types};
use crate::store::Revision;
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

/// How often a ping is told.
const PING: Duration = Duration::from_secs(5);
/// So many events of handlers are remembered.
const MOST_HEARD: usize = 1000;
const CHANGE: &str = "resource.change";

/// See the module's text.
#[derive(Debug)]
pub struct Subscriber {
    pub context: Arc<Context>,
    /// For signing in again.
    pub parts: Parts,
    pub request: Request,
    pub names: Names,
    pub outlet: Outlet,
    pub place: Place,
    pub since: Option<Revision>,
    /// What was told to external handlers, and which time it was: what comes two ways is told once.
    pub heard: HashMap<String, u32>,
    pub _permit: OwnedSemaphorePermit,
}

/// Why it ends: nothing to say to one that is gone.
enum End {
    Gone,
    Told { code: &'static str, message: String },
}

impl From<NotTaken> for End {
    fn from(not_taken: NotTaken) -> Self {
        match not_taken {
            NotTaken::Gone => Self::Gone,
            NotTaken::Slow => slow(),
        }
    }
}

fn slow() -> End {
    let message = "events come faster than you read them; subscribe again with since=<the last event's revision>";
    End::Told { code: "SlowReader", message: message.into() }
}

impl Subscriber {
    pub async fn run(mut self, backlog: Option<Backlog>) {
        // Everything up to it was told.
        let mut told = self.since.unwrap_or(self.place.after);
        let Err(end) = self.tell_all(backlog, &mut told).await;
        if let End::Told { code, message } = end {
            tracing::debug!(account = self.request.principal.account, code, "a subscriber is sent away");
            let mut event = self.event("error", told);
            event.insert("code".into(), code.into());
            event.insert("message".into(), message.into());
            self.outlet.farewell(Value::Object(event).to_string());
        }
    }

    async fn tell_all(
        &mut self,
        backlog: Option<Backlog>,
        told: &mut Revision,
    ) -> Result<std::convert::Infallible, End> {
        let closing = self.parts.extensions.get::<Closing>().map_or_else(CancellationToken::new, |it| it.0.clone());
        let mut pings = interval(PING);
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once: the client sees that it is heard.
        pings.tick().await;
        self.ping(*told).await?;
        self.catch_up(backlog, told).await?;
        if self.is_told_events() {
            // Also those from before it came: a handler that was away finds what waits for it.
            let waiting = self.place.waiting().await;
            self.tell_events(&waiting, *told).await?;
        }
        loop {
            let news = tokio::select! {
                news = self.place.news.recv() => news,
                _ = pings.tick() => {
                    self.check_key().await?;
                    self.ping(*told).await?;
                    continue;
                }
                () = closing.cancelled() => {
                    let message = "this agent stops; subscribe again, at any host";
                    return Err(End::Told { code: "Closing", message: message.into() });
                }
                () = self.outlet.closed() => return Err(End::Gone),
            };
            match news.as_deref() {
                Ok(News::Changed { revision, .. }) if revision <= told => {}
                Ok(News::Changed { revision, rows }) => self.tell(*revision, rows, told).await?,
                Ok(News::Hosts(rows)) => self.tell_hosts(rows, *told).await?,
                Ok(News::Events(events)) if self.is_told_events() => self.tell_events(events, *told).await?,
                Ok(News::Events(_)) => {}
                Ok(News::Broken(why)) => {
                    let message = format!("{why}: subscribe again without since, and list what you follow");
                    return Err(End::Told { code: "RevisionGone", message });
                }
                Err(RecvError::Lagged(_) | RecvError::Closed) => return Err(slow()),
            }
        }
    }

    /// What came to pass since the client was last here. Hosts are few: it is told all as they are.
    async fn catch_up(&self, mut backlog: Option<Backlog>, told: &mut Revision) -> Result<(), End> {
        if self.since.is_none() {
            return Ok(());
        }
        let unreadable = |error: ApiError| End::Told {
            code: "Unavailable",
            message: format!("{}; subscribe again with the same since", error.detail.unwrap_or_default()),
        };
        while let Some(open) = &mut backlog {
            match open.next().await.map_err(|error| unreadable(error.into()))? {
                Some((revision, rows)) => self.tell(revision, &rows, told).await?,
                None => backlog = None,
            }
        }
        *told = self.place.after.max(*told);
        let hosts = self.context.cache.select("host", |_| true).await.map_err(|error| unreadable(error.into()))?;
        self.tell_hosts(&hosts.value, *told).await
    }

    /// One revision's rows. Only the last carries that revision: who got no further has not had all of it.
    async fn tell(&self, revision: Revision, rows: &[Row], told: &mut Revision) -> Result<(), End> {
        let rows: Vec<&Row> = rows.iter().filter(|(base, row)| self.wanted(base, row)).collect();
        for (at, (base, row)) in rows.iter().enumerate() {
            let last = at + 1 == rows.len();
            let upto = if last { revision } else { Revision(revision.0 - 1) };
            self.tell_row(base, row, upto).await?;
        }
        *told = revision;
        Ok(())
    }

    async fn tell_hosts(&self, rows: &[Arc<Resource>], told: Revision) -> Result<(), End> {
        let Some(host) = types::find("host") else { return Ok(()) };
        for row in rows.iter().filter(|row| self.wanted(host, row)) {
            self.tell_row(host, row, told).await?;
        }
        Ok(())
    }

    /// Whether it may hear what external handlers are told: who sees everything.
    fn is_told_events(&self) -> bool {
        self.request.principal.sees_all()
    }

    async fn tell_events(&mut self, events: &[Arc<handlers::Event>], told: Revision) -> Result<(), End> {
        if self.heard.len() > MOST_HEARD {
            self.heard.clear();
        }
        for event in events {
            let qualifier = |key: &str| (key == "handler").then(|| event.handler_name.clone());
            let wanted = self.names.want(&event.name, qualifier);
            if wanted && self.heard.insert(event.id.clone(), event.told) != Some(event.told) {
                let text = self.handlers_event(event, told).await;
                self.outlet.send(text).await?;
            }
        }
        Ok(())
    }

    /// An event as its handler is told it, with the row that it is about.
    async fn handlers_event(&self, it: &handlers::Event, told: Revision) -> String {
        let mut event = self.event(&format!("{};handler={}", it.name, it.handler_name), told);
        event.insert("id".into(), it.id.as_str().into());
        event.insert("replyTo".into(), format!("{REPLY}{}", it.id).into());
        event.insert("previousIds".into(), json!([]));
        let mut data = Map::new();
        if let Some(base) = types::find(&it.base) {
            event.insert("resourceType".into(), base.name.into());
            event.insert("resourceId".into(), identifier::format(base.base, it.row).into());
            match self.context.cache.get(base.base, it.row).await {
                Ok(Known { value: Some(known), .. }) => {
                    let declared = types::of(base, &known.row);
                    data.insert("resource".into(), self.shown(declared, &known.row).await);
                }
                Ok(_) => {}
                Err(error) => tracing::debug!(%error, event = it.id, "an event goes without its row"),
            }
        }
        event.insert("data".into(), Value::Object(data));
        Value::Object(event).to_string()
    }

    fn wanted(&self, base: &'static Type, row: &Resource) -> bool {
        let qualifier = |key: &str| match key {
            "account" => row.account_id.map(|id| identifier::format("account", id)),
            "type" => Some(types::of(base, row).name.to_owned()),
            _ => None,
        };
        self.request.principal.sees(base.base, row) && self.names.want(CHANGE, qualifier)
    }

    async fn tell_row(&self, base: &'static Type, row: &Arc<Resource>, upto: Revision) -> Result<(), End> {
        let declared = types::of(base, row);
        let mut event = self.event(CHANGE, upto);
        event.insert("resourceType".into(), declared.name.into());
        event.insert("resourceId".into(), identifier::format(declared.base, row.id).into());
        event.insert("data".into(), json!({ "resource": self.shown(declared, row).await }));
        Ok(self.outlet.send(Value::Object(event).to_string()).await?)
    }

    /// The row as this account is shown it, with what it asked to have included, as far as that can be read.
    async fn shown(&self, declared: &'static Type, row: &Arc<Resource>) -> Value {
        let (context, request) = (&*self.context, &self.request);
        let exchange = Exchange { context, request, reader: Reader::new(&context.cache, &request.principal) };
        let included = exchange.included(declared, std::slice::from_ref(row)).await.unwrap_or_else(|error| {
            tracing::debug!(detail = error.detail, "an event goes without what was to be included");
            Vec::new()
        });
        serde_json::to_value(exchange.frame(&included).show(declared, row)).unwrap_or_default()
    }

    async fn ping(&self, told: Revision) -> Result<(), End> {
        Ok(self.outlet.send(Value::Object(self.event("ping", told)).to_string()).await?)
    }

    fn event(&self, name: &str, revision: Revision) -> Map<String, Value> {
        let environment = &self.context.environment;
        let mut event = Map::new();
        event.insert("id".into(), environment.uuid().to_string().into());
        event.insert("name".into(), name.into());
        event.insert("time".into(), environment.clock.now().0.into());
        event.insert("revision".into(), revision.0.into());
        event
    }

    /// Ends where the key does not open any more; where that cannot be found out, what was true stays so.
    async fn check_key(&mut self) -> Result<(), End> {
        match router::sign_in(&self.context, &self.parts).await {
            Ok(principal) => {
                self.request.principal = principal;
                Ok(())
            }
            Err(error) if error.status == StatusCode::SERVICE_UNAVAILABLE => Ok(()),
            Err(error) => Err(End::Told {
                code: "Unauthorized",
                message: error.message.unwrap_or_else(|| "sign in again".into()),
            }),
        }
    }
}
