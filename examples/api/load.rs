//! Load: as many requests as connections carry, or so many a second.

use etcd_client::GetOptions;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use stampede::store::key;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

pub type Paths = Arc<dyn Fn(u64) -> String + Send + Sync>;

/// Whom to ask, and what.
#[derive(Clone)]
pub enum Target {
    Http { to: Address, key: Option<String>, path: Paths },
    EtcdOne { url: String, instances: u64 },
    EtcdList { url: String },
}

#[derive(Clone)]
pub enum Address {
    Tcp(String),
    Unix(PathBuf),
}

/// One connection to it.
enum Connection {
    Http(SendRequest<Full<Bytes>>),
    Etcd(Box<etcd_client::Client>),
}

impl Target {
    pub fn etcd_one(url: &str, instances: u64) -> Self {
        Self::EtcdOne { url: url.to_owned(), instances }
    }

    pub fn etcd_list(url: &str) -> Self {
        Self::EtcdList { url: url.to_owned() }
    }

    pub async fn ask_once(&self) {
        self.ask(&mut self.connect().await, 0).await;
    }

    async fn connect(&self) -> Connection {
        match self {
            Self::Http { to: Address::Tcp(address), .. } => {
                let stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                Connection::Http(sender)
            }
            Self::Http { to: Address::Unix(path), .. } => {
                let (sender, connection) =
                    handshake(TokioIo::new(UnixStream::connect(path).await.unwrap())).await.unwrap();
                tokio::spawn(connection);
                Connection::Http(sender)
            }
            Self::EtcdOne { url, .. } | Self::EtcdList { url } => {
                Connection::Etcd(Box::new(etcd_client::Client::connect([url], None).await.unwrap()))
            }
        }
    }

    async fn ask(&self, connection: &mut Connection, number: u64) {
        match (self, connection) {
            (Self::Http { key, path, .. }, Connection::Http(sender)) => {
                let mut request = Request::get(path(number)).header("host", "bench");
                if let Some(key) = key {
                    request = request.header("authorization", key);
                }
                sender.ready().await.unwrap();
                let response = sender.send_request(request.body(Full::default()).unwrap()).await.unwrap();
                let status = response.status();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert!(status.is_success(), "{status}: {}", String::from_utf8_lossy(&body));
            }
            (Self::EtcdOne { instances, .. }, Connection::Etcd(client)) => {
                let answer = client.get(key::resource("instance", number % instances + 1), None).await.unwrap();
                assert_eq!(answer.count(), 1);
            }
            (Self::EtcdList { .. }, Connection::Etcd(client)) => {
                let options = GetOptions::new().with_prefix().with_limit(100);
                let answer = client.get(key::resources("instance"), Some(options)).await.unwrap();
                assert_eq!(answer.kvs().len(), 100);
            }
            _ => panic!("another connection"),
        }
    }
}

/// A walk over all numbers that no cache likes.
fn scattered(step: u64) -> u64 {
    step.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20
}

/// Requests a second, as many as that many connections carry.
pub async fn rate(target: &Target, connections: usize, span: Duration) -> f64 {
    let done = Arc::new(AtomicU64::new(0));
    let ready: Vec<Connection> = futures::future::join_all((0..connections).map(|_| target.connect())).await;
    let since = Instant::now();
    let until = since + span;
    let work = ready.into_iter().map(|mut connection| {
        let (target, done) = (target.clone(), done.clone());
        tokio::spawn(async move {
            while Instant::now() < until {
                let number = scattered(done.fetch_add(1, Relaxed));
                target.ask(&mut connection, number).await;
            }
        })
    });
    for ended in futures::future::join_all(work).await {
        ended.unwrap();
    }
    done.load(Relaxed) as f64 / since.elapsed().as_secs_f64()
}

/// How long each request takes, in seconds and in order, at `rate` a second; one that has to wait for a connection waits as well.
pub async fn spread(target: &Target, connections: usize, rate: f64, span: Duration) -> Vec<f64> {
    let gap = Duration::from_secs_f64(connections as f64 / rate);
    let ready: Vec<Connection> = futures::future::join_all((0..connections).map(|_| target.connect())).await;
    let since = Instant::now();
    let work = ready.into_iter().enumerate().map(|(index, mut connection)| {
        let target = target.clone();
        tokio::spawn(async move {
            let mut due = since + gap.mul_f64(index as f64 / connections as f64);
            let mut times = Vec::new();
            let mut step = index as u64;
            while due < since + span {
                tokio::time::sleep_until(due).await;
                target.ask(&mut connection, scattered(step)).await;
                times.push(due.elapsed().as_secs_f64());
                due += gap;
                step += connections as u64;
            }
            times
        })
    });
    let mut all: Vec<f64> = futures::future::join_all(work).await.into_iter().flat_map(Result::unwrap).collect();
    all.sort_by(f64::total_cmp);
    all
}
