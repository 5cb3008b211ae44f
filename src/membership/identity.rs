//! What a host keeps on its own disk about who it is: `<state>/identity`, made once, and `<state>/incarnation`, how many
//! leases it has had.
//!
//! The identity tells two hosts of one name apart. It is not the machine id, which copied disks share from their image.

use crate::environment::Environment;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What can go wrong with these files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} holds no identity; if this host is to be a new one, remove the file", path.display())]
    Content { path: PathBuf },
    #[error("another agent runs on this host already: it holds {}", path.display())]
    Locked { path: PathBuf },
}

/// The identity in `state`, made where there is none yet.
///
/// # Errors
/// Where it cannot be read or written, or is no uuid.
pub fn ensure(state: &Path, environment: &Environment) -> Result<String, Error> {
    let path = state.join("identity");
    create_directory(state)?;
    if let Some(identity) = read(&path)? {
        return Ok(identity);
    }
    // Written whole beside its place, then linked to it: of two agents that come at once, one wins and both read the same.
    let beside = state.join(format!("identity.{}", environment.uuid()));
    write_new(&beside, &format!("{}\n", environment.uuid()))?;
    let linked = std::fs::hard_link(&beside, &path);
    let _ = std::fs::remove_file(&beside);
    match linked {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(Error::File { action: "create", path, source }),
    }
    sync_directory(state)?;
    read(&path)?.ok_or(Error::Content { path })
}

/// How many leases the host had, as far as its disk knows.
pub fn incarnation(state: &Path) -> u64 {
    // Only for people to read: what is lost or damaged starts anew.
    std::fs::read_to_string(state.join("incarnation")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// # Errors
/// Where it cannot be written.
pub fn put_incarnation(state: &Path, incarnation: u64) -> Result<(), Error> {
    replace(&state.join("incarnation"), format!("{incarnation}\n").as_bytes())
}

/// Takes the lock on `path` (made where it is not there); it goes with the file or the process.
///
/// # Errors
/// [`Error::Locked`] where another process has it.
pub fn lock(path: &Path) -> Result<File, Error> {
    let failed = |source| Error::File { action: "lock", path: path.to_owned(), source };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

/// # Errors
/// Where it cannot be made.
pub fn create_directory(path: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(path).map_err(|source| Error::File { action: "create", path: path.to_owned(), source })
}

/// `bytes` at `path`, so that a reader sees the old content or the new.
///
/// # Errors
/// Where it cannot be written.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let beside = path.with_extension("new");
    let failed = |action, source| Error::File { action, path: path.to_owned(), source };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)
        .map_err(|source| failed("create", source))?;
    file.write_all(bytes).map_err(|source| failed("write", source))?;
    std::fs::rename(&beside, path).map_err(|source| failed("replace", source))
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    let mut text = String::new();
    match File::open(path).and_then(|file| file.take(1024).read_to_string(&mut text)) {
        Ok(_) => match uuid::Uuid::parse_str(text.trim()) {
            Ok(identity) => Ok(Some(identity.to_string())),
            Err(_) => Err(Error::Content { path: path.to_owned() }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { action: "read", path: path.to_owned(), source }),
    }
}

fn write_new(path: &Path, text: &str) -> Result<(), Error> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|source| Error::File { action: "write", path: path.to_owned(), source })
}

fn sync_directory(path: &Path) -> Result<(), Error> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|source| Error::File {
        action: "sync",
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn made_once_and_kept() {
        let state = tempfile::tempdir().unwrap();
        let environment = Environment::system().unwrap();
        let first = ensure(state.path(), &environment).unwrap();
        assert_eq!(ensure(state.path(), &environment).unwrap(), first);
        let mode = std::fs::metadata(state.path().join("identity")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(state.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_damaged_one_is_not_replaced() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(state.path().join("identity"), "rubbish").unwrap();
        let error = ensure(state.path(), &Environment::system().unwrap()).unwrap_err();
        assert!(matches!(error, Error::Content { .. }), "{error}");
        assert_eq!(std::fs::read_to_string(state.path().join("identity")).unwrap(), "rubbish");
    }

    #[test]
    fn one_lock_at_a_time() {
        let state = tempfile::tempdir().unwrap();
        let path = state.path().join("lock");
        let held = lock(&path).unwrap();
        assert!(matches!(lock(&path), Err(Error::Locked { .. })));
        drop(held);
        lock(&path).unwrap();
    }
}
