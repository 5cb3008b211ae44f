//! What happens to containers. Docker's stream ends with the daemon; this one goes on with the next.

use super::error::refused;
use super::{Docker, LABEL_INSTANCE, NETWORK};
use crate::compute::{Driver, Error, Event, Health};
use crate::environment::Backoff;
use bollard::models::{EventActor, EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::EventsOptionsBuilder;
use futures::stream::{BoxStream, StreamExt};
use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

type Events = BoxStream<'static, Result<EventMessage, bollard::errors::Error>>;
type Filters = HashMap<&'static str, Vec<&'static str>>;

/// After which a native container may be another than before; what is done within one (`exec`) is no matter.
const CHANGES: &[&str] = &["start", "die", "rename", "update", "destroy"];

/// What a follower tells.
enum Told {
    /// The stream begins, or begins again.
    Begun,
    Message(Box<EventMessage>),
}

struct Follower {
    docker: Docker,
    filters: Filters,
    backoff: Backoff,
    open: Option<Events>,
    ready: VecDeque<Told>,
}

/// What happens to ours.
pub(super) fn follow(docker: Docker) -> BoxStream<'static, Event> {
    let filters = HashMap::from([("type", vec!["container"]), ("label", vec![LABEL_INSTANCE])]);
    let events = told(docker, filters).filter_map(async |told| match told {
        Told::Begun => Some(Event::Resync),
        Told::Message(message) => event(*message),
    });
    events.boxed()
}

/// Whether something may have happened to what is on our network and none of ours.
pub(super) fn follow_natives(docker: Docker) -> BoxStream<'static, ()> {
    let filters = HashMap::from([("type", vec!["container", "network"])]);
    let mut ours = HashSet::new();
    let events = told(docker, filters).filter_map(move |told| {
        let matters = match told {
            Told::Begun => true,
            Told::Message(message) => is_native(*message, &mut ours),
        };
        std::future::ready(matters.then_some(()))
    });
    events.boxed()
}

fn told(docker: Docker, filters: Filters) -> BoxStream<'static, Told> {
    let backoff = Backoff::new(&docker.0.environment, Duration::from_millis(100), Duration::from_secs(5));
    let follower = Follower { docker, filters, backoff, open: None, ready: VecDeque::new() };
    futures::stream::unfold(follower, |mut follower| async move {
        let told = follower.next().await;
        Some((told, follower))
    })
    .boxed()
}

impl Follower {
    async fn next(&mut self) -> Told {
        loop {
            if let Some(told) = self.ready.pop_front() {
                return told;
            }
            let Some(events) = &mut self.open else {
                self.reopen().await;
                continue;
            };
            match events.next().await {
                Some(Ok(message)) => self.ready.push_back(Told::Message(Box::new(message))),
                Some(Err(source)) => {
                    let error = refused("watch containers", source);
                    tracing::info!(error = &error as &dyn std::error::Error, "Docker's events end");
                    self.open = None;
                }
                None => self.open = None,
            }
        }
    }

    /// Asks for events once Docker answers, and only then: it may be down because somebody wants it so, and a knock on
    /// its socket would start it.
    async fn reopen(&mut self) {
        self.backoff.wait().await;
        if self.docker.health().await != Health::Answers {
            return;
        }
        match self.subscribe() {
            Ok(events) => {
                self.open = Some(events);
                self.backoff.reset();
                self.ready.push_back(Told::Begun);
            }
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "Docker gives no events"),
        }
    }

    fn subscribe(&self) -> Result<Events, Error> {
        // From a moment ago: the request reaches Docker later than this.
        let since = self.docker.0.environment.clock.now().0 / 1000 - 1;
        let options = EventsOptionsBuilder::new().since(&since.to_string()).filters(&self.filters).build();
        Ok(self.docker.client("watch containers")?.events(Some(options)).boxed())
    }
}

fn event(message: EventMessage) -> Option<Event> {
    let kind = message.action?;
    let id = message.actor?.attributes?.remove(LABEL_INSTANCE)?;
    Some(Event::Instance { id, kind })
}

/// `ours` are the containers that were seen to be instances': our network's own events do not tell.
fn is_native(message: EventMessage, ours: &mut HashSet<String>) -> bool {
    let action = message.action.unwrap_or_default();
    let EventActor { id, attributes } = message.actor.unwrap_or_default();
    let (id, attributes) = (id.unwrap_or_default(), attributes.unwrap_or_default());
    if message.typ == Some(EventMessageTypeEnum::NETWORK) {
        let is_network = attributes.get("name").is_some_and(|name| name == NETWORK);
        return is_network && attributes.get("container").is_some_and(|container| !ours.contains(container));
    }
    if !attributes.contains_key(LABEL_INSTANCE) {
        return CHANGES.contains(&action.as_str());
    }
    match action.as_str() {
        "destroy" => drop(ours.remove(&id)),
        _ => drop(ours.insert(id)),
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn only_what_changes_natives_is_told() {
        let mut ours = HashSet::new();
        let mut told = |kind: &str, action: &str, id: &str, attributes: Value| {
            let message = json!({"Type": kind, "Action": action, "Actor": {"ID": id, "Attributes": attributes}});
            is_native(serde_json::from_value(message).unwrap(), &mut ours)
        };
        assert!(told("container", "start", "a", json!({"name": "web"})));
        assert!(!told("container", "exec_create: ls", "a", json!({"name": "web"})));
        assert!(!told("container", "create", "b", json!({"io.stampede.instance": "1i5"})));
        assert!(!told("network", "connect", "n", json!({"name": "stampede", "container": "b"})), "it is an instance's");
        assert!(told("network", "connect", "n", json!({"name": "stampede", "container": "a"})));
        assert!(!told("network", "connect", "n", json!({"name": "bridge", "container": "a"})));
    }
}
