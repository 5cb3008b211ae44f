//! Three hosts, the wire between them, and etcd.

use crate::NEEDS;
use crate::host::{Host, done};
use crate::wire::Wire;
use nix::sys::signal::Signal;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// More than anything here may take, on an emulated processor: a lease of another boot has to end first.
const LIMIT: Duration = Duration::from_secs(60);
/// etcd's log is a file of 64 MB from the beginning, of which it has filled much less than this here.
const MOST_WRITTEN: u64 = 8 << 20;
/// Where etcd and the wire are: this machine itself.
pub const HERE: &str = "198.18.0.254";

pub struct World {
    directory: tempfile::TempDir,
    pub wire: Wire,
    etcd: Child,
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
        done(Command::new("ip").args(["link", "del", "wire"]));
    }
}

impl World {
    pub fn new() -> Self {
        // Here alone nobody minds links and namespaces of fixed names, nor an etcd on its usual port.
        assert!(Path::new("/busybox").exists(), "{NEEDS}");
        for folder in ["/var/run", "/etc/netns"] {
            std::fs::create_dir_all(folder).unwrap();
        }
        std::fs::write("/etc/machine-id", "0".repeat(32)).unwrap();
        for words in [
            &["link", "add", "wire", "type", "bridge"][..],
            &["addr", "add", "198.18.0.254/24", "dev", "wire"],
            &["link", "set", "wire", "up"],
        ] {
            done(Command::new("ip").args(words));
        }
        let directory = tempfile::tempdir().unwrap();
        let cores = directory.path().join("cores");
        std::fs::create_dir_all(&cores).unwrap();
        std::fs::write("/proc/sys/kernel/core_pattern", format!("{}/%e.%p", cores.display())).unwrap();
        let url = format!("http://{HERE}:2379");
        let etcd = Command::new("etcd")
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url, "--log-level", "error"])
            .args([
                "--listen-peer-urls",
                "http://127.0.0.1:2380",
                "--initial-advertise-peer-urls",
                "http://127.0.0.1:2380",
            ])
            .args(["--initial-cluster", "default=http://127.0.0.1:2380"])
            .arg("--data-dir")
            .arg(directory.path().join("etcd"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd is on the emulated machine");
        Self { wire: Wire::watch(), etcd, directory }
    }

    /// The first makes the cluster, the others join it by its token, and all reach each other.
    pub fn three(&self) -> Vec<Host> {
        let mut hosts: Vec<Host> = (1..=3).map(|number| Host::new(number, self.directory.path())).collect();
        hosts[0].start();
        self.until("the first host is active", || hosts[0].is_active());
        for number in [1, 2] {
            // What an agent or etcd does not do in time here is asked for again, as its answer says.
            let token = self.told("a token", || hosts[0].try_run(&["stampede", "token", "create"]));
            self.told("it joins", || hosts[number].try_run(&["stampede", "join", token.trim()]));
            hosts[number].start();
        }
        self.meshed(&hosts);
        hosts
    }

    /// Each says of all others that they are up, and sends to each.
    pub fn meshed(&self, hosts: &[Host]) {
        self.until("all reach each other", || {
            hosts.iter().all(|host| host.peers_up() == hosts.len() - 1 && host.keys_out().len() == hosts.len() - 1)
        });
    }

    pub fn told<T>(&self, what: &str, mut asks: impl FnMut() -> Option<T>) -> T {
        let mut told = None;
        self.until(what, || {
            told = asks();
            told.is_some()
        });
        told.unwrap()
    }

    pub fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let limit = Instant::now() + LIMIT;
        while !holds() {
            assert!(Instant::now() < limit, "not within {LIMIT:?}: {what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The last that each agent said.
    fn logs(&self) -> String {
        let last = |number: u8| {
            let text =
                std::fs::read_to_string(self.directory.path().join(format!("h{number}/log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("-- h{number}\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        (1..=3).map(last).collect()
    }

    /// How many cores lie here. The one of a process that may leave one does.
    pub fn cores(&self) -> usize {
        let folder = self.directory.path().join("cores");
        let count = || std::fs::read_dir(&folder).unwrap().count();
        let before = count();
        let other = Command::new("sh").args(["-c", "ulimit -c unlimited; kill -ABRT $$"]).status().unwrap();
        assert_eq!(other.signal(), Some(Signal::SIGABRT as i32));
        assert_eq!(count(), before + 1, "this kernel writes no cores at all");
        before
    }

    /// None of `secrets` is in a file below here (etcd's, logs) but where it belongs, or in an answer of the API.
    pub fn nowhere(&self, what: &str, hosts: &[Host], secrets: &[Vec<u8>]) {
        let forms: Vec<Vec<u8>> = secrets.iter().flat_map(|secret| forms(secret)).collect();
        let mut places = Vec::new();
        files(self.directory.path(), &mut places);
        places.retain(|path| !path.ends_with("state/secret"));
        assert!(places.iter().any(|path| path.ends_with("h1/log")));
        assert!(places.iter().any(|path| path.to_string_lossy().ends_with(".wal")));
        for path in places {
            let mut text = Vec::new();
            std::fs::File::open(&path).unwrap().take(MOST_WRITTEN).read_to_end(&mut text).unwrap();
            assert!(!has_any(&text, &forms), "{what} is in {}", path.display());
        }
        for host in hosts {
            let answers = ["mesh", "hosts"].map(|list| self.told(list, || host.try_run(&["stampede", list, "--json"])));
            assert!(
                answers.iter().all(|answer| !has_any(answer.as_bytes(), &forms)),
                "{what} is told by {}",
                host.name
            );
        }
    }
}

/// As it is, as hexadecimal digits, and in Base64 as records have it.
fn forms(secret: &[u8]) -> Vec<Vec<u8>> {
    use base64::Engine;
    let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
    let base64 = base64::engine::general_purpose::STANDARD_NO_PAD.encode(secret);
    vec![secret.to_vec(), hex.into_bytes(), base64.into_bytes()]
}

/// How many times it stands there, in any form.
pub fn times(text: &[u8], secret: &[u8]) -> usize {
    forms(secret).iter().map(|form| memchr::memmem::find_iter(text, form).count()).sum()
}

fn has_any(text: &[u8], forms: &[Vec<u8>]) -> bool {
    forms.iter().any(|form| memchr::memmem::find(text, form).is_some())
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.is_file() {
            found.push(path);
        }
    }
}
