//! Accounts apart: who reaches whom, on one host and over two, and that no way round it is left open.

use super::hosts::{address, container};
use super::ports::{impatient, sees};
use super::support::{Host, Namespace, PATIENCE, Silent, cable, environment, eventually, exchange, ip, store};
use crate::network::dns::Askers;
use crate::network::{Network, NetworkConfig};
use crate::resource::assignment::{Assignment, ManagedAddress, PublicPort, Token};
use crate::resource::port::Protocol;
use crate::store::{Operation, Store, Transaction, key};
use serde_json::json;
use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;

fn config(name: &str, underlay: &str, askers: &Askers, memory: &Path) -> NetworkConfig {
    NetworkConfig {
        underlay: Some(ip(underlay)),
        askers: askers.clone(),
        memory: Some(memory.join(name)),
        ..NetworkConfig::new(name)
    }
}

/// As the API writes it.
async fn keep_apart(store: &Arc<dyn Store>, on: bool) {
    let row = json!({"id": 2, "kind": "hostOnlyNetwork", "uuid": "managed-docker0", "created": 5, "state": "active", "accountsApart": on});
    let put = Operation::put(key::resource("network", 2), serde_json::to_vec(&row).unwrap().into());
    assert!(store.commit(Transaction::new().then(put)).await.unwrap().succeeded);
}

/// One that a host has told its network of, and its server.
struct Guest {
    inside: Namespace,
    network: ManagedAddress,
    server: UdpSocket,
}

impl Guest {
    async fn new(host: &Host, store: &Arc<dyn Store>, askers: &Askers, id: &str, account: Option<u64>) -> Self {
        let network = address(host, store, id).await;
        askers.put(&Assignment { network: Some(network.clone()), account, ..Assignment::example(id) });
        let inside = container(host, id, &network).await;
        let server = impatient(inside.udp(&format!("{}:7000", network.address)));
        Self { inside, network, server }
    }

    /// From a port of its own each time, so that none is an answer.
    fn reached_from(&self, from: &Namespace) -> bool {
        let client = impatient(from.udp("0.0.0.0:0"));
        exchange(&client, &self.server, &format!("{}:7000", self.network.address)).is_ok()
    }
}

/// Those of one account reach each other, and the hosts reach all; between accounts it is as it is `meant`.
async fn reach(hosts: &[Host; 2], mine: &[&Guest], theirs: &[&Guest], meant: bool) {
    for all in [mine, theirs] {
        for (from, to) in all.iter().flat_map(|from| all.iter().map(move |to| (from, to))) {
            if !std::ptr::eq(*from, *to) {
                eventually("those of one account reach each other", async || to.reached_from(&from.inside)).await;
            }
        }
        for (host, to) in hosts.iter().flat_map(|host| all.iter().map(move |to| (host, to))) {
            eventually("a host reaches it", async || to.reached_from(&host.namespace)).await;
        }
    }
    for (mine, theirs) in mine.iter().flat_map(|mine| theirs.iter().map(move |theirs| (mine, theirs))) {
        for (from, to) in [(mine, theirs), (theirs, mine)] {
            eventually("accounts are apart, or not", async || to.reached_from(&from.inside) == meant).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_are_apart_where_the_network_says_so_on_all_hosts() {
    let store = store();
    let memory = tempfile::tempdir().unwrap();
    let (a, b) = (Namespace::new().await, Namespace::new().await);
    cable(&a, &b, "wire", ["198.18.0.1", "198.18.0.2"], 24).await;
    let askers = [Askers::default(), Askers::default()];
    let start = |name: &str, namespace: Namespace, underlay: &str, askers: &Askers| {
        let told = config(name, underlay, askers, memory.path());
        let network = Network::start(told, store.clone(), &environment(), namespace.kernel());
        Host { namespace, network, name: name.to_owned() }
    };
    let mut hosts = [start("h1", a, "198.18.0.1", &askers[0]), start("h2", b, "198.18.0.2", &askers[1])];
    for host in &hosts {
        host.until("ready", |status| status.ready).await;
    }
    let guest =
        async |host: usize, id: &str, account| Guest::new(&hosts[host], &store, &askers[host], id, account).await;
    let (one, two, far) =
        (guest(0, "1i1", Some(5)).await, guest(0, "1i2", Some(5)).await, guest(1, "1i3", Some(5)).await);
    let (other, other_far) = (guest(0, "1i4", Some(6)).await, guest(1, "1i5", Some(6)).await);
    let unknown = guest(0, "1i6", None).await;
    let (mine, theirs) = ([&one, &two, &far], [&other, &other_far]);
    reach(&hosts, &mine, &theirs, true).await;

    keep_apart(&store, true).await;
    reach(&hosts, &mine, &theirs, false).await;
    for to in [&one, &far, &other] {
        assert!(!to.reached_from(&unknown.inside), "whose it is nobody knows");
    }
    eventually("a host reaches it all the same", async || unknown.reached_from(&hosts[1].namespace)).await;
    // What is published is for everybody: from beside it too, with the asker's own address.
    let port = PublicPort { protocol: Protocol::Udp, public: 8080, private: 7000 };
    hosts[0].network.published().put(&Assignment {
        token: Token { generation: 1, revision: 5 },
        network: Some(other.network.clone()),
        ports: vec![port],
        ..Assignment::example("1i4")
    });
    let beside = impatient(one.inside.udp("0.0.0.0:0"));
    sees(&other.server, &beside, "198.18.0.1:8080", one.network.address.into()).await;

    // Taken away, it is put back; meanwhile another host takes nothing that nobody has put a name to.
    hosts[0].namespace.tool(&["nft", "flush", "ruleset"]);
    assert!(!other_far.reached_from(&one.inside));
    reach(&hosts, &mine, &theirs, false).await;
    hosts[0].namespace.tool(&["nft", "flush", "set", "inet", "stampede", "together"]);
    reach(&hosts, &mine, &theirs, false).await;
    hosts[0].namespace.tool(&["ip", "link", "del", "stampede-vx"]);
    reach(&hosts, &mine, &theirs, false).await;

    // An agent that starts while no store answers keeps to what it knew, and to what stands where it knows nothing.
    for remembers in [true, false] {
        if !remembers {
            std::fs::remove_file(memory.path().join("h1")).unwrap();
        }
        let [first, second] = hosts;
        first.network.end().await;
        let told = config("h1", "198.18.0.1", &askers[0], memory.path());
        let silent: Arc<dyn Store> = Arc::new(Silent);
        let network = Network::start(told, silent, &environment(), first.namespace.kernel());
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        hosts = [Host { namespace: first.namespace, network, name: first.name }, second];
        reach(&hosts, &mine, &theirs, false).await;
    }
    let [first, second] = hosts;
    first.network.end().await;
    hosts = [start("h1", first.namespace, "198.18.0.1", &askers[0]), second];
    tokio::time::timeout(PATIENCE, async { hosts[0].until("ready", |status| status.ready).await }).await.unwrap();

    keep_apart(&store, false).await;
    reach(&hosts, &mine, &theirs, true).await;
}
