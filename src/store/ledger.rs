//! The host's own copy of what it was told to run: one file an instance, `<state>/instance/<id>.json`, and one with what
//! became of it, `<state>/report/<id>.json`.
//!
//! The agent writes assignments, the instance's supervisor writes reports (the agent the very first, of what it starts itself),
//! the network driver reads assignments. A file
//! is written beside its place, synced and renamed over it, so that a power loss leaves the old one or the new one.
//! Reports are not synced: after a power loss nothing runs, and that is what the next look at the host finds too.

use crate::resource::assignment::Assignment;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What can go wrong with a ledger.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not what it should be", path.display())]
    Content { path: PathBuf, source: serde_json::Error },
    #[error("`{0}` is no instance's id")]
    Name(String),
    #[error("a write to the disk broke off")]
    BrokenOff(#[from] tokio::task::JoinError),
}

/// Why a supervisor's work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndReason {
    /// The instance ended by itself, or was killed or removed behind our back.
    Own,
    /// The supervisor was told to stop (`systemctl stop`, or the agent).
    Asked,
    /// Docker is not there; nothing is known of the instance's own wish.
    DriverGone,
    /// The machine goes down.
    Shutdown,
    /// It must not run twice, and nobody knew any more whether another host runs it.
    Fenced,
}

/// How far a supervisor is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Phase {
    /// The image is on its way; `message` is Docker's word on how far.
    Pulling {
        message: String,
    },
    Starting,
    Running {
        external_id: String,
        started_at: i64,
    },
    Ended {
        reason: EndReason,
        exit_code: Option<i64>,
        message: Option<String>,
    },
    /// It could not be started; `message` is the driver's own words.
    Failed {
        message: String,
    },
}

/// What a supervisor says of its instance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Of which boot: a report of an earlier one says nothing about what runs now.
    pub boot_id: String,
    /// Of which assignment.
    pub generation: u64,
    #[serde(flatten)]
    pub phase: Phase,
    /// Milliseconds from the beginning of who started it to where it is: `create`, `start`, `look`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timings: Vec<(String, u64)>,
    /// How often in a row it has ended by itself soon after its start: the wait before the next start grows with it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub short_runs: u32,
    /// It was given up while Docker was not there to stop it, and may run on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub left: bool,
}

impl Report {
    /// Whether nothing of it runs, by this word.
    pub fn is_over(&self) -> bool {
        let ended = matches!(&self.phase, Phase::Ended { reason, .. } if *reason != EndReason::DriverGone);
        ended && !self.left
    }
}

/// By reference, as serde hands it over.
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// The ledger below one directory (`/var/lib/stampede`).
#[derive(Clone, Debug)]
pub struct Ledger {
    directory: PathBuf,
    in_place: bool,
}

impl Ledger {
    /// # Errors
    /// Where the directories cannot be made.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        for part in ["instance", "report"] {
            let path = directory.join(part);
            std::fs::create_dir_all(&path).map_err(|source| Error::File { action: "create", path, source })?;
        }
        Ok(Self { directory: directory.to_owned(), in_place: false })
    }

    /// The same, on a disk that is memory: nobody waits for it, and all is done on the one thread that there is.
    #[must_use]
    pub fn in_place(self) -> Self {
        Self { in_place: true, ..self }
    }

    /// What `id` is to run; `None` where nothing is known of it.
    pub fn assignment(&self, id: &str) -> Result<Option<Assignment>, Error> {
        read(&self.path("instance", id)?)
    }

    /// All that can be read, in the order of their ids, and what is wrong with the rest.
    pub fn assignments(&self) -> Result<(Vec<Assignment>, Vec<Error>), Error> {
        let path = self.directory.join("instance");
        let failed = |source| Error::File { action: "list", path: path.clone(), source };
        let (mut found, mut broken) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(&path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.extension().is_some_and(|extension| extension == "json") {
                match read(&file) {
                    Ok(assignment) => found.extend(assignment),
                    Err(error) => broken.push(error),
                }
            }
        }
        found.sort_by(|one: &Assignment, other| one.id.cmp(&other.id));
        Ok((found, broken))
    }

    /// As [`Self::put_assignment`], for who must not wait for the disk.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub async fn keep_assignment(&self, assignment: Assignment) -> Result<(), Error> {
        if self.in_place {
            return self.put_assignment(&assignment);
        }
        let ledger = self.clone();
        tokio::task::spawn_blocking(move || ledger.put_assignment(&assignment)).await?
    }

    pub fn put_assignment(&self, assignment: &Assignment) -> Result<(), Error> {
        write(&self.path("instance", &assignment.id)?, assignment, true)
    }

    pub fn report(&self, id: &str) -> Result<Option<Report>, Error> {
        read(&self.path("report", id)?)
    }

    pub fn put_report(&self, id: &str, report: &Report) -> Result<(), Error> {
        write(&self.path("report", id)?, report, false)
    }

    pub fn forget_report(&self, id: &str) -> Result<(), Error> {
        remove(&self.path("report", id)?)
    }

    /// Takes both files away; fine where there are none.
    pub fn forget(&self, id: &str) -> Result<(), Error> {
        remove(&self.path("report", id)?)?;
        remove(&self.path("instance", id)?)
    }

    /// An id becomes a file's name: only letters and digits, so that none leads elsewhere.
    fn path(&self, part: &str, id: &str) -> Result<PathBuf, Error> {
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::Name(id.to_owned()));
        }
        Ok(self.directory.join(part).join(format!("{id}.json")))
    }
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).map(Some).map_err(|source| Error::Content { path: path.to_owned(), source })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { action: "read", path: path.to_owned(), source }),
    }
}

fn write<T: Serialize>(path: &Path, value: &T, sync: bool) -> Result<(), Error> {
    let beside = path.with_extension("new");
    let failed = |action, source| Error::File { action, path: path.to_owned(), source };
    let bytes = serde_json::to_vec(value).map_err(|source| Error::Content { path: path.to_owned(), source })?;
    let mut file = std::fs::File::create(&beside).map_err(|source| failed("create", source))?;
    file.write_all(&bytes).map_err(|source| failed("write", source))?;
    if sync {
        file.sync_data().map_err(|source| failed("sync", source))?;
    }
    std::fs::rename(&beside, path).map_err(|source| failed("replace", source))
}

fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { action: "remove", path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_id_leads_out_of_the_directory() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        for id in ["../x", "", "a/b", "1i5.json", "1i5\0"] {
            assert!(matches!(ledger.assignment(id), Err(Error::Name(_))), "{id}");
        }
    }

    #[test]
    fn a_broken_file_hides_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(directory.path()).unwrap();
        std::fs::write(directory.path().join("instance/1i1.json"), "{").unwrap();
        let (found, broken) = ledger.assignments().unwrap();
        assert_eq!((found.len(), broken.len()), (0, 1));
        ledger.forget("1i1").unwrap();
        ledger.forget("1i1").unwrap();
        assert_eq!(ledger.assignments().unwrap().1.len(), 0);
    }
}
