//! etcd as it is installed, one member on loopback, with nothing set but what this size needs.

use stampede::environment::Environment;
use stampede::store::Store;
use stampede::store::etcd::{EtcdOptions, EtcdStore};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Gone with its data when dropped.
pub struct Server {
    process: Child,
    pub url: String,
    _directory: tempfile::TempDir,
}

impl Server {
    pub async fn start(directory: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("stampede-bench-").tempdir_in(directory).unwrap();
        let (url, peer) = (free_url(), free_url());
        let data = directory.path().join("data").display().to_string();
        // `setpriv`: it ends with the benchmark, however that ends.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "etcd", "--name", "m0", "--data-dir", &data, "--logger", "zap"])
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("m0={peer}"), "--quota-backend-bytes", "8589934592"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd: apt-get install -y etcd-server");
        let server = Self { process, url, _directory: directory };
        for _ in 0..200 {
            if server.connect().get("ready").await.is_ok() {
                return server;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("etcd does not answer");
    }

    /// A connection of its own.
    pub fn connect(&self) -> Arc<dyn Store> {
        let options = EtcdOptions {
            endpoints: vec![self.url.clone()],
            timeout: Duration::from_secs(60),
            ..EtcdOptions::default()
        };
        Arc::new(EtcdStore::connect(options, &Environment::system().unwrap()).unwrap())
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// One of the figures that etcd keeps of itself; 0 where it has none of that name.
    pub async fn metric(&self, name: &str) -> f64 {
        let address = self.url.strip_prefix("http://").unwrap();
        let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
        connection.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).await.unwrap();
        let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name));
        line.and_then(|line| line.rsplit(' ').next()).map_or(0.0, |value| value.parse().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub fn version() -> String {
    let output = Command::new("etcd").arg("--version").output().expect("etcd: apt-get install -y etcd-server");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().next().unwrap_or_default().replace(" Version:", "")
}

pub fn free_url() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("http://127.0.0.1:{port}")
}
