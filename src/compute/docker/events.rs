//! What happens to our containers. Docker's stream ends with the daemon; this one goes on with the next.

use super::error::refused;
use super::{Docker, LABEL_INSTANCE};
use crate::compute::{Driver, Error, Event, Health};
use crate::environment::Backoff;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures::stream::{BoxStream, StreamExt};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

type Events = BoxStream<'static, Result<EventMessage, bollard::errors::Error>>;

struct Follower {
    docker: Docker,
    backoff: Backoff,
    open: Option<Events>,
    ready: VecDeque<Event>,
}

pub(super) fn follow(docker: Docker) -> BoxStream<'static, Event> {
    let backoff = Backoff::new(&docker.0.environment, Duration::from_millis(100), Duration::from_secs(5));
    let follower = Follower { docker, backoff, open: None, ready: VecDeque::new() };
    futures::stream::unfold(follower, |mut follower| async move {
        let event = follower.next().await;
        Some((event, follower))
    })
    .boxed()
}

impl Follower {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            let Some(events) = &mut self.open else {
                self.reopen().await;
                continue;
            };
            match events.next().await {
                Some(Ok(message)) => self.ready.extend(event(message)),
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
                self.ready.push_back(Event::Resync);
            }
            Err(error) => tracing::debug!(error = &error as &dyn std::error::Error, "Docker gives no events"),
        }
    }

    fn subscribe(&self) -> Result<Events, Error> {
        let filters = HashMap::from([("type", vec!["container"]), ("label", vec![LABEL_INSTANCE])]);
        // From a moment ago: the request reaches Docker later than this.
        let since = self.docker.0.environment.clock.now().0 / 1000 - 1;
        let options = EventsOptionsBuilder::new().since(&since.to_string()).filters(&filters).build();
        Ok(self.docker.client("watch containers")?.events(Some(options)).boxed())
    }
}

fn event(message: EventMessage) -> Option<Event> {
    let kind = message.action?;
    let id = message.actor?.attributes?.remove(LABEL_INSTANCE)?;
    Some(Event::Instance { id, kind })
}
