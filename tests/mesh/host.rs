//! One host: a network namespace, a cable, and the program in it.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// An agent that is asked to end has its own limits, below this.
const ENDS: Duration = Duration::from_secs(60);

/// Runs a tool and gives what it says; it has to go well.
pub fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

pub struct Host {
    pub name: String,
    number: u8,
    directory: PathBuf,
    agent: Option<Child>,
}

impl Drop for Host {
    fn drop(&mut self) {
        self.end(Signal::SIGKILL);
        self.unplug();
    }
}

impl Host {
    /// One with its cable in, on which nothing runs yet.
    pub fn new(number: u8, directory: &Path) -> Self {
        let name = format!("h{number}");
        let directory = directory.join(&name);
        std::fs::create_dir_all(&directory).unwrap();
        let host = Self { name, number, directory, agent: None };
        // `ip netns exec` lays what is here over /etc.
        let etc = Path::new("/etc/netns").join(&host.name);
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(etc.join("machine-id"), format!("{number:032x}")).unwrap();
        std::fs::write(host.directory.join("config.toml"), host.config()).unwrap();
        host.plug();
        host
    }

    fn config(&self) -> String {
        let (name, address, at) = (&self.name, self.address(), self.directory.display());
        format!(
            r#"name = "{name}"
state_directory = "{at}/state"
run_directory = "{at}/run"
store.endpoints = ["http://{}:2379"]
docker.socket = "{at}/none"
network.underlay = "{address}"
network.driver_socket = "{at}/driver.sock"
"#,
            crate::world::HERE
        )
    }

    fn address(&self) -> String {
        format!("198.18.0.{}", self.number)
    }

    /// A namespace with a cable to the wire.
    pub fn plug(&self) {
        let (name, port, address) = (&self.name, self.port(), format!("{}/24", self.address()));
        let mac = format!("02:99:00:00:00:{:02x}", self.number);
        for words in [
            &["netns", "add", name][..],
            &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "address", &mac, "netns", name],
            &["link", "set", &port, "master", "wire", "up"],
            &["-n", name, "addr", "add", &address, "dev", "eth0"],
            &["-n", name, "link", "set", "eth0", "up"],
            &["-n", name, "link", "set", "lo", "up"],
        ] {
            done(Command::new("ip").args(words));
        }
    }

    /// All that its kernel has goes with the namespace, when nothing runs there.
    pub fn unplug(&self) {
        done(Command::new("ip").args(["link", "del", &self.port()]));
        done(Command::new("ip").args(["netns", "del", &self.name]));
    }

    fn port(&self) -> String {
        format!("port{}", self.number)
    }

    pub fn cable(&self, state: &str) {
        done(Command::new("ip").args(["link", "set", &self.port(), state]));
    }

    /// What lies in /run is gone after a boot.
    pub fn boot(&self) {
        std::fs::remove_dir_all(self.directory.join("run")).unwrap();
    }

    fn inside(&self, words: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).args(words);
        command.env("STAMPEDE_CONFIG", self.directory.join("config.toml"));
        command.env("STAMPEDE_SOCKET", self.directory.join("run/api.sock"));
        command
    }

    /// What it says, where it goes well.
    pub fn try_run(&self, words: &[&str]) -> Option<String> {
        let output = self.inside(words).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    pub fn ip(&self, words: &[&str]) -> String {
        done(Command::new("ip").args(["-n", &self.name]).args(words))
    }

    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.directory.join("log")).unwrap();
        // The kernel would write a core, where it may: see `World::cores`.
        let mut command = self.inside(&["sh", "-c", "ulimit -c unlimited; exec stampede agent"]);
        command.env("STAMPEDE_LOG", "stampede=trace,info").stdout(Stdio::null()).stderr(log);
        self.agent = Some(command.spawn().unwrap());
    }

    /// What an agent says that does not start.
    pub fn refused(&self) -> String {
        let output = self.inside(&["timeout", "60", "stampede", "agent"]).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// The agent is sent a signal, of which it ends.
    pub fn end(&mut self, signal: Signal) {
        // `ip` has become the agent.
        if let Some(mut agent) = self.agent.take() {
            kill(Pid::from_raw(i32::try_from(agent.id()).unwrap()), signal).unwrap();
            let limit = Instant::now() + ENDS;
            while agent.try_wait().unwrap().is_none() {
                assert!(Instant::now() < limit, "{} did not end of {signal} within {ENDS:?}", self.name);
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }

    /// What a core of its agent would hold: all that it can write to.
    pub fn memory(&self) -> Vec<u8> {
        let of = |name: &str| PathBuf::from(format!("/proc/{}/{name}", self.agent.as_ref().unwrap().id()));
        let maps = std::fs::read_to_string(of("maps")).unwrap();
        let memory = File::open(of("mem")).unwrap();
        let mut all = Vec::new();
        for line in maps.lines().filter(|line| line.contains(" rw")) {
            let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
            let at = |digits| u64::from_str_radix(digits, 16).unwrap();
            let begin = all.len();
            all.resize(begin + usize::try_from(at(to) - at(from)).unwrap(), 0);
            // What went while it was being read is nothing.
            if memory.read_exact_at(&mut all[begin..], at(from)).is_err() {
                all.truncate(begin);
            }
        }
        all
    }

    fn rows(&self, list: &str) -> Vec<Value> {
        let said = self.try_run(&["stampede", list, "--json"]).unwrap_or_default();
        serde_json::from_str(&said).unwrap_or_default()
    }

    /// A field of a host, as this one's agent tells it; nothing where it tells nothing.
    pub fn says_of(&self, host: &str, field: &str) -> String {
        let rows = self.rows("hosts");
        let row = rows.iter().find(|row| row["name"] == host);
        row.map(|row| row[field].as_str().unwrap_or_default().to_owned()).unwrap_or_default()
    }

    pub fn is_active(&self) -> bool {
        self.says_of(&self.name, "state") == "active"
    }

    /// How many others are up, as this one's agent says.
    pub fn peers_up(&self) -> usize {
        let rows = self.rows("mesh");
        let own = rows.iter().find(|row| row["host"] == self.name.as_str());
        let peers = own.and_then(|own| own["peers"].as_array());
        peers.map_or(0, |peers| peers.iter().filter(|peer| peer["state"] == "up").count())
    }

    /// The keys in its kernel, one an association.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        self.associations("src ")
    }

    /// Those under which it sends.
    pub fn keys_out(&self) -> Vec<Vec<u8>> {
        self.associations(&format!("src {} ", self.address()))
    }

    fn associations(&self, head: &str) -> Vec<Vec<u8>> {
        let text = self.ip(&["xfrm", "state"]);
        let (mut keys, mut asked) = (Vec::new(), false);
        for line in text.lines() {
            if line.starts_with("src ") {
                asked = line.starts_with(head);
            } else if let Some(rest) = line.trim().strip_prefix("aead rfc4106(gcm(aes)) 0x").filter(|_| asked) {
                keys.extend(rest.split(' ').next().map(bytes));
            }
        }
        keys
    }

    /// The cluster's secret as this host has it.
    pub fn secret(&self) -> Vec<u8> {
        bytes(std::fs::read_to_string(self.secret_file()).unwrap().trim())
    }

    fn secret_file(&self) -> PathBuf {
        self.directory.join("state/secret")
    }

    /// Puts another there; what was there before.
    pub fn replace_secret(&self, digits: &str) -> String {
        let before = std::fs::read_to_string(self.secret_file()).unwrap();
        std::fs::write(self.secret_file(), digits).unwrap();
        before
    }

    /// Its own address on the private network.
    fn private(&self) -> Option<String> {
        let routes = self.ip(&["-4", "addr", "show"]);
        let mut words =
            routes.split_whitespace().skip_while(|word| *word != "inet").filter(|word| word.starts_with("10.42."));
        let own = words.find(|word| !word.starts_with("10.42.0.1/"))?;
        own.split('/').next().map(str::to_owned)
    }

    /// How many of so many pings are lost.
    pub fn ping(&self, other: &Self, count: usize) -> usize {
        let Some(to) = other.private() else { return count };
        let output = self.inside(&["ping", "-c", &count.to_string(), "-W", "2", &to]).output().unwrap();
        lost(&String::from_utf8_lossy(&output.stdout)).unwrap_or(count)
    }
}

fn bytes(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

/// As ping tells it in the end.
fn lost(said: &str) -> Option<usize> {
    let (sent, answered) = counts(said)?;
    Some(sent - answered)
}

/// How many ping sent, and how many of them were answered.
fn counts(said: &str) -> Option<(usize, usize)> {
    let line = said.lines().find(|line| line.contains("packets transmitted"))?;
    let mut counts = line.split_whitespace().filter_map(|word| word.parse().ok());
    Some((counts.next()?, counts.next()?))
}

/// Ten a second, from one host to another.
pub struct Pings(Child);

impl Pings {
    pub fn begin(from: &Host, to: &Host) -> Self {
        let to = to.private().unwrap();
        let mut command = from.inside(&["ping", "-i", "0.1", "-W", "5", &to]);
        Self(command.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// The numbers of those that got no answer, of all until now.
    pub fn lost(self) -> Vec<usize> {
        std::thread::sleep(Duration::from_secs(1));
        kill(Pid::from_raw(i32::try_from(self.0.id()).unwrap()), Signal::SIGINT).unwrap();
        let output = self.0.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(said.lines().count() > 20, "{said}");
        let (sent, _) = counts(&said).expect("ping tells in the end");
        let number = |line: &str| line.split_once(" seq=")?.1.split(' ').next()?.parse().ok();
        let answers = said.lines().filter(|line| line.contains(" bytes from "));
        let answered: BTreeSet<usize> = answers.filter_map(number).collect();
        // They are counted from 0. Ping waits for nothing once it is told to end: what it sent in that moment is no loss.
        (0..sent - 1).filter(|number| !answered.contains(number)).collect()
    }
}
