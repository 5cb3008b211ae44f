//! etcd as a test needs it: members on loopback with directories of their own, stopped, killed and started at will.

use crate::{environment, until};
use rustix::process::{Pid, Signal, kill_process};
use stampede::store::Store;
use stampede::store::etcd::{EtcdOptions, EtcdStore, EtcdTls};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// A cluster, gone with its data when dropped.
pub struct Server {
    members: Vec<Member>,
    tls: Option<EtcdTls>,
}

struct Member {
    arguments: Vec<String>,
    url: String,
    process: Child,
    _directory: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Self {
        Self::cluster(1).await
    }

    pub async fn cluster(size: usize) -> Self {
        Self::with(size, &[]).await
    }

    pub async fn with(size: usize, more: &[&str]) -> Self {
        Self::spawn(size, "http", None, more).await
    }

    /// One member that clients reach over TLS.
    pub async fn over_tls(more: &[&str], tls: &EtcdTls) -> Self {
        Self::spawn(1, "https", Some(tls.clone()), more).await
    }

    async fn spawn(size: usize, scheme: &str, tls: Option<EtcdTls>, more: &[&str]) -> Self {
        // Between the choice of a port and etcd's listening on it another may have taken it: then that etcd ends at once.
        for _ in 0..5 {
            let mut server = Self::try_spawn(size, scheme, tls.clone(), more);
            if server.comes().await {
                return server;
            }
        }
        panic!("no etcd starts here");
    }

    fn try_spawn(size: usize, scheme: &str, tls: Option<EtcdTls>, more: &[&str]) -> Self {
        let url = || free_url().replace("http", scheme);
        let urls: Vec<(String, String)> = (0..size).map(|_| (url(), free_url())).collect();
        let initial: Vec<String> = urls.iter().enumerate().map(|(i, (_, peer))| format!("m{i}={peer}")).collect();
        let members = urls.into_iter().enumerate().map(|(i, (url, peer))| {
            let directory = tempfile::tempdir().unwrap();
            let mut arguments: Vec<String> = [
                "--name",
                &format!("m{i}"),
                "--data-dir",
                &directory.path().join("data").display().to_string(),
                "--listen-client-urls",
                &url,
                "--advertise-client-urls",
                &url,
                "--listen-peer-urls",
                &peer,
                "--initial-advertise-peer-urls",
                &peer,
                "--initial-cluster",
                &initial.join(","),
                "--logger",
                "zap",
            ]
            .map(str::to_owned)
            .to_vec();
            arguments.extend(more.iter().map(|more| (*more).to_owned()));
            let process = spawn(&arguments);
            Member { arguments, url, process, _directory: directory }
        });
        Self { members: members.collect(), tls }
    }

    /// Whether every member came to answer; not where one ended.
    async fn comes(&mut self) -> bool {
        let urls = self.urls();
        let members = &mut self.members;
        let ended = async {
            while !members.iter_mut().any(|member| matches!(member.process.try_wait(), Ok(Some(_)))) {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::select! {
            () = ended => false,
            () = ready(&urls, self.tls.as_ref()) => true,
        }
    }

    pub fn urls(&self) -> Vec<String> {
        self.members.iter().map(|member| member.url.clone()).collect()
    }

    pub fn connect(&self) -> Arc<EtcdStore> {
        self.connect_within(Duration::from_secs(5))
    }

    pub fn connect_within(&self, timeout: Duration) -> Arc<EtcdStore> {
        connect(self.urls(), timeout)
    }

    /// As if the machine hung: connections stay, nothing answers.
    pub async fn stop(&self, member: usize) {
        let pid = self.pid(member);
        kill_process(pid, Signal::STOP).unwrap();
        // A signal takes its time to reach all threads, and until then they answer.
        let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let said = task.and_then(|task| std::fs::read_to_string(task.path().join("stat"))).unwrap_or_default();
            said.rsplit(") ").next().is_none_or(|rest| rest.starts_with('T'))
        };
        for _ in 0..1000 {
            if std::fs::read_dir(&tasks).unwrap().all(is_stopped) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("etcd does not stop");
    }

    pub fn resume(&self, member: usize) {
        kill_process(self.pid(member), Signal::CONT).unwrap();
    }

    pub fn kill(&mut self, member: usize) {
        let process = &mut self.members[member].process;
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub fn restart(&mut self, member: usize) {
        let member = &mut self.members[member];
        member.process = spawn(&member.arguments);
    }

    /// A snapshot of the only member, by etcd's own means.
    pub fn save(&self, file: &Path) {
        etcdctl(&["--endpoints", &self.members[0].url, "snapshot", "save", &file.display().to_string()]);
    }

    /// The only member goes back to what it was when it was saved.
    pub fn restore(&mut self, file: &Path) {
        self.restore_as(file, None);
    }

    /// The same, with another token: as another cluster.
    pub fn restore_as(&mut self, file: &Path, token: Option<&str>) {
        self.kill(0);
        let arguments = &self.members[0].arguments;
        let told = |flag: &str| {
            let at = arguments.iter().position(|argument| argument == flag).unwrap();
            arguments[at + 1].as_str()
        };
        std::fs::remove_dir_all(told("--data-dir")).unwrap();
        let mut restore = vec!["snapshot", "restore"];
        let file = file.display().to_string();
        restore.push(&file);
        for flag in ["--name", "--data-dir", "--initial-cluster", "--initial-advertise-peer-urls"] {
            restore.extend([flag, told(flag)]);
        }
        restore.extend(token.into_iter().flat_map(|token| ["--initial-cluster-token", token]));
        etcdctl(&restore);
        self.restart(0);
    }

    /// Waits until every member answers.
    pub async fn ready(&self) {
        ready(&self.urls(), self.tls.as_ref()).await;
    }

    fn pid(&self, member: usize) -> Pid {
        Pid::from_child(&self.members[member].process)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.process.kill();
            let _ = member.process.wait();
        }
    }
}

async fn ready(urls: &[String], tls: Option<&EtcdTls>) {
    for url in urls {
        let options = EtcdOptions {
            endpoints: vec![url.clone()],
            tls: tls.cloned(),
            timeout: Duration::from_secs(1),
            ..EtcdOptions::default()
        };
        let store = EtcdStore::connect(options, &environment()).unwrap();
        until("etcd", async || store.get("ready").await.is_ok()).await;
    }
}

pub fn connect(endpoints: Vec<String>, timeout: Duration) -> Arc<EtcdStore> {
    let options = EtcdOptions { endpoints, timeout, ..EtcdOptions::default() };
    Arc::new(EtcdStore::connect(options, &environment()).unwrap())
}

/// A URL on loopback where nobody listens.
pub fn free_url() -> String {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    format!("http://127.0.0.1:{port}")
}

fn etcdctl(arguments: &[&str]) {
    let output = Command::new("etcdctl").env("ETCDCTL_API", "3").args(arguments).output();
    let output = output.expect("this test needs etcdctl: apt-get install -y etcd-client");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// `STAMPEDE_TEST_ETCD` names another etcd than the installed one. It dies with the test, however that ends.
fn spawn(arguments: &[String]) -> Child {
    let etcd = std::env::var("STAMPEDE_TEST_ETCD").unwrap_or_else(|_| "etcd".into());
    let installed = Command::new(&etcd).arg("--version").stdout(Stdio::null()).status();
    assert!(
        installed.is_ok_and(|status| status.success()),
        "this test needs etcd: apt-get install -y etcd-server etcd-client"
    );
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", &etcd])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
