//! The service on the real kernel: by which way it is reached, and by whom.

use super::super::*;
use crate::network::tests::hosts::{address, container};
use crate::network::tests::support::{Host, Namespace, cable, environment, eventually, store};
use crate::network::{Network, NetworkConfig};
use crate::resource::assignment::{Assignment, ManagedAddress};
use crate::resource::instance;
use crate::store::{Operation, Transaction, key};
use rustix::net::{AddressFamily, SocketType, sockopt};
use serde_json::json;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};

const PATIENCE: Duration = Duration::from_millis(700);

/// What is answered at 169.254.169.254, asked in a namespace; from one of its addresses, where that matters.
fn ask(from: &Namespace, source: Option<Ipv4Addr>, port: u16, path: &str) -> std::io::Result<String> {
    from.run(|| {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Recv, Some(PATIENCE))?;
        if let Some(source) = source {
            rustix::net::bind(&socket, &SocketAddr::from((source, 0)))?;
        }
        rustix::net::connect(&socket, &SocketAddr::from((way::ADDRESS, port)))?;
        let mut stream = TcpStream::from(socket);
        let request = format!("GET {path} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    })
}

fn id(from: &Namespace) -> Option<String> {
    ask(from, None, 80, "/latest/meta-data/instance-id").ok()
}

/// A host in a cloud that has metadata of its own, at the same address.
struct Cloud {
    host: Host,
    _outside: Namespace,
    askers: Askers,
    ledger: Ledger,
    store: Arc<dyn Store>,
    _directory: tempfile::TempDir,
}

impl Cloud {
    async fn new() -> Self {
        let (namespace, outside) = (Namespace::new().await, Namespace::new().await);
        cable(&namespace, &outside, "wire", ["198.18.0.1", "198.18.0.2"], 24).await;
        outside.tool(&["ip", "address", "add", "169.254.169.254/32", "dev", "lo"]);
        namespace.tool(&["ip", "route", "add", "default", "via", "198.18.0.2"]);
        for port in [80, 81] {
            let listener = outside.run(|| std::net::TcpListener::bind((way::ADDRESS, port)).unwrap());
            // It ends with the test's process.
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let _ = stream.read(&mut [0; 1024]);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\ncloud");
                }
            });
        }
        let (store, askers) = (store(), Askers::default());
        let config = NetworkConfig { askers: askers.clone(), ..NetworkConfig::new("h1") };
        let network = Network::start(config, store.clone(), &environment(), namespace.kernel());
        let host = Host { namespace, network, name: "h1".to_owned() };
        host.until("ready", |status| status.ready).await;
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        let settings = Settings {
            subnet: SubnetSpec::default(),
            askers: askers.clone(),
            host: "h1".to_owned(),
            ledger: ledger.clone(),
        };
        let responder = Arc::new(settings.responder(store.clone(), &environment()));
        let address = SocketAddr::from((SubnetSpec::default().gateway, way::LISTEN));
        let listener = TcpListener::from_std(host.namespace.run(|| server::open(address).unwrap())).unwrap();
        tokio::spawn(server::serve(listener, responder));
        Self { host, _outside: outside, askers, ledger, store, _directory: directory }
    }

    /// An instance that runs, and whose it is pinned to its port.
    async fn instance(&self, number: u64) -> (Namespace, ManagedAddress) {
        let name = format!("1i{number}");
        let place = address(&self.host, &self.store, &name).await;
        let assignment = Assignment { network: Some(place.clone()), account: Some(5), ..Assignment::example(&name) };
        self.ledger.put_assignment(&assignment).unwrap();
        let row =
            json!({"id": number, "kind": "container", "uuid": "u", "created": 5, "state": "running", "accountId": 5});
        let put = Operation::put(key::resource(instance::BASE, number), row.to_string().into());
        assert!(self.store.commit(Transaction::new().then(put)).await.unwrap().succeeded);
        let inside = container(&self.host, &name, &place).await;
        self.askers.put(&assignment);
        // The network is looked at when rules change.
        self.host.namespace.tool(&["nft", "flush", "ruleset"]);
        eventually("it is pinned", async || {
            let bridge = self.host.namespace.netlink.link_index("stampede0").await.unwrap();
            let pinned = self.host.namespace.netlink.pinned(bridge).await.unwrap();
            pinned.contains_key(&SubnetSpec::default().mac(place.address)) && id(&inside).is_some()
        })
        .await;
        (inside, place)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn instances_are_led_to_their_host_and_the_host_to_its_cloud() {
    let cloud = Cloud::new().await;
    let (inside, _) = cloud.instance(1).await;
    assert_eq!(id(&inside).as_deref(), Some("1i1"));
    assert_eq!(id(&cloud.host.namespace).as_deref(), Some("cloud"), "the host asks as it did");
    assert!(ask(&inside, None, 81, "/").is_err(), "other ports of that address are not the cloud's either");
    // One that takes the address for a neighbour of its own.
    inside.tool(&["ip", "route", "add", "169.254.0.0/16", "dev", "sp-1i1"]);
    assert_eq!(id(&inside).as_deref(), Some("1i1"));
    // A web server of the host's own, and one that is published.
    let web = cloud.host.namespace.run(|| std::net::TcpListener::bind("0.0.0.0:80").unwrap());
    assert_eq!(id(&inside).as_deref(), Some("1i1"));
    drop(web);
    let mut answers = std::collections::BTreeMap::new();
    for _ in 0..10 {
        cloud.host.namespace.tool(&["nft", "flush", "ruleset"]);
        for _ in 0..10 {
            *answers.entry(id(&inside)).or_insert(0) += 1;
        }
        eventually("it is mended", async || id(&inside).as_deref() == Some("1i1")).await;
    }
    assert!(!answers.contains_key(&Some("cloud".to_owned())), "{answers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn nobody_is_told_about_another_whatever_addresses_it_takes() {
    let cloud = Cloud::new().await;
    let (victim, place) = cloud.instance(1).await;
    let (thief, _) = cloud.instance(2).await;
    assert_eq!((id(&victim).as_deref(), id(&thief).as_deref()), (Some("1i1"), Some("1i2")));
    // Its IP address, then its hardware address too; said aloud, which a bridge and a host would believe.
    let steps: [&[&str]; 2] = [
        &["ip", "address", "add", &format!("{}/32", place.address), "dev", "sp-1i2"],
        &["ip", "link", "set", "sp-1i2", "address", &place.mac],
    ];
    for step in steps {
        thief.tool(step);
        let aloud = thief.udp(&format!("{}:0", place.address));
        for _ in 0..3 {
            let _ = aloud.send_to(b"here I am", "10.42.0.1:9");
            let said = ask(&thief, Some(place.address), 80, "/latest/meta-data/instance-id");
            assert!(said.is_err(), "{said:?}");
        }
        assert_eq!(id(&victim).as_deref(), Some("1i1"), "who has it is answered as before");
    }
}
