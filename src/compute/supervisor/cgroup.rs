//! Ending what runs of an instance without asking anybody: through its cgroup.
//!
//! Where Docker uses systemd's cgroups, the container stands in the instance's slice. There it is found, killed, and another
//! one kept from being made: a Docker that hung in the middle of a start and goes on later gets no cgroup for it. Elsewhere the
//! container is found by its id.

use crate::systemd::{slice_name, unit_name};
use rustix::process::{Pid, Signal, kill_process};
use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the hierarchies are: the only one, that beside the old ones, systemd's own of the old ones.
const HIERARCHIES: &[&str] = &["", "unified", "systemd"];
/// How deep a container's cgroup may lie.
const DEPTH: u32 = 6;

/// What is left after a killing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// Something still runs: kill again.
    pub running: bool,
    /// In the instance's slice nothing new can be made.
    pub sealed: bool,
}

/// Ends what runs of an instance.
pub trait Killer: Debug + Send + Sync {
    /// Kills all of it, `external_id` being Docker's word for it where that is known, and keeps more from being started
    /// where it can.
    fn end(&self, id: &str, external_id: Option<&str>) -> Left;

    /// It may be started again.
    fn lift(&self, id: &str);
}

/// This machine's cgroups.
#[derive(Clone, Debug)]
pub struct Cgroups {
    root: PathBuf,
}

impl Default for Cgroups {
    fn default() -> Self {
        Self { root: "/sys/fs/cgroup".into() }
    }
}

impl Cgroups {
    fn slices(&self, id: &str) -> Vec<PathBuf> {
        let slice = slice_name(id);
        let places = HIERARCHIES.iter().map(|part| self.root.join(part).join("stampede.slice").join(&slice));
        places.filter(|place| place.is_dir()).collect()
    }

    /// All cgroups of the instance but its supervisor's.
    fn of(&self, id: &str, external_id: Option<&str>) -> Vec<PathBuf> {
        let own = unit_name(id);
        let mut found: Vec<PathBuf> = self
            .slices(id)
            .iter()
            .flat_map(|slice| directories(slice))
            .filter(|child| child.file_name().is_none_or(|name| name != own.as_str()))
            .collect();
        if let Some(external_id) = external_id.filter(|external_id| external_id.len() >= 12) {
            named(&self.root, external_id, DEPTH, &mut found);
        }
        found
    }
}

impl Killer for Cgroups {
    fn end(&self, id: &str, external_id: Option<&str>) -> Left {
        let mut sealed = false;
        for slice in self.slices(id) {
            sealed |= fs::write(slice.join("cgroup.max.descendants"), "0").is_ok();
        }
        let found = self.of(id, external_id);
        found.iter().for_each(|cgroup| kill(cgroup));
        Left { running: found.iter().any(|cgroup| populated(cgroup)), sealed }
    }

    fn lift(&self, id: &str) {
        for slice in self.slices(id) {
            if let Err(error) = fs::write(slice.join("cgroup.max.descendants"), "max") {
                tracing::warn!(instance = id, %error, "its slice stays closed");
            }
        }
    }
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

/// Cgroups with `external_id` in their names: `docker-<id>.scope`, `docker/<id>`.
fn named(path: &Path, external_id: &str, depth: u32, found: &mut Vec<PathBuf>) {
    for child in directories(path) {
        if child.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains(external_id)) {
            if !found.contains(&child) {
                found.push(child);
            }
        } else if depth > 0 {
            named(&child, external_id, depth - 1, found);
        }
    }
}

/// By the kernel in one, or, where it cannot (before 5.14), one by one.
fn kill(cgroup: &Path) {
    if fs::write(cgroup.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for pid in processes(cgroup) {
        if let Some(pid) = Pid::from_raw(pid) {
            // One that is gone already is as dead as the rest; one that is left is found again.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

fn processes(cgroup: &Path) -> Vec<i32> {
    let text = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<i32> = text.lines().filter_map(|line| line.parse().ok()).collect();
    directories(cgroup).iter().for_each(|child| found.extend(processes(child)));
    found
}

fn populated(cgroup: &Path) -> bool {
    match fs::read_to_string(cgroup.join("cgroup.events")) {
        Ok(events) => events.lines().any(|line| line == "populated 1"),
        Err(_) => !processes(cgroup).is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTAINER: &str = "f44f0fc37d9c1441b1444d0cb3c60d1ef1b185862a8fd4f2aeba0a5d1b43585c";

    /// Folders that look like cgroups.
    fn cgroups() -> (tempfile::TempDir, Cgroups, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let slice = root.path().join("stampede.slice/stampede-1i7.slice");
        fs::create_dir_all(slice.join("stampede-instance@1i7.service")).unwrap();
        fs::create_dir_all(root.path().join("stampede.slice/stampede-1i8.slice/docker-b.scope")).unwrap();
        let cgroups = Cgroups { root: root.path().to_owned() };
        (root, cgroups, slice)
    }

    #[test]
    fn all_of_its_own_and_nothing_else_is_killed() {
        let (root, cgroups, slice) = cgroups();
        let scope = slice.join("docker-a.scope");
        let elsewhere = root.path().join(format!("docker/{CONTAINER}"));
        for cgroup in [&scope, &elsewhere] {
            fs::create_dir_all(cgroup).unwrap();
            fs::write(cgroup.join("cgroup.events"), "populated 1\nfrozen 0\n").unwrap();
        }
        assert_eq!(cgroups.end("1i7", Some(CONTAINER)), Left { running: true, sealed: true });
        for cgroup in [&scope, &elsewhere] {
            assert_eq!(fs::read_to_string(cgroup.join("cgroup.kill")).unwrap(), "1");
            fs::write(cgroup.join("cgroup.events"), "populated 0\n").unwrap();
        }
        assert!(!slice.join("stampede-instance@1i7.service/cgroup.kill").exists());
        assert!(!root.path().join("stampede.slice/stampede-1i8.slice/docker-b.scope/cgroup.kill").exists());
        assert_eq!(fs::read_to_string(slice.join("cgroup.max.descendants")).unwrap(), "0");
        assert_eq!(cgroups.end("1i7", None), Left { running: false, sealed: true });
        cgroups.lift("1i7");
        assert_eq!(fs::read_to_string(slice.join("cgroup.max.descendants")).unwrap(), "max");
    }

    #[test]
    fn where_there_is_no_slice_nothing_is_closed() {
        let (_root, cgroups, _) = cgroups();
        assert_eq!(cgroups.end("1i9", None), Left { running: false, sealed: false });
    }
}
