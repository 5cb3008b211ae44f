//! The service over real sockets: a subnet within 127.0.0.0/8, whose addresses are all this machine's, so that each client asks
//! with an address of its own.

mod wire;

use super::*;
use crate::resource::assignment::Assignment;
use crate::resource::instance;
use crate::store::embedded::Embedded;
use crate::store::{Operation, Transaction, key};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const LIMIT: Duration = Duration::from_secs(15);
const ONE: Ipv4Addr = Ipv4Addr::new(127, 42, 7, 9);
const OTHER: Ipv4Addr = Ipv4Addr::new(127, 42, 7, 10);
const UNKNOWN: Ipv4Addr = Ipv4Addr::new(127, 42, 7, 11);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);

fn subnet() -> SubnetSpec {
    SubnetSpec::of(Ipv4Addr::new(127, 42, 0, 0), 16, 26).unwrap()
}

struct World {
    store: Arc<dyn Store>,
    address: SocketAddr,
    task: tokio::task::JoinHandle<std::convert::Infallible>,
    _directory: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl World {
    /// `1i1` is at [`ONE`], `1i2` at [`OTHER`].
    async fn new() -> Self {
        let environment = Environment::system().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory(&environment).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        let assigned = [("1i1", ONE), ("1i2", OTHER)].map(|(id, address)| Assignment {
            network: Some(subnet().managed(address, 1380)),
            account: Some(5),
            uuid: id.to_owned(),
            ..Assignment::example(id)
        });
        for assignment in &assigned {
            ledger.put_assignment(assignment).unwrap();
        }
        let askers = Askers::new(&assigned);
        let settings = Settings { subnet: subnet(), askers, host: "h1".to_owned(), ledger };
        let responder = Arc::new(settings.responder(store.clone(), &environment));
        let listener = server::open(SocketAddr::from((subnet().gateway, 0))).unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(server::serve(TcpListener::from_std(listener).unwrap(), responder));
        let world = Self { store, address, task, _directory: directory };
        for (number, more) in [
            (
                1,
                json!({"userdata": "#cloud-config\n\u{e9}", "credentialIds": [3], "imageId": 7, "name": "web", "labels": {"app": "web"}}),
            ),
            (2, json!({})),
        ] {
            let mut row = json!({"id": number, "kind": "container", "uuid": format!("1i{number}"), "created": 5, "state": "running",
                "accountId": 5});
            row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            world.put(&key::resource(instance::BASE, number), &row).await;
        }
        let ssh = json!({"id": 3, "kind": "sshKey", "uuid": "k", "created": 5, "state": "active", "accountId": 5, "name": "mine",
            "publicValue": "ssh-ed25519 AAAA me@home"});
        world.put(&key::resource("credential", 3), &ssh).await;
        world
    }

    async fn put(&self, key: &str, value: &Value) {
        let put = Operation::put(key, value.to_string().into());
        assert!(self.store.commit(Transaction::new().then(put)).await.unwrap().succeeded);
    }

    async fn connect(&self, from: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }

    /// All that is answered to these bytes until the connection ends.
    async fn raw(&self, from: Ipv4Addr, request: &[u8]) -> Vec<u8> {
        let mut stream = self.connect(from).await;
        let mut answer = Vec::new();
        let talk = async {
            // It may be closed before all is said.
            let _ = stream.write_all(request).await;
            let _ = stream.shutdown().await;
            let _ = stream.read_to_end(&mut answer).await;
        };
        tokio::time::timeout(LIMIT, talk).await.unwrap();
        answer
    }

    /// Status, head and body.
    async fn ask(&self, from: Ipv4Addr, what: &str, headers: &[(&str, &str)]) -> (u16, String, String) {
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let request = format!("{what} HTTP/1.1\r\nHost: 169.254.169.254\r\nConnection: close\r\n{headers}\r\n");
        let answer = String::from_utf8(self.raw(from, request.as_bytes()).await).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, head.to_lowercase(), body.to_owned())
    }

    async fn get(&self, from: Ipv4Addr, path: &str) -> (u16, String) {
        let (status, _, body) = self.ask(from, &format!("GET {path}"), &[]).await;
        (status, body)
    }

    async fn body(&self, path: &str) -> String {
        let (status, body) = self.get(ONE, path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }
}

#[tokio::test]
async fn the_tree_of_ec2_is_told_in_all_versions() {
    let world = World::new().await;
    assert!(world.body("/").await.starts_with("1.0\n2007-01-19\n"));
    for version in ec2::VERSIONS {
        assert_eq!(world.body(&format!("/{version}/")).await, "meta-data/\nuser-data");
        assert_eq!(world.body(&format!("/{version}/meta-data/instance-id")).await, "1i1");
    }
    let all = "ami-id ami-launch-index ami-manifest-path block-device-mapping/ hostname instance-id local-hostname local-ipv4 mac network/ \
        instance-action instance-type placement/ profile reservation-id services/ public-keys/";
    assert_eq!(world.body("/latest/meta-data/").await, all.replace(' ', "\n"));
    let mac = subnet().mac(ONE);
    for (name, value) in [
        ("hostname", "ip-127-42-7-9"),
        ("local-ipv4", "127.42.7.9"),
        ("mac", mac.to_string().as_str()),
        ("ami-id", "1i7"),
        ("placement/availability-zone", "default"),
        ("public-keys/", "0=mine"),
        ("public-keys/0/", "openssh-key"),
        ("public-keys/0/openssh-key", "ssh-ed25519 AAAA me@home"),
        ("network/interfaces/macs", &format!("{mac}/")),
        (&format!("network/interfaces/macs/{mac}/local-ipv4s"), "127.42.7.9"),
        (&format!("network/interfaces/macs/{mac}/owner-id"), "1a5"),
        ("block-device-mapping/", ""),
    ] {
        assert_eq!(world.body(&format!("/latest/meta-data/{name}")).await, value, "{name}");
    }
    assert_eq!(world.body("/latest/user-data").await, "#cloud-config\n\u{e9}");
    for nothing in
        ["/2030-01-01/", "/latest/meta-data/public-ipv4", "/latest/dynamic/instance-identity/document", "/favicon.ico"]
    {
        assert_eq!(world.get(ONE, nothing).await.0, 404, "{nothing}");
    }
}

#[tokio::test]
async fn the_tree_of_openstack_is_told() {
    let world = World::new().await;
    assert!(world.body("/openstack").await.starts_with("2012-08-10\n"));
    assert_eq!(world.body("/openstack/2012-08-10/").await, "meta_data.json\nuser_data");
    let all = "meta_data.json\nuser_data\nvendor_data.json\nnetwork_data.json\nvendor_data2.json";
    assert_eq!(world.body("/openstack/latest/").await, all);
    let meta: Value = serde_json::from_str(&world.body("/openstack/latest/meta_data.json").await).unwrap();
    assert_eq!(meta["uuid"], "1i1");
    assert_eq!(meta["public_keys"], json!({"mine": "ssh-ed25519 AAAA me@home"}));
    assert_eq!((&meta["name"], &meta["meta"]), (&json!("web"), &json!({"app": "web"})));
    let network: Value = serde_json::from_str(&world.body("/openstack/latest/network_data.json").await).unwrap();
    assert_eq!(network["networks"][0]["ip_address"], "127.42.7.9");
    assert_eq!(network["links"][0]["ethernet_mac_address"], subnet().mac(ONE).to_string());
    assert_eq!(world.body("/openstack/latest/user_data").await, "#cloud-config\n\u{e9}");
    assert_eq!(world.get(ONE, "/openstack/2012-08-10/network_data.json").await.0, 404);
}

#[tokio::test]
async fn each_is_told_about_itself_and_strangers_nothing() {
    let world = World::new().await;
    assert_eq!(world.get(OTHER, "/latest/meta-data/instance-id").await, (200, "1i2".into()));
    assert_eq!(world.get(OTHER, "/latest/user-data").await.0, 404);
    assert_eq!(world.get(OTHER, "/latest/meta-data/public-keys/").await.0, 404);
    assert_eq!(world.get(UNKNOWN, "/latest/meta-data/").await.0, 404);
    assert_eq!(world.get(subnet().gateway, "/latest/meta-data/").await.0, 404, "the host itself");
    assert_eq!(world.raw(STRANGER, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await, b"", "closed");
}

#[tokio::test]
async fn tokens_are_for_who_asked_for_them() {
    let world = World::new().await;
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds";
    let put = async |from, headers: &[(&str, &str)]| world.ask(from, "PUT /latest/api/token", headers).await;
    for wrong in ["", "0", "21601", "-1", "abc", "99999999999999999999999"] {
        assert_eq!(put(ONE, &[(ttl, wrong)]).await.0, 400, "{wrong}");
    }
    assert_eq!(put(ONE, &[]).await.0, 400);
    assert_eq!(put(ONE, &[(ttl, "60"), ("X-Forwarded-For", "127.42.7.10")]).await.0, 403);
    let (status, head, token) = put(ONE, &[(ttl, "60")]).await;
    assert!(status == 200 && head.contains("x-aws-ec2-metadata-token-ttl-seconds: 60"), "{head}");
    let with = async |from, token: &str, path: &str| {
        world.ask(from, &format!("GET {path}"), &[("X-aws-ec2-metadata-token", token)]).await
    };
    assert_eq!(with(ONE, &token, "/latest/meta-data/instance-id").await.2, "1i1");
    assert_eq!(with(OTHER, &token, "/latest/meta-data/instance-id").await.0, 401, "another's");
    assert_eq!(with(ONE, "rubbish", "/latest/meta-data/instance-id").await.0, 401);
    assert_eq!(with(ONE, "", "/openstack/latest/meta_data.json").await.0, 401);
    let (status, head, _) = world.ask(ONE, "GET /latest/api/token", &[]).await;
    assert!(status == 405 && head.contains("allow: put"), "{head}");
    assert_eq!(world.ask(ONE, "PUT /latest/meta-data/", &[(ttl, "60")]).await.0, 405);
    assert_eq!(world.ask(ONE, "POST /latest/user-data", &[("Content-Length", "0")]).await.0, 405);
    assert_eq!(world.ask(ONE, "GET /latest/user-data", &[("X-Forwarded-For", "127.42.7.10")]).await.0, 403);
    assert_eq!(world.ask(ONE, "HEAD /latest/user-data", &[]).await.0, 200);
}

#[tokio::test]
async fn who_takes_too_much_is_let_go_and_others_are_answered() {
    let world = World::new().await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(40_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(1000));
    for flood in [long, many] {
        let answer = String::from_utf8(world.raw(ONE, flood.as_bytes()).await).unwrap();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    // One that opens all that it may and says nothing.
    let mut held = Vec::new();
    for _ in 0..16 {
        let mut stream = world.connect(ONE).await;
        stream.write_all(b"GET / HT").await.unwrap();
        held.push(stream);
    }
    assert_eq!(world.raw(ONE, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await, b"", "one more is closed");
    assert_eq!(world.get(OTHER, "/latest/meta-data/instance-id").await.1, "1i2", "others are answered");
    // Who is slow is let go in the end.
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(LIMIT, held[0].read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "not within {LIMIT:?}");
    drop(held);
    crate::network::tests::support::eventually("it has its share again", async || {
        world.get(ONE, "/latest/meta-data/instance-id").await.1 == "1i1"
    })
    .await;
    // Several questions by one connection, and the answers in their order.
    let path = |name: &str| format!("GET /latest/meta-data/{name} HTTP/1.1\r\nHost: x\r\n\r\n");
    let answer = world.raw(ONE, (path("instance-id") + &path("local-ipv4")).as_bytes()).await;
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer.contains("1i1HTTP/1.1 200") && answer.ends_with("127.42.7.9"), "{answer}");
}

#[test]
fn rubbish_is_answered_or_let_go() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = runtime.block_on(World::new());
    let word = prop::sample::select(vec![
        "GET ",
        "PUT ",
        "/latest/",
        "api/token",
        "meta-data/",
        "%",
        "%ff",
        "\r\n",
        " HTTP/1.1",
        "Host: x",
        "Content-Length: ",
        "Transfer-Encoding: chunked",
        "99999999999",
        "-1",
        "X-aws-ec2-metadata-token: ",
        "public-keys/0",
        "openstack/",
        "\0",
        ":",
    ]);
    let piece = prop_oneof![word.prop_map(|word| word.as_bytes().to_vec()), prop::collection::vec(any::<u8>(), 0..8)];
    let requests = prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat());
    let mut runner = TestRunner::new(Config { cases: 300, failure_persistence: None, ..Config::default() });
    let outcome = runner.run(&requests, |request| {
        let answer = runtime.block_on(world.raw(ONE, &request));
        prop_assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", String::from_utf8_lossy(&answer));
        Ok(())
    });
    outcome.unwrap();
    assert_eq!(runtime.block_on(world.get(ONE, "/latest/meta-data/instance-id")).1, "1i1", "and it goes on");
}
