//! An agent that does nothing, as a process of its own: `stampede agent`, with no Docker, in a network namespace in which
//! it has its network.
//!
//! What it gets of placements elsewhere is what etcd sent to watches in all, less what the one that places got itself.

use crate::agent::{Agent, place_many};
use crate::etcd::{Server, free_url};
use crate::figures::line;
use crate::process;
use crate::world::{World, subnet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NAME: &str = "bench";
/// How long it may take to join, and then to come to rest.
const JOIN: Duration = Duration::from_secs(120);
const REST: Duration = Duration::from_secs(30);
/// Placements on other hosts.
const ELSEWHERE: u64 = 1000;
/// Rows asked for at a time.
const PAGE: usize = 1000;

/// How long it is watched.
pub struct Spans {
    pub idle: Duration,
    /// After lists were asked for; zero leaves that out.
    pub drop: Duration,
}

pub async fn measure(server: &Server, world: &World, directory: &Path, spans: Spans) {
    let agent = Process::start(server, directory).await;
    tokio::time::sleep(REST.min(spans.idle)).await;
    println!(
        "\nan agent that does nothing, `stampede agent` beside {} hosts, watched for {:?}",
        world.hosts, spans.idle
    );
    agent.at_rest(server, world, spans.idle).await;
    agent.elsewhere(server, world).await;
    if !spans.drop.is_zero() {
        agent.lists(world, spans.drop).await;
    }
}

struct Process {
    process: Child,
    socket: PathBuf,
    _directory: tempfile::TempDir,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Process {
    async fn start(server: &Server, directory: &Path) -> Self {
        let directory = tempfile::Builder::new().prefix("stampede-bench-").tempdir_in(directory).unwrap();
        let path = |name: &str| directory.path().join(name);
        let (spec, network) = (subnet(), has_network());
        let text = format!(
            "name = \"{NAME}\"\nstate_directory = {:?}\nrun_directory = {:?}\n[store]\nendpoints = [{:?}]\n[api]\naddress = {:?}\n\
             [docker]\nsocket = {:?}\n[network]\nenabled = {network}\nencryption = \"none\"\ndriver_socket = {:?}\n\
             subnet = {:?}\nprefix = {}\nblock = {}\n",
            path("state"),
            path("run"),
            server.url,
            free_url().strip_prefix("http://").unwrap(),
            path("no-docker.sock"),
            path("driver.sock"),
            spec.network.to_string(),
            spec.prefix,
            spec.block_prefix
        );
        std::fs::write(path("config.toml"), text).unwrap();
        let process = Command::new("setpriv")
            .envs(unit_environment())
            .args(["--pdeathsig", "KILL"])
            .arg(binary())
            .args(["agent", "--config"])
            .arg(path("config.toml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(path("log")).unwrap())
            .spawn()
            .unwrap();
        let agent = Self { process, socket: path("run").join("api.sock"), _directory: directory };
        if !network {
            println!("\nthis network namespace has no link to others: the idle agent has no managed network");
        }
        let (store, begun) = (server.connect(), Instant::now());
        while store.get(&stampede::store::key::alive(NAME)).await.unwrap().entry.is_none() {
            let log = std::fs::read_to_string(agent._directory.path().join("log")).unwrap();
            assert!(begun.elapsed() < JOIN, "the agent does not join: {log}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        agent
    }

    /// What it costs while nobody asks anything of it.
    async fn at_rest(&self, server: &Server, world: &World, span: Duration) {
        let pid = self.process.id();
        let revision = async || world.store.get("none").await.unwrap().revision.0;
        let proposals = async || server.metric("etcd_server_proposals_committed_total").await;
        let (cpu, etcd_cpu) = (process::cpu(pid), process::cpu(server.pid()));
        let (revision_before, proposals_before, begun) = (revision().await, proposals().await, Instant::now());
        tokio::time::sleep(span).await;
        let took = begun.elapsed().as_secs_f64();
        let share = |before: Duration, after: Duration| 100.0 * (after - before).as_secs_f64() / took;
        let (all, own) = process::memory(pid);
        line("memory, MB", &format!("{all:.1}, {own:.1} of it its own"), "at most 30");
        line("processor, % of one", &format!("{:.2}", share(cpu, process::cpu(pid))), "at most 0.5");
        line(
            "etcd's processor meanwhile, % of one",
            &format!("{:.2}", share(etcd_cpu, process::cpu(server.pid()))),
            "",
        );
        let writes = revision().await - revision_before;
        line(
            "writes to etcd, a second",
            &format!("{:.3} ({writes} in all)", writes as f64 / took),
            "0, but for keepalives",
        );
        let proposed = proposals().await - proposals_before;
        line("etcd's proposals meanwhile, a second", &format!("{:.3}", proposed / took), "");
        line("watches that etcd holds", &format!("{}", server.metric("etcd_debugging_mvcc_watcher_total").await), "");
    }

    async fn elsewhere(&self, server: &Server, world: &World) {
        let placing = Agent::warm(server.connect(), world).await;
        // It learns the hosts first, and who has which address.
        let first = place_many(std::slice::from_ref(&placing), 10, 1).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let told = async || server.metric("etcd_debugging_mvcc_events_total").await;
        let (all, own, cpu) = (told().await, placing.counts.now()[4], process::cpu(self.process.id()));
        let round = place_many(std::slice::from_ref(&placing), ELSEWHERE, 16).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (all, own) = (told().await - all, (placing.counts.now()[4] - own) as f64);
        let spent = (process::cpu(self.process.id()) - cpu).as_secs_f64() * 1e6 / ELSEWHERE as f64;
        line("events it gets for a placement elsewhere", &format!("{:.3}", (all - own) / ELSEWHERE as f64), "0");
        line("its processor time for one, µs", &format!("{spent:.1}"), "");
        world.take_away(&first.made).await;
        world.take_away(&round.made).await;
    }

    /// What lists cost it, and whether it gets rid of that.
    async fn lists(&self, world: &World, wait: Duration) {
        let pid = self.process.id();
        let begun = Instant::now();
        let rows = self.ask("/v1/instances?limit=1000").await.matches("\"uuid\":").count().min(PAGE);
        self.ask("/v1/hosts?limit=1000").await;
        let took = begun.elapsed();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (all, own) = process::memory(pid);
        println!("  asked for lists of instances and hosts: the first {rows} rows of each came within {took:.1?}");
        line("memory with lists, MB", &format!("{all:.0}, {own:.0} of it its own"), "");
        let told = process::cpu(pid);
        tokio::time::sleep(wait).await;
        let (all, own) = process::memory(pid);
        line(
            &format!("memory {wait:?} later, MB"),
            &format!("{all:.1}, {own:.1} of it its own"),
            "as before the lists",
        );
        let share = 100.0 * (process::cpu(pid) - told).as_secs_f64() / wait.as_secs_f64();
        line("processor meanwhile, % of one", &format!("{share:.2}"), "");
        drop(world.store.get("none").await);
    }

    /// As root, over its socket.
    async fn ask(&self, path: &str) -> String {
        let mut socket = tokio::net::UnixStream::connect(&self.socket).await.unwrap();
        socket.write_all(format!("GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.lines().next().unwrap().contains("200"), "{answer:.500}");
        answer
    }
}

/// Whether there is a way to other hosts in this namespace: `scripts/bench` makes one that leads nowhere.
fn has_network() -> bool {
    std::fs::read_to_string("/proc/net/dev").unwrap().contains("underlay:")
}

/// Built beside this program.
/// What the agent's unit sets.
fn unit_environment() -> impl Iterator<Item = (&'static str, &'static str)> {
    let unit = include_str!("../../systemd/stampede.service");
    let lines = unit.lines().filter_map(|line| line.strip_prefix("Environment="));
    lines.flat_map(str::split_whitespace).filter_map(|one| one.split_once('='))
}

fn binary() -> PathBuf {
    let told = std::env::var_os("STAMPEDE_BINARY").map(PathBuf::from);
    told.unwrap_or_else(|| std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("stampede"))
}
