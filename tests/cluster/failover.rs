//! What becomes of what a lost host ran, on a paused clock and a store in memory.

use crate::pool::Pool;
use async_trait::async_trait;
use serde_json::{Map, Value, json};
use stampede::environment::{Clock, Environment, Timestamp};
use stampede::membership::Hosts;
use stampede::membership::lost::{Lost, Word};
use stampede::membership::peers::{Answer, NoPeers, Peers};
use stampede::membership::record::Host;
use stampede::orchestration::failover::{Failover, Settings};
use stampede::orchestration::{Orchestrator, Service};
use stampede::placement::Placer;
use stampede::placement::record::Claim;
use stampede::resource::assignment::Token;
use stampede::resource::{Resource, State};
use stampede::store::embedded::Embedded;
use stampede::store::{self, Operation, Revision, Store, Transaction, key};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// F, by the records of these hosts.
const F: Duration = Duration::from_secs(4);

/// The paused clock, from its beginning.
#[derive(Debug)]
struct Paused(Instant);

impl Clock for Paused {
    fn now(&self) -> Timestamp {
        Timestamp(1_000_000).after(self.0.elapsed())
    }
    fn boottime(&self) -> Duration {
        Duration::from_secs(1000) + self.0.elapsed()
    }
}

/// Answers what it is told to.
#[derive(Debug)]
struct Told(Mutex<Answer>);

#[async_trait]
impl Peers for Told {
    async fn ask(&self, _: &Host, _: &str) -> Answer {
        self.0.lock().unwrap().clone()
    }
}

struct World {
    environment: Environment,
    store: Arc<dyn Store>,
    orchestrator: Orchestrator,
    hosts: Hosts,
    _failover: Failover,
}

impl World {
    /// `count` hosts that live; h1's agent is the one that is here.
    async fn new(count: u64, peers: Arc<dyn Peers>) -> Self {
        let environment = Environment { clock: Arc::new(Paused(Instant::now())), ..crate::environment() };
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory(&environment).unwrap());
        for id in 1..=count {
            crate::put_host(&store, id, 4096).await;
            put(&store, key::fence(&format!("h{id}")), json!({"waitMillis": 4000})).await;
        }
        let hosts = Hosts::start(store.clone(), &environment);
        let pool = Pool::new(store.clone(), 110);
        let placer = Placer::new(store.clone(), &environment, 1, hosts.clone(), Some(pool));
        let orchestrator = Orchestrator::new(store.clone(), environment.clone(), placer);
        let failover = Failover::start(Settings {
            orchestrator: orchestrator.clone(),
            store: store.clone(),
            environment: environment.clone(),
            host: "h1".into(),
            hosts: hosts.clone(),
            peers,
            ttl: Duration::from_secs(10),
        });
        Self { environment, store, orchestrator, hosts, _failover: failover }
    }

    /// An instance that runs on `host`; its claim's token.
    async fn instance(&self, id: u64, host: u64, fields: Value) -> Token {
        let mut row = json!({
            "id": id, "kind": "container", "uuid": format!("uuid-{id}"), "created": 1000, "state": "running", "generation": 3,
            "imageUuid": "docker:busybox", "hostName": format!("h{host}"), "hostId": host, "desired": "running",
        });
        row.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let (key, on) = (key::resource("instance", id), key::on(&format!("h{host}"), &format!("1i{id}")));
        let claim = Claim { id, uuid: format!("uuid-{id}"), generation: 3, ..Claim::default() };
        let transaction = Transaction::new()
            .then(Operation::put(&key, store::encode(&key, &row).unwrap()))
            .then(Operation::put(&on, store::encode(&on, &claim).unwrap()));
        Token { generation: 1, revision: self.store.commit(transaction).await.unwrap().revision.0 }
    }

    async fn row(&self, id: u64) -> Resource {
        store::decode(&self.store.get(&key::resource("instance", id)).await.unwrap().entry.unwrap()).unwrap()
    }

    async fn host_of(&self, id: u64) -> Option<String> {
        let row = self.row(id).await;
        let host = row.get::<String>("hostName");
        let on = self.store.range(&format!("{}on/", key::ROOT)).await.unwrap().entries;
        let claims: Vec<String> = on
            .iter()
            .filter(|entry| entry.key.ends_with(&format!("/1i{id}")))
            .map(|entry| entry.key.split('/').nth(4).unwrap().to_owned())
            .collect();
        assert_eq!(claims, host.iter().cloned().collect::<Vec<_>>(), "the row and the claims of {id} differ");
        host
    }

    async fn lose(&self, host: u64) -> Duration {
        self.store.commit(Transaction::new().then(Operation::delete(key::alive(&format!("h{host}"))))).await.unwrap();
        self.environment.clock.boottime()
    }

    async fn lost(&self, host: u64) -> Option<Lost> {
        let entry = self.store.get(&key::lost(&format!("h{host}"))).await.unwrap().entry?;
        Some(store::decode(&entry).unwrap())
    }

    /// How long until it is on another host than `from`.
    async fn moved(&self, id: u64, from: u64, since: Duration) -> Duration {
        crate::until("it to be elsewhere", async || {
            self.host_of(id).await.is_some_and(|host| host != format!("h{from}"))
        })
        .await;
        self.environment.clock.boottime() - since
    }

    async fn passes(&self, span: Duration) {
        tokio::time::sleep(span).await;
    }
}

async fn put(store: &Arc<dyn Store>, key: String, value: Value) {
    let operation = Operation::put(&key, store::encode(&key, &value).unwrap());
    store.commit(Transaction::new().then(operation)).await.unwrap();
}

fn moves() -> Value {
    json!({"onHostLoss": "move"})
}

#[tokio::test(start_paused = true)]
async fn what_moves_is_elsewhere_after_f_and_not_before() {
    let world = World::new(3, Arc::new(NoPeers)).await;
    world.instance(1, 2, moves()).await;
    world.instance(2, 2, json!({})).await;
    world.passes(Duration::from_secs(60)).await;
    assert_eq!(world.host_of(1).await.as_deref(), Some("h2"));
    let since = world.lose(2).await;
    let took = world.moved(1, 2, since).await;
    assert!(took >= F && took < F + Duration::from_secs(8), "{took:?}");
    assert_eq!(world.row(1).await.state, State::Starting);
    world.passes(Duration::from_secs(600)).await;
    assert_eq!(world.host_of(2).await.as_deref(), Some("h2"), "it stays");
    assert_eq!(world.row(2).await.state, State::Running);
}

#[tokio::test(start_paused = true)]
async fn a_host_that_comes_back_in_time_keeps_what_it_has() {
    let world = World::new(3, Arc::new(NoPeers)).await;
    world.instance(1, 2, moves()).await;
    for _ in 0..20 {
        world.lose(2).await;
        crate::until("it to be seen", async || world.lost(2).await.is_some()).await;
        world.passes(F - Duration::from_millis(500)).await;
        // As its keeper does.
        let alive = json!({"identity": "i", "incarnation": 2, "bootId": "b", "address": "a"});
        let put = Operation::put(key::alive("h2"), store::encode("", &alive).unwrap());
        let back = Transaction::new().then(put).then(Operation::delete(key::lost("h2")));
        world.store.commit(back).await.unwrap();
        world.passes(Duration::from_millis(700)).await;
    }
    world.passes(Duration::from_secs(60)).await;
    assert_eq!(world.host_of(1).await.as_deref(), Some("h2"));
}

#[tokio::test(start_paused = true)]
async fn who_says_that_it_lives_is_left_alone_and_who_is_fenced_is_not_waited_for() {
    let told = Arc::new(Told(Mutex::new(Answer::HoldsLease)));
    let world = World::new(3, told.clone()).await;
    let token = world.instance(1, 2, moves()).await;
    world.instance(2, 2, moves()).await;
    world.passes(Duration::from_secs(1)).await;
    let since = world.lose(2).await;
    world.passes(Duration::from_secs(30)).await;
    assert_eq!(world.host_of(1).await.as_deref(), Some("h2"), "it says that it holds its lease");
    *told.0.lock().unwrap() = Answer::Fenced { tokens: vec![token] };
    let one = world.moved(1, 2, since).await;
    let other = world.moved(2, 2, since).await;
    assert!(other > one + Duration::from_secs(1), "of the other nothing was said: {one:?} {other:?}");
}

#[tokio::test(start_paused = true)]
async fn grace_is_waited_and_the_operator_does_not_wait() {
    let world = World::new(3, Arc::new(NoPeers)).await;
    world.instance(1, 2, json!({"onHostLoss": "move", "hostLossGraceSeconds": 30})).await;
    world.instance(2, 2, json!({"onHostLoss": "move", "hostLossGraceSeconds": 3600})).await;
    let since = world.lose(2).await;
    let took = world.moved(1, 2, since).await;
    assert!(took >= Duration::from_secs(30) && took < Duration::from_secs(40), "{took:?}");
    assert_eq!(world.host_of(2).await.as_deref(), Some("h2"));
    world.orchestrator.act("host", 2, "failover", Map::new()).await.unwrap();
    assert_eq!(world.lost(2).await.unwrap().word, Some(Word::Move));
    let said = world.environment.clock.boottime();
    let took = world.moved(2, 2, said).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn too_many_at_once_pause_it_until_one_is_back() {
    let world = World::new(6, Arc::new(NoPeers)).await;
    for host in 4..=6 {
        world.instance(host, host, moves()).await;
    }
    for host in 4..=6 {
        world.lose(host).await;
    }
    world.passes(Duration::from_secs(300)).await;
    for host in 4..=6 {
        assert_eq!(world.host_of(host).await, Some(format!("h{host}")));
        let message = world.lost(host).await.unwrap().message.unwrap();
        assert!(message.starts_with("3 hosts went within a minute"), "{message}");
    }
    let alive = json!({"identity": "i", "incarnation": 2, "bootId": "b", "address": "a"});
    let back = Transaction::new()
        .then(Operation::put(key::alive("h6"), store::encode("", &alive).unwrap()))
        .then(Operation::delete(key::lost("h6")));
    world.store.commit(back).await.unwrap();
    let since = world.environment.clock.boottime();
    for host in 4..=5 {
        world.moved(host, host, since).await;
        assert_eq!(world.lost(host).await.unwrap().message, None);
    }
    assert_eq!(world.host_of(6).await.as_deref(), Some("h6"));
}

#[tokio::test(start_paused = true)]
async fn where_no_host_fits_it_waits_for_room() {
    let world = World::new(2, Arc::new(NoPeers)).await;
    world.instance(1, 2, json!({"onHostLoss": "move", "memoryMb": 1_000_000})).await;
    world.lose(2).await;
    crate::until("its host to be given up", async || world.host_of(1).await.is_none()).await;
    crate::until("the reason to be told", async || {
        world
            .row(1)
            .await
            .transitioning_message
            .is_some_and(|message| message.starts_with("Failed to find a placement"))
    })
    .await;
    assert!(!world.store.range(&key::todo_shard(key::shard("instance", 1))).await.unwrap().entries.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_removed_by_force_leaves_nothing_behind() {
    let world = World::new(3, Arc::new(NoPeers)).await;
    world.instance(1, 2, json!({"onHostLoss": "move", "hostLossGraceSeconds": 3600})).await;
    world.instance(2, 2, json!({})).await;
    let force = Map::from_iter([("force".to_owned(), json!(true))]);
    assert!(world.orchestrator.act("host", 2, "remove", force.clone()).await.is_err(), "it lives");
    world.lose(2).await;
    let removing = world.orchestrator.act("host", 2, "remove", force).await.unwrap();
    assert_eq!(removing.resources[0].state, State::Removing);
    crate::until("the host to be none", async || world.store.get(&key::host("h2")).await.unwrap().entry.is_none())
        .await;
    assert!(world.host_of(1).await.is_some_and(|host| host != "h2"));
    assert_eq!(world.host_of(2).await, None);
    assert_eq!(world.row(2).await.state, State::Stopped);
    for key in [key::lost("h2"), key::fence("h2"), key::alloc("h2")] {
        assert!(world.store.get(&key).await.unwrap().entry.is_none(), "{key}");
    }
    assert!(world.hosts.get("h2", Duration::from_secs(1)).await.is_none());
    assert!(world.store.get("nothing").await.unwrap().revision > Revision(0));
}

/// Its agent was away itself when the host went, and so were the others: who comes first looks after it.
#[tokio::test(start_paused = true)]
async fn a_host_that_was_lost_while_nobody_was_there_is_looked_after_by_who_comes() {
    let world = World::new(3, Arc::new(NoPeers)).await;
    world.instance(1, 2, moves()).await;
    world.passes(Duration::from_secs(60)).await;
    let own = key::alive("h1");
    let alive = world.store.get(&own).await.unwrap().entry.unwrap();
    for host in [1, 3, 2] {
        world.lose(host).await;
        world.passes(Duration::from_secs(70)).await;
    }
    assert_eq!(world.host_of(1).await.as_deref(), Some("h2"));
    let back = Transaction::new().then(Operation::delete(key::lost("h1"))).then(Operation::put(own, alive.value));
    world.store.commit(back).await.unwrap();
    let since = world.environment.clock.boottime();
    let took = world.moved(1, 2, since).await;
    assert!(took >= F && took < F + Duration::from_secs(8), "{took:?}");
}
