//! Agents and their questions.

use crate::world::{CLUSTER, World, send};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use stampede::membership::peers::{Answer, Peers};
use stampede::membership::trust::certificate::{NodeCertificate, Subject, agent_name};
use stampede::membership::trust::{Authority, ClusterSecret, LEASE, Tls, tls};
use stampede::resource::assignment::Token;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

/// What an agent answers to who shows what `config` has.
async fn question(
    config: Arc<ClientConfig>,
    name: &str,
    address: SocketAddr,
) -> Result<(u16, serde_json::Value), String> {
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| error.to_string())?;
    send(stream, "GET", LEASE, serde_json::Value::Null).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_ask_each_other() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    let two = world.agent("h2", Some(&one.secret())).await.ready().await;
    let (first, second) = (one.address.to_string(), two.address.to_string());
    assert_eq!(one.trust.ask(&two.host, &second).await, Answer::HoldsLease);
    let fenced = Answer::Fenced { tokens: vec![Token { generation: 1, revision: 7 }] };
    *two.says.0.lock().unwrap() = fenced.clone();
    assert_eq!(one.trust.ask(&two.host, &second).await, fenced);
    assert_eq!(two.trust.ask(&one.host, &first).await, Answer::HoldsLease);

    // It answers, but is another host than it should be.
    assert_eq!(one.trust.ask(&one.host, &second).await, Answer::Silent);
    let mut replaced = two.host.clone();
    replaced.identity = one.host.identity.clone();
    assert_eq!(one.trust.ask(&replaced, &second).await, Answer::Silent);

    // The asking host was removed and its name given again.
    let mut other = one.host.clone();
    other.identity = world.environment.uuid().to_string();
    world.write(&stampede::store::key::host("h1"), &other).await;
    assert_eq!(one.trust.ask(&two.host, &second).await, Answer::Silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_who_does_not_answer_is_waited_for() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    // Takes connections, and says nothing; and one where nobody listens.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for address in [mute.local_addr().unwrap(), closed] {
        let begun = Instant::now();
        assert_eq!(one.trust.ask(&one.host, &address.to_string()).await, Answer::Silent);
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_certificates_of_the_cluster_get_in() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    let environment = &world.environment;
    let now = environment.clock.now();
    let subject = Subject { host: "h1".into(), identity: one.host.identity.clone(), names: Default::default() };
    let own_name = agent_name("h1", &one.host.identity);
    let trusted =
        || tls::roots(one.trust.opened().unwrap().authorities.authorities.iter().map(|it| it.der().unwrap())).unwrap();
    let shows = |certificate: &NodeCertificate| Tls::new(certificate, trusted(), environment).unwrap().client;

    // The host's own is good.
    let good = question(shows(&one.certificate()), &own_name, one.address).await.unwrap();
    assert_eq!((good.0, good.1["answer"].as_str()), (200, Some("holdsLease")));

    // One that names the same host, of an authority with the same name, made with another secret.
    let stranger = ClusterSecret::generate(environment);
    let foreign = Authority::generate(environment, CLUSTER, &stranger).unwrap();
    let forged =
        NodeCertificate::issue(&foreign, CLUSTER, &stranger, &subject, now, Duration::from_secs(3600)).unwrap();
    question(shows(&forged), &own_name, one.address).await.unwrap_err();

    // One of the cluster whose time is over.
    let opened = one.trust.opened().unwrap();
    let signer = opened.authorities.signer(now).unwrap();
    let then = stampede::environment::Timestamp(now.0 - 3600 * 1000);
    let old =
        NodeCertificate::issue(signer, CLUSTER, opened.secret(), &subject, then, Duration::from_secs(1800)).unwrap();
    question(shows(&old), &own_name, one.address).await.unwrap_err();

    // None at all, and a user's way in, which does not lead to the agents' routes.
    let mut visitor = tls::visitor(trusted(), environment).unwrap();
    let user = question(Arc::new(visitor.clone()), "127.0.0.1", one.address).await.unwrap();
    assert_eq!(user.0, 401, "{}", user.1);
    visitor.alpn_protocols = vec![tls::AGENT.to_vec()];
    question(Arc::new(visitor), &own_name, one.address).await.unwrap_err();

    // A host of the cluster whose record is gone.
    let gone = Subject { host: "h9".into(), ..subject.clone() };
    let gone = NodeCertificate::issue(signer, CLUSTER, opened.secret(), &gone, now, Duration::from_secs(3600)).unwrap();
    assert_eq!(question(shows(&gone), &own_name, one.address).await.unwrap().0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_the_secret_stays_closed_until_it_has_it() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    let two = world.agent("h2", None).await;
    assert_eq!(two.trust.ask(&one.host, &one.address.to_string()).await, Answer::Silent);
    assert_eq!(one.trust.ask(&two.host, &two.address.to_string()).await, Answer::Silent);
    assert!(!two.directory.path().join("secret").exists());
    // Who tries TLS is told so by an alert, not by silence.
    let mut stream = TcpStream::connect(two.address).await.unwrap();
    stream.write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await.unwrap();
    let mut answer = Vec::new();
    let _end = stream.read_to_end(&mut answer).await;
    assert_eq!(answer.first(), Some(&0x15));

    // The wrong one is refused before anything is begun; the right one is taken at the next start.
    let directory = two.directory.path().to_owned();
    let wrong = ClusterSecret::generate(&world.environment);
    stampede::membership::trust::secret::write_private(&directory.join("secret"), wrong.text().as_bytes()).unwrap();
    let refused = two.trust.check(CLUSTER).await.unwrap_err();
    assert!(refused.refuses() && refused.to_string().contains("not the one"), "{refused}");
    let right = one.secret();
    stampede::membership::trust::secret::write_private(&directory.join("secret"), right.text().as_bytes()).unwrap();
    two.trust.check(CLUSTER).await.unwrap();
    let three = world.agent("h3", Some(&right)).await.ready().await;
    assert_eq!(one.trust.ask(&three.host, &three.address.to_string()).await, Answer::HoldsLease);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_agents_that_come_at_once_one_makes_the_secret() {
    let world = World::new();
    let agents = futures::future::join_all((1..=5).map(|number| {
        let world = &world;
        async move { world.agent(&format!("h{number}"), None).await }
    }))
    .await;
    crate::world::until("one to have a certificate", async || agents.iter().any(|it| it.trust.tls().is_some())).await;
    crate::world::until("the others to see that they lost", async || {
        agents.iter().filter(|it| it.directory.path().join("secret").exists()).count() == 1
    })
    .await;
    assert_eq!(agents.iter().filter(|it| it.trust.tls().is_some()).count(), 1);
}
