//! The DNS over real sockets: a subnet within 127.0.0.0/8, whose addresses are all this machine's, so that each client asks with
//! an address of its own.

use super::*;
use crate::network::tests::support::eventually;
use crate::resource::assignment::Assignment;
use crate::resource::dns_name::Named;
use crate::store::embedded::Embedded;
use crate::store::{Operation, Transaction, encode, key};
use hickory_proto::op::{Edns, Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use serde_json::{Map, json};
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

const LIMIT: Duration = Duration::from_secs(5);
const ONE: Ipv4Addr = Ipv4Addr::new(127, 42, 7, 9);
const OTHERS: Ipv4Addr = Ipv4Addr::new(127, 42, 7, 10);
const UNKNOWN: Ipv4Addr = Ipv4Addr::new(127, 42, 7, 11);
const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 7);

fn subnet() -> SubnetSpec {
    SubnetSpec::of(Ipv4Addr::new(127, 42, 0, 0), 16, 26).unwrap()
}

#[derive(Debug)]
struct Links;

impl OwnNames for Links {
    fn addresses(&self, instance: &str, name: &str) -> Option<Vec<Ipv4Addr>> {
        (instance == "1i1" && name == "database").then(|| vec![subnet().gateway])
    }
}

struct World {
    store: Arc<dyn Store>,
    address: SocketAddr,
    task: tokio::task::JoinHandle<std::io::Error>,
    directory: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl World {
    /// `1i1` of account 5 is at [`ONE`], `1i2` of account 6 at [`OTHERS`].
    async fn new(port_of_upstream: u16) -> Self {
        let environment = Environment::system().unwrap();
        let store: Arc<dyn Store> = Arc::new(Embedded::in_memory(&environment).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let files = Files { own: directory.path().join("own"), resolved: directory.path().join("resolved") };
        std::fs::write(&files.own, "nameserver 127.0.0.1\n").unwrap();
        let tenant = |id: &str, address, account| Assignment {
            network: Some(subnet().managed(address, 1380)),
            account: Some(account),
            ..Assignment::example(id)
        };
        let settings = Settings {
            subnet: subnet(),
            askers: Askers::new(&[tenant("1i1", ONE, 5), tenant("1i2", OTHERS, 6)]),
            own_names: Some(Arc::new(Links)),
            alive: Mirror::start(store.clone(), &environment, key::all_alive()),
            files: files.clone(),
        };
        let servers = NameServers::new(files, subnet()).with_port(port_of_upstream);
        let responder = settings.responder(Names::new(store.clone(), &environment), servers);
        // The same port by chance has to be free for both.
        let open = || Sockets::open(SocketAddr::from((subnet().gateway, 0))).ok();
        let sockets = std::iter::repeat_with(open).take(20).flatten().next().unwrap();
        let address = sockets.address().unwrap();
        let task = tokio::spawn(sockets.serve(Arc::new(responder)));
        Self { store, address, task, directory }
    }

    async fn put(&self, account: u64, name: &str, id: u64, address: Ipv4Addr, host: &str) {
        let named = Named { address, host: host.into(), name: name.into(), rest: Map::new() };
        let mut transaction = Transaction::new();
        for name in [name, &crate::resource::dns_name::of_address(address)] {
            let key = key::dns(account, name, &format!("1i{id}"));
            transaction = transaction.then(Operation::put(&key, encode(&key, &named).unwrap()));
        }
        assert!(self.store.commit(transaction).await.unwrap().succeeded);
    }

    async fn raw(&self, from: Ipv4Addr, packet: &[u8], limit: Duration) -> Option<Vec<u8>> {
        let socket = UdpSocket::bind((from, 0)).await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket.send(packet).await.unwrap();
        let mut buffer = vec![0; 4096];
        let length = tokio::time::timeout(limit, socket.recv(&mut buffer)).await.ok()?.unwrap();
        buffer.truncate(length);
        Some(buffer)
    }

    async fn ask(&self, from: Ipv4Addr, name: &str, kind: RecordType) -> Message {
        let answer = self.raw(from, &asking(name, kind, None).to_vec().unwrap(), LIMIT).await;
        Message::from_vec(&answer.expect("no answer")).unwrap()
    }

    async fn addresses(&self, from: Ipv4Addr, name: &str) -> Vec<Ipv4Addr> {
        addresses(&self.ask(from, name, RecordType::A).await)
    }

    async fn connect(&self, from: Ipv4Addr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        socket.connect(self.address).await.unwrap()
    }
}

fn asking(name: &str, kind: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message.edns = payload.map(|payload| {
        let mut edns = Edns::new();
        edns.set_max_payload(payload).set_version(0);
        edns
    });
    message
}

fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let mut found: Vec<Ipv4Addr> = message
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(A(address)) => Some(*address),
            _ => None,
        })
        .collect();
    found.sort();
    found
}

/// Sends a question over TCP, whole or in two parts, and reads the answer.
async fn over_tcp(stream: &mut TcpStream, message: &Message) -> Message {
    let packet = message.to_vec().unwrap();
    let framed = [&u16::try_from(packet.len()).unwrap().to_be_bytes(), packet.as_slice()].concat();
    for part in framed.chunks(7) {
        stream.write_all(part).await.unwrap();
        tokio::task::yield_now().await;
    }
    let read = async {
        let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut answer).await.unwrap();
        answer
    };
    Message::from_vec(&tokio::time::timeout(LIMIT, read).await.unwrap()).unwrap()
}

/// A name server that has `example.com` and nothing else, `silent.example.com` it never answers; its port.
async fn name_server() -> u16 {
    let (udp, port, tcp) = loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let port = udp.local_addr().unwrap().port();
        if let Ok(tcp) = TcpListener::bind(("127.0.0.1", port)).await {
            break (udp, port, tcp);
        }
    };
    let answer = |packet: &[u8], datagram: bool| {
        let asked = Message::from_vec(packet).unwrap();
        let name = asked.queries[0].name().clone();
        let mut message = Message::response(asked.metadata.id, OpCode::Query);
        message.metadata.recursion_available = true;
        message.add_queries(asked.queries.clone());
        match name.to_ascii().to_lowercase().as_str() {
            "example.com." => {
                message.add_answer(Record::from_rdata(name, 300, RData::A(A(Ipv4Addr::new(192, 0, 2, 1)))));
            }
            "large.example.com." if datagram => message.metadata.truncation = true,
            "large.example.com." => {
                let text = |number| TXT::new(vec![format!("{number}-{}", "x".repeat(100))]);
                let record = |number| Record::from_rdata(name.clone(), 300, RData::TXT(text(number)));
                message.add_answers((0..30).map(record));
            }
            "silent.example.com." => return None,
            _ => message.metadata.response_code = ResponseCode::NXDomain,
        }
        Some(message.to_vec().unwrap())
    };
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        loop {
            let (length, source) = udp.recv_from(&mut buffer).await.unwrap();
            if let Some(answer) = answer(&buffer[..length], true) {
                udp.send_to(&answer, source).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let mut packet = vec![0; usize::from(stream.read_u16().await.unwrap())];
            stream.read_exact(&mut packet).await.unwrap();
            let answer = answer(&packet, false).unwrap();
            stream.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_answered_by_account() {
    let world = World::new(1).await;
    world.put(5, "web", 7, Ipv4Addr::new(127, 42, 8, 1), "h2").await;
    world.put(5, "web", 8, Ipv4Addr::new(127, 42, 8, 2), "h2").await;
    world.put(6, "web", 9, Ipv4Addr::new(127, 42, 8, 3), "h2").await;
    let both = [Ipv4Addr::new(127, 42, 8, 1), Ipv4Addr::new(127, 42, 8, 2)];
    for name in ["web.", "WEB.stampede.internal.", "Web."] {
        assert_eq!(world.addresses(ONE, name).await, both, "{name}");
        assert_eq!(world.addresses(OTHERS, name).await, [Ipv4Addr::new(127, 42, 8, 3)], "{name}");
    }
    let answer = world.ask(ONE, "web.", RecordType::A).await;
    assert!(answer.answers.iter().all(|record| record.ttl <= 5) && answer.metadata.authoritative);
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..4 {
        let answer = world.ask(ONE, "web.", RecordType::A).await;
        first.insert(format!("{:?}", answer.answers[0].data));
    }
    assert_eq!(first.len(), 2, "each is first in its turn");
    let none = world.ask(ONE, "web.stampede.internal.", RecordType::AAAA).await;
    assert_eq!(
        (none.metadata.response_code, none.answers.len(), none.authorities.len()),
        (ResponseCode::NoError, 0, 1)
    );
    for (name, zone) in [("nobody.stampede.internal.", 1), ("nobody.", 0), ("a.b.stampede.internal.", 1)] {
        let none = world.ask(ONE, name, RecordType::A).await;
        assert_eq!((none.metadata.response_code, none.authorities.len()), (ResponseCode::NXDomain, zone), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_have_names_within_the_account() {
    let world = World::new(1).await;
    world.put(5, "web", 7, Ipv4Addr::new(127, 42, 8, 1), "h2").await;
    let called = async |from, name: &str| {
        let answer = world.ask(from, name, RecordType::PTR).await;
        (answer.metadata.response_code, answer.answers.first().map(|record| record.data.to_string()))
    };
    let name = (ResponseCode::NoError, Some("web.stampede.internal.".to_owned()));
    assert_eq!(called(ONE, "1.8.42.127.in-addr.arpa.").await, name);
    assert_eq!(called(OTHERS, "1.8.42.127.in-addr.arpa.").await, (ResponseCode::NXDomain, None));
    assert_eq!(called(ONE, "2.8.42.127.in-addr.arpa.").await, (ResponseCode::NXDomain, None));
    assert_eq!(called(ONE, "8.42.127.in-addr.arpa.").await, (ResponseCode::NoError, None));
    assert_eq!(world.addresses(ONE, "ip-127-42-8-1.").await, [Ipv4Addr::new(127, 42, 8, 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn links_are_their_askers_own_and_go_first() {
    let world = World::new(1).await;
    world.put(5, "database", 7, Ipv4Addr::new(127, 42, 8, 1), "h2").await;
    world.put(6, "database", 8, Ipv4Addr::new(127, 42, 8, 2), "h2").await;
    assert_eq!(world.addresses(ONE, "database.").await, [subnet().gateway]);
    assert_eq!(world.addresses(OTHERS, "database.").await, [Ipv4Addr::new(127, 42, 8, 2)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_host_is_gone_is_left_out_where_others_are_there() {
    let world = World::new(1).await;
    world.put(5, "web", 7, Ipv4Addr::new(127, 42, 8, 1), "h2").await;
    world.put(5, "web", 8, Ipv4Addr::new(127, 42, 8, 2), "h3").await;
    let alive = key::alive("h3");
    let value = json!({"identity": "i", "incarnation": 1, "bootId": "b", "address": "198.18.0.3:9080", "boot_id": "b"});
    let put = Operation::put(&alive, encode(&alive, &value).unwrap());
    world.store.commit(Transaction::new().then(put)).await.unwrap();
    eventually("the host that is there", async || world.addresses(ONE, "web.").await == [Ipv4Addr::new(127, 42, 8, 2)])
        .await;
    world.store.commit(Transaction::new().then(Operation::delete(&alive))).await.unwrap();
    eventually("all, since none is", async || world.addresses(ONE, "web.").await.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_names_come_from_the_hosts_name_server() {
    let world = World::new(name_server().await).await;
    for from in [ONE, UNKNOWN] {
        let answer = world.ask(from, "Example.com.", RecordType::A).await;
        assert_eq!(addresses(&answer), [Ipv4Addr::new(192, 0, 2, 1)]);
        assert!(answer.answers[0].ttl == 300 && answer.metadata.recursion_available && !answer.metadata.authoritative);
        assert_eq!(answer.queries[0].name().to_ascii(), "Example.com.", "letters as they were asked");
    }
    let none = world.ask(ONE, "nobody.example.com.", RecordType::A).await;
    assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
    let cut = world.ask(ONE, "large.example.com.", RecordType::TXT).await;
    assert!(cut.metadata.truncation, "more than a datagram holds");
    let mut stream = world.connect(ONE).await;
    let whole = over_tcp(&mut stream, &asking("large.example.com.", RecordType::TXT, None)).await;
    assert_eq!(whole.answers.len(), 30);
    let began = tokio::time::Instant::now();
    let silent = world.ask(ONE, "silent.example.com.", RecordType::A).await;
    assert_eq!(silent.metadata.response_code, ResponseCode::ServFail);
    assert!(began.elapsed() < Duration::from_secs(4), "before who asks gives up");
    // Another name server, while it runs.
    std::fs::write(world.directory.path().join("own"), "nameserver 10.255.255.1\nnameserver 127.42.0.1\n").unwrap();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let none = world.ask(ONE, "example.com.", RecordType::A).await;
    assert_eq!(none.metadata.response_code, ResponseCode::ServFail, "the old one is asked no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_hear_nothing_and_the_host_is_refused() {
    let world = World::new(name_server().await).await;
    world.put(5, "web", 7, Ipv4Addr::new(127, 42, 8, 1), "h2").await;
    let packet = asking("web.", RecordType::A, None).to_vec().unwrap();
    assert_eq!(world.raw(STRANGER, &packet, Duration::from_millis(300)).await, None);
    let mut stream = world.connect(STRANGER).await;
    let closed = tokio::time::timeout(LIMIT, stream.read_u8()).await.unwrap();
    assert!(closed.is_err(), "closed at once");
    let code = async |from, name: &str| world.ask(from, name, RecordType::A).await.metadata.response_code;
    for name in ["web.", "web.stampede.internal.", "nobody.", "1.8.42.127.in-addr.arpa."] {
        assert_eq!(code(UNKNOWN, name).await, ResponseCode::Refused, "{name}");
    }
    for host in [subnet().gateway, Ipv4Addr::new(127, 42, 7, 1)] {
        assert_eq!(code(host, "example.com.").await, ResponseCode::Refused, "a question of our own would go round");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_questions_over_one_connection() {
    let world = World::new(1).await;
    for last in 1..=200 {
        world.put(5, "many", u64::from(last), Ipv4Addr::new(127, 42, 9, last), "h2").await;
    }
    let mut stream = world.connect(ONE).await;
    for _ in 0..3 {
        assert_eq!(over_tcp(&mut stream, &asking("many.", RecordType::A, None)).await.answers.len(), 200);
    }
    let cut = world.ask(ONE, "many.", RecordType::A).await;
    assert!(cut.metadata.truncation);
    let packet = asking("many.", RecordType::A, Some(4096)).to_vec().unwrap();
    let answer = world.raw(ONE, &packet, LIMIT).await.unwrap();
    let message = Message::from_vec(&answer).unwrap();
    assert!(answer.len() <= 1232 && message.metadata.truncation && message.edns.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_asker_has_so_many_connections_and_others_have_theirs() {
    let world = World::new(1).await;
    world.put(5, "web", 7, Ipv4Addr::new(127, 42, 8, 1), "h2").await;
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(world.connect(ONE).await);
    }
    let mut closed = 0;
    for stream in &mut held {
        if matches!(tokio::time::timeout(Duration::from_millis(20), stream.read_u8()).await, Ok(Err(_))) {
            closed += 1;
        }
    }
    assert_eq!(closed, 40 - 16);
    let mut other = world.connect(OTHERS).await;
    let answer = over_tcp(&mut other, &asking("web.", RecordType::A, None)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain, "it is heard");
}

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_keeps_nobody_from_being_answered() {
    let world = World::new(1).await;
    world.put(5, "web", 7, Ipv4Addr::new(127, 42, 8, 1), "h2").await;
    let environment = Environment::system().unwrap();
    let socket = UdpSocket::bind((ONE, 0)).await.unwrap();
    let good = asking("web.", RecordType::A, Some(1232)).to_vec().unwrap();
    for number in 0..3000 {
        let mut packet = vec![0; environment.below(600)];
        environment.random.fill(&mut packet);
        if number % 2 == 0 {
            packet.clone_from(&good);
            let (at, value) = (environment.below(packet.len()), environment.below(256));
            packet[at] = u8::try_from(value).unwrap();
            packet.truncate(environment.below(packet.len()) + 1);
        }
        socket.send_to(&packet, world.address).await.unwrap();
        if number % 100 == 0 {
            let mut stream = world.connect(ONE).await;
            let _ = stream.write_all(&packet).await;
        }
    }
    eventually("it answers", async || {
        let answer = world.raw(ONE, &good, Duration::from_millis(500)).await;
        answer.is_some_and(|answer| Message::from_vec(&answer).unwrap().answers.len() == 1)
    })
    .await;
    assert!(!world.task.is_finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_need_not_be_there_yet() {
    assert!(Sockets::open(SocketAddr::from((Ipv4Addr::new(192, 0, 2, 77), 0))).is_ok(), "it comes with the bridge");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_had_when_it_is_free() {
    let world = World::new(1).await;
    let address = world.address;
    assert_eq!(Sockets::open(address).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    let environment = Environment::system().unwrap();
    let settings = Settings {
        subnet: subnet(),
        askers: Askers::default(),
        own_names: None,
        alive: Mirror::start(world.store.clone(), &environment, key::all_alive()),
        files: Files::default(),
    };
    let names = Names::new(world.store.clone(), &environment);
    let responder = settings.responder(names, NameServers::new(Files::default(), subnet()));
    let again = Backoff::new(&environment, Duration::from_millis(10), Duration::from_millis(50));
    let second = tokio::spawn(run(address, Arc::new(responder), again));
    assert_eq!(world.ask(ONE, "web.", RecordType::A).await.metadata.response_code, ResponseCode::NXDomain, "the first");
    drop(world);
    eventually("the second one, which knows nobody", async || {
        let socket = UdpSocket::bind((ONE, 0)).await.unwrap();
        let packet = asking("web.", RecordType::A, None).to_vec().unwrap();
        socket.send_to(&packet, address).await.unwrap();
        let mut buffer = [0; 512];
        match tokio::time::timeout(Duration::from_millis(100), socket.recv(&mut buffer)).await {
            Ok(Ok(length)) => {
                Message::from_vec(&buffer[..length]).unwrap().metadata.response_code == ResponseCode::Refused
            }
            _ => false,
        }
    })
    .await;
    second.abort();
}
