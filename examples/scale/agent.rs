//! An agent as far as placing goes: its connection, what it holds in memory, and the way from a request to a claim.

use crate::counting::{Counting, Counts};
use crate::world::{World, subnet};
use serde_json::{Map, json};
use stampede::environment::Environment;
use stampede::membership::Hosts;
use stampede::network::Allocator;
use stampede::orchestration::{Draft, Orchestrator, Service};
use stampede::placement::Placer;
use stampede::resource::Resource;
use stampede::store::Store;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// See the module's text.
#[derive(Clone)]
pub struct Agent {
    orchestrator: Orchestrator,
    pub counts: Arc<Counts>,
}

impl Agent {
    pub fn start(store: Arc<dyn Store>) -> Self {
        let store = Counting::new(store);
        let counts = store.counts.clone();
        let store: Arc<dyn Store> = Arc::new(store);
        let environment = Environment::system().unwrap();
        let hosts = Hosts::start(store.clone(), &environment);
        let addresses = Allocator::new(store.clone(), &environment, subnet(), Arc::new(AtomicU32::new(1380)));
        let placer = Placer::new(store.clone(), &environment, 1, hosts, Some(Arc::new(addresses)));
        let orchestrator = Orchestrator::new(store, environment, placer);
        Self { orchestrator, counts }
    }

    /// One that has learned the hosts and what is promised of them.
    pub async fn warm(store: Arc<dyn Store>, world: &World) -> Self {
        let agent = Self::start(store);
        let made = loop {
            match agent.orchestrator.create(draft(0)).await {
                Ok(written) => break written.resources,
                Err(error) => println!("  not yet: {error}"),
            }
        };
        world.take_away(&made).await;
        agent
    }

    /// Makes one instance, as the API does.
    pub async fn place(&self, number: u64) -> Resource {
        let written = self.orchestrator.create(draft(number)).await.unwrap();
        let instance = written.resources.into_iter().next().unwrap();
        assert!(World::host_of(&instance).is_some(), "not placed: {:?}", instance.transitioning_message);
        instance
    }
}

/// What is asked for: a container with a name and a label, as most have.
pub fn draft(number: u64) -> Draft {
    Draft {
        base: "instance".into(),
        kind: "container".into(),
        account_id: Some(1),
        name: Some(format!("web-{number}")),
        fields: Map::from_iter([
            ("imageUuid".to_owned(), json!("docker:busybox")),
            ("command".to_owned(), json!("sleep")),
            ("commandArgs".to_owned(), json!(["infinity"])),
            ("labels".to_owned(), json!({"app": format!("app{}", number % 100)})),
        ]),
        ..Draft::default()
    }
}

/// What one round of placements came to.
pub struct Round {
    pub took: Duration,
    /// How long each took, in seconds.
    pub each: Vec<f64>,
    /// What was made, to be taken away again.
    pub made: Vec<Resource>,
}

/// So many placements, shared out over these agents, with so many under way at once over all.
pub async fn place_many(agents: &[Agent], placements: u64, under_way: usize) -> Round {
    let (next, begun) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..under_way {
        let (agent, next) = (agents[at % agents.len()].clone(), next.clone());
        tasks.spawn(async move {
            let mut made = Vec::new();
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= placements {
                    return made;
                }
                let since = Instant::now();
                let instance = agent.place(number).await;
                made.push((since.elapsed().as_secs_f64(), instance));
            }
        });
    }
    let all = tasks.join_all().await;
    let took = begun.elapsed();
    let (each, made) = all.into_iter().flatten().unzip();
    Round { took, each, made }
}
