//! Links on the real kernel: to whom they lead on this host and on another, and what happens when that changes.

use super::hosts::{address, container, host_and_outside, two_hosts};
use super::ports::{impatient, sees};
use super::support::{Host, Namespace, eventually, exchange, store};
use crate::network::hairpin::SOURCE;
use crate::resource::assignment::{AssignedLink, Assignment, ManagedAddress, PublicPort, Token};
use crate::resource::link::Endpoint;
use crate::resource::port::Protocol;
use crate::store::{Operation, Store, Transaction, encode, key};
use serde_json::Map;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

/// One link to `target`, whose port 80 is found at 20000, by TCP and by UDP.
fn linked(id: &str, network: &ManagedAddress, target: Option<&str>) -> Assignment {
    let port = |protocol| PublicPort { protocol, public: 20_000, private: 80 };
    Assignment {
        token: Token { generation: 1, revision: 5 },
        network: Some(network.clone()),
        links: vec![AssignedLink {
            name: "web".to_owned(),
            target: target.map(str::to_owned),
            ports: vec![port(Protocol::Tcp), port(Protocol::Udp)],
        }],
        ..Assignment::example(id)
    }
}

async fn runs(store: &Arc<dyn Store>, id: &str, host: &str, at: Option<&ManagedAddress>) {
    let endpoint = key::endpoint(id);
    let operation = match at {
        Some(at) => {
            let there = Endpoint { address: at.address, host: host.to_owned(), ports: Vec::new(), rest: Map::new() };
            Operation::put(&endpoint, encode(&endpoint, &there).unwrap())
        }
        None => Operation::delete(endpoint),
    };
    store.commit(Transaction::new().then(operation)).await.unwrap();
}

const LINK: &str = "10.42.0.1:20000";

/// Until it is so: the link is refused, by TCP and by UDP.
async fn refused(inside: &Namespace) {
    let by_udp = impatient(inside.udp("0.0.0.0:0"));
    by_udp.connect(LINK).unwrap();
    eventually("the link is refused", async || {
        let _ = by_udp.send(b"x");
        let by_udp = by_udp.recv(&mut [0; 9]).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        let limit = Duration::from_secs(1);
        let by_tcp = inside.run(|| TcpStream::connect_timeout(&LINK.parse().unwrap(), limit));
        by_udp && by_tcp.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    })
    .await;
}

fn client(inside: &Namespace) -> UdpSocket {
    impatient(inside.udp("0.0.0.0:0"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_leads_to_its_target_wherever_that_is() {
    let store = store();
    let [one, two] = two_hosts(&store).await;
    let a = address(&one, &store, "1i1").await;
    let (b, c) = (address(&one, &store, "1i2").await, address(&two, &store, "1i3").await);
    let inside = container(&one, "1i1", &a).await;
    let (beside, far) = (container(&one, "1i2", &b).await, container(&two, "1i3", &c).await);
    let links = one.network.links();
    links.put(&linked("1i1", &a, Some("1i3")));
    refused(&inside).await;

    let (at_far, at_beside) = (impatient(far.udp("0.0.0.0:80")), impatient(beside.udp("0.0.0.0:80")));
    let asker = client(&inside);
    runs(&store, "1i3", "h2", Some(&c)).await;
    sees(&at_far, &asker, LINK, a.address.into()).await;
    let stranger = client(&beside);
    stranger.connect(LINK).unwrap();
    let _ = stranger.send(b"x");
    assert_eq!(stranger.recv(&mut [0; 9]).unwrap_err().kind(), ErrorKind::ConnectionRefused, "it is another's");

    // The conversation goes on, with whom the link leads to now; and where that is.
    runs(&store, "1i2", "h1", Some(&b)).await;
    links.put(&linked("1i1", &a, Some("1i2")));
    sees(&at_beside, &asker, LINK, a.address.into()).await;
    runs(&store, "1i2", "h2", Some(&c)).await;
    sees(&at_far, &asker, LINK, a.address.into()).await;
    runs(&store, "1i2", "h2", None).await;
    refused(&inside).await;

    // Itself, by a way round.
    let at_itself = impatient(inside.udp("0.0.0.0:80"));
    runs(&store, "1i1", "h1", Some(&a)).await;
    links.put(&linked("1i1", &a, Some("1i1")));
    sees(&at_itself, &asker, LINK, SOURCE.into()).await;
    links.forget("1i1");
    eventually("it is gone", async || exchange(&asker, &at_itself, LINK).is_err()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_ends_when_its_link_leads_elsewhere() {
    let store = store();
    let [one, two] = two_hosts(&store).await;
    let a = address(&one, &store, "1i1").await;
    let (b, c) = (address(&one, &store, "1i2").await, address(&two, &store, "1i3").await);
    let inside = container(&one, "1i1", &a).await;
    let (beside, far) = (container(&one, "1i2", &b).await, container(&two, "1i3", &c).await);
    runs(&store, "1i2", "h1", Some(&b)).await;
    runs(&store, "1i3", "h2", Some(&c)).await;
    let listen = |namespace: &Namespace| namespace.run(|| TcpListener::bind("0.0.0.0:80").unwrap());
    let (at_beside, at_far) = (listen(&beside), listen(&far));
    let links = one.network.links();
    for (now, listener, next) in
        [("1i2", &at_beside, Some("1i3")), ("1i3", &at_far, Some("1i2")), ("1i2", &at_beside, None)]
    {
        links.put(&linked("1i1", &a, Some(now)));
        let limit = Duration::from_secs(1);
        let mut connection = None;
        listener.set_nonblocking(true).unwrap();
        eventually("it connects", async || {
            let Ok(mut asker) = inside.run(|| TcpStream::connect_timeout(&LINK.parse().unwrap(), limit)) else {
                return false;
            };
            asker.write_all(b"x").unwrap();
            let Ok((mut server, _)) = listener.accept() else { return false };
            server.set_nonblocking(false).unwrap();
            server.read_exact(&mut [0]).unwrap();
            connection = Some((asker, server));
            true
        })
        .await;
        let (mut asker, mut server) = connection.unwrap();
        links.put(&linked("1i1", &a, next));
        // Neither says a word; both hear that it is over.
        for end in [&mut asker, &mut server] {
            end.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            eventually("it ends", async || {
                end.read(&mut [0; 9]).is_err_and(|error| error.kind() == ErrorKind::ConnectionReset)
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_took_away_is_put_back_and_the_host_is_not_reached_instead() {
    let store = store();
    let (host, _outside) = host_and_outside(&store).await;
    let (a, b) = (address(&host, &store, "1i1").await, address(&host, &store, "1i2").await);
    let (inside, beside) = (container(&host, "1i1", &a).await, container(&host, "1i2", &b).await);
    runs(&store, "1i2", "h1", Some(&b)).await;
    host.network.links().put(&linked("1i1", &a, Some("1i2")));
    let server = impatient(beside.udp("0.0.0.0:80"));
    sees(&server, &client(&inside), LINK, a.address.into()).await;
    for fault in [
        &["nft", "flush", "ruleset"][..],
        &["nft", "delete", "element", "inet", "stampede", "links", &format!("{{ {} . udp . 20000 }}", a.address)],
        &["nft", "flush", "set", "inet", "stampede", "here"],
    ] {
        host.namespace.tool(fault);
        sees(&server, &client(&inside), LINK, a.address.into()).await;
    }
    // Somebody who listens on the host at the port of a link.
    let on_host = impatient(host.namespace.udp("0.0.0.0:20000"));
    runs(&store, "1i2", "h1", None).await;
    refused(&inside).await;
    assert!(on_host.recv_from(&mut [0; 9]).is_err(), "a link to nobody leads to nobody");
}

/// Another agent on the same host finds all as it was, before it has heard of any target.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_starts_anew_leaves_links_as_they_are() {
    let store = store();
    let (host, _outside) = host_and_outside(&store).await;
    let (a, b) = (address(&host, &store, "1i1").await, address(&host, &store, "1i2").await);
    let (inside, beside) = (container(&host, "1i1", &a).await, container(&host, "1i2", &b).await);
    let server = impatient(beside.udp("0.0.0.0:80"));
    let directory = tempfile::tempdir().unwrap();
    let memory = directory.path().join("links.json");
    let known = [linked("1i1", &a, Some("1i2"))];
    let Host { namespace, network, .. } = host;
    network.end().await;
    let start = |store: &Arc<dyn Store>| {
        let config = crate::network::NetworkConfig {
            links: crate::network::Links::new(&known, Some(&memory)),
            links_memory: Some(memory.clone()),
            ..crate::network::NetworkConfig::new("h1")
        };
        crate::network::Network::start(config, store.clone(), &super::support::environment(), namespace.kernel())
    };
    let first = start(&store);
    runs(&store, "1i2", "h1", Some(&b)).await;
    sees(&server, &client(&inside), LINK, a.address.into()).await;
    eventually("it is written down", async || memory.exists()).await;
    first.end().await;
    // One whose store never answers.
    let mut rules = namespace.kernel().rules_monitor().unwrap();
    let silent: Arc<dyn Store> = Arc::new(super::support::Silent);
    let second = start(&silent);
    let event = tokio::time::timeout(Duration::from_secs(1), rules.next()).await;
    assert!(event.is_err(), "{event:?}");
    sees(&server, &client(&inside), LINK, a.address.into()).await;
    namespace.tool(&["nft", "flush", "ruleset"]);
    sees(&server, &client(&inside), LINK, a.address.into()).await;
    second.end().await;
}
