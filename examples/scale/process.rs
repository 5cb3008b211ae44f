//! What a process costs, as the kernel counts it.

use std::fs;
use std::time::Duration;

/// Processor time that a process has used, over all its threads that are there.
pub fn cpu(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let behind_name = text.rsplit_once(')').unwrap().1;
    let fields: Vec<&str> = behind_name.split_whitespace().collect();
    let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    // A hundred a second, on every Linux there is.
    Duration::from_millis(ticks * 10)
}

/// Memory in use, in MB: all of it, and what of it is the process's own and in no file.
pub fn memory(pid: u32) -> (f64, f64) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() * 1024.0 / 1e6
    };
    (field("VmRSS:"), field("RssAnon:"))
}

/// How busy the machine was in the last minute.
pub fn load() -> String {
    fs::read_to_string("/proc/loadavg").unwrap().split_whitespace().next().unwrap().to_owned()
}
