//! The file: a redb database with one table of entries and one of numbers.
//!
//! redb refuses everything after a failed write, so the file is then closed and opened anew: a commit that did not come through is not
//! there, as after a crash. A new file is made beside its place and renamed, so that a crash leaves none or a whole one.

use super::disk::{Disk, Unsynced};
use crate::store::draft::{State, Written};
use crate::store::{Entry, Error, LeaseId, Revision};
use bytes::{BufMut, Bytes, BytesMut};
use redb::backends::InMemoryBackend;
use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Create and mod revision and lease (0 is none), each little-endian in 8 bytes, then the value.
const ENTRIES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("stampede.entries");
const NUMBERS: TableDefinition<'_, &str, i64> = TableDefinition::new("stampede.numbers");
const FORMAT: i64 = 1;
/// Everything is in memory already.
const CACHE: usize = 8 << 20;

/// What the file did not do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("the store's file cannot be used")]
    Database(#[source] Box<redb::Error>),
    #[error("the store's file cannot be {action}")]
    File { action: &'static str, source: io::Error },
    #[error("the store's file is of format {0}, which this version does not know")]
    Format(i64),
    #[error("the store's file is no store of ours")]
    Foreign,
    #[error("the store's file is damaged: {0}")]
    Damaged(String),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Database(Box::new(error.into()))
    }
}

impl Failure {
    fn io(&self) -> Option<&io::Error> {
        match self {
            Self::File { source, .. } => Some(source),
            Self::Database(error) => match &**error {
                redb::Error::Io(source) => Some(source),
                _ => None,
            },
            _ => None,
        }
    }

    fn full(&self) -> bool {
        let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge];
        self.io().is_some_and(|error| kinds.contains(&error.kind()))
    }

    fn message(&self) -> String {
        match self {
            Self::Database(error) => error.to_string(),
            Self::File { action, source } => format!("it cannot be {action}: {source}"),
            other => other.to_string(),
        }
    }

    /// As the error of a write that left nothing behind.
    pub(super) fn undone(&self) -> Error {
        let message = self.message();
        if self.full() { Error::Full { message } } else { Error::Unavailable { message } }
    }

    /// As the error of opening the store, and what to do.
    pub(super) fn opening(&self, store: &str) -> Error {
        let anew = "move it away to begin with an empty one, or put a backup in its place";
        let message = match self {
            _ if self.full() => return Error::Full { message: format!("{store}: {}", self.message()) },
            Self::Database(error) => match &**error {
                redb::Error::DatabaseAlreadyOpen => {
                    format!("{store} is open in another agent; stop that one first, or give this one another file")
                }
                redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
                    format!("{store} is no store of stampede ({error}); {anew}")
                }
                redb::Error::Corrupted(what) => format!("{store} is damaged ({what}); {anew}"),
                redb::Error::TableDoesNotExist(_) | redb::Error::TableTypeMismatch { .. } => {
                    format!("{store} is a database, but no store of stampede; {anew}")
                }
                error => format!("{store} cannot be opened: {error}"),
            },
            Self::File { action, source } => format!("{store} cannot be {action}: {source}"),
            Self::Format(format) => {
                format!("{store} is of format {format}, and this version knows {FORMAT}: it was written by a newer one")
            }
            Self::Foreign => format!("{store} is a database, but no store of stampede; {anew}"),
            Self::Damaged(what) => format!("{store} is damaged ({what}); {anew}"),
        };
        Error::Unusable(message)
    }
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct File {
    /// `None` is in memory, or closed for good.
    path: Option<PathBuf>,
    /// `None` after a failure, and when closed.
    database: Option<Database>,
    /// Whether the disk failed to sync since the file was opened.
    unsynced: Unsynced,
}

/// What a file that was opened anew holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reopened {
    pub(super) revision: Revision,
    /// Synced: a loss of power takes none of it.
    pub(super) durable: bool,
}

impl File {
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let named = |failure: Failure| failure.opening(&format!("the file {}", path.display()));
        if !path.try_exists().map_err(|source| named(Failure::File { action: "looked at", source }))? {
            create(path).map_err(named)?;
        }
        let unsynced = Unsynced::default();
        let opened = match open(path, true, &unsynced) {
            // Checking writes too. A full disk must not keep what is there from being read.
            Err(failure) if failure.full() => open(path, false, &unsynced),
            opened => opened,
        };
        Ok(Self { path: Some(path.to_owned()), database: Some(opened.map_err(named)?), unsynced })
    }

    pub(super) fn in_memory() -> Result<Self, Error> {
        let create = || {
            let database = Builder::new().set_cache_size(CACHE).create_with_backend(InMemoryBackend::new())?;
            initialize(&database)?;
            Ok(database)
        };
        let database = create().map_err(|failure: Failure| failure.opening("memory"))?;
        Ok(Self { path: None, database: Some(database), unsynced: Unsynced::default() })
    }

    pub(super) fn is_open(&self) -> bool {
        self.database.is_some()
    }

    pub(super) fn close(&mut self) {
        *self = Self { path: None, database: None, unsynced: Unsynced::default() };
    }

    /// Closes and opens it, which syncs what was written to it before; what it holds.
    pub(super) fn reopen(&mut self) -> Result<Reopened, Failure> {
        let durable = !self.unsynced.get();
        if let Some(path) = &self.path {
            self.database = None;
            let unsynced = Unsynced::default();
            self.database = Some(open(path, false, &unsynced)?);
            self.unsynced = unsynced;
        }
        match self.revision() {
            Ok(revision) => Ok(Reopened { revision, durable }),
            Err(failure) => {
                self.database = None;
                Err(failure)
            }
        }
    }

    fn database(&self) -> Result<&Database, Failure> {
        self.database.as_ref().ok_or_else(|| redb::Error::DatabaseClosed.into())
    }

    fn revision(&self) -> Result<Revision, Failure> {
        let numbers = self.database()?.begin_read()?.open_table(NUMBERS)?;
        let revision = numbers.get("revision")?.ok_or(Failure::Foreign)?.value();
        Ok(Revision(revision))
    }

    pub(super) fn load(&mut self) -> Result<State, Failure> {
        let transaction = self.database()?.begin_read()?;
        let numbers = transaction.open_table(NUMBERS)?;
        let number = |name| Ok::<_, Failure>(numbers.get(name)?.ok_or(Failure::Foreign)?.value());
        match number("format")? {
            FORMAT => {}
            other => return Err(Failure::Format(other)),
        }
        let mut state = State { revision: Revision(number("revision")?), ..State::default() };
        for pair in transaction.open_table(ENTRIES)?.iter()? {
            let (key, value) = pair?;
            let key = key.value();
            let entry = decode(key, value.value()).ok_or_else(|| Failure::Damaged(format!("at {key}")))?;
            state.entries.insert(key.to_owned(), entry);
        }
        Ok(state)
    }

    /// All of it, synced, or an error; after an error see [`Self::reopen`].
    pub(super) fn write(&mut self, written: &Written) -> Result<(), Failure> {
        let transaction = self.database()?.begin_write()?;
        {
            let mut entries = transaction.open_table(ENTRIES)?;
            for (key, entry) in &written.entries {
                match entry {
                    Some(entry) => entries.insert(key.as_str(), &*encode(entry)).map(drop)?,
                    None => entries.remove(key.as_str()).map(drop)?,
                }
            }
            transaction.open_table(NUMBERS)?.insert("revision", written.revision.0)?;
        }
        Ok(transaction.commit()?)
    }
}

fn encode(entry: &Entry) -> BytesMut {
    let mut bytes = BytesMut::with_capacity(24 + entry.value.len());
    bytes.put_i64_le(entry.create_revision.0);
    bytes.put_i64_le(entry.mod_revision.0);
    bytes.put_i64_le(entry.lease.map_or(0, |lease| lease.0));
    bytes.put_slice(&entry.value);
    bytes
}

fn decode(key: &str, bytes: &[u8]) -> Option<Entry> {
    let (numbers, value) = bytes.split_first_chunk::<24>()?;
    let (create_revision, rest) = numbers.split_first_chunk::<8>()?;
    let (mod_revision, rest) = rest.split_first_chunk::<8>()?;
    let lease = i64::from_le_bytes(rest.try_into().ok()?);
    Some(Entry {
        key: key.to_owned(),
        value: Bytes::copy_from_slice(value),
        create_revision: Revision(i64::from_le_bytes(*create_revision)),
        mod_revision: Revision(i64::from_le_bytes(*mod_revision)),
        lease: (lease != 0).then_some(LeaseId(lease)),
    })
}

/// redb may panic over a file that is damaged in ways it does not expect.
fn open(path: &Path, check: bool, unsynced: &Unsynced) -> Result<Database, Failure> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    if file.metadata()?.len() == 0 {
        // redb would make a new database of it.
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty").into());
    }
    let disk = Disk::new(file, unsynced.clone())?;
    let opening = || Builder::new().set_cache_size(CACHE).set_check_integrity_on_open(check).create_with_backend(disk);
    match catch_unwind(AssertUnwindSafe(opening)) {
        Ok(opened) => Ok(opened?),
        Err(_) => Err(Failure::Damaged("it cannot be read at all".into())),
    }
}

fn initialize(database: &Database) -> Result<(), Failure> {
    let transaction = database.begin_write()?;
    transaction.open_table(ENTRIES)?;
    {
        let mut numbers = transaction.open_table(NUMBERS)?;
        numbers.insert("format", FORMAT)?;
        // As in etcd, the first write has number 2, so that 0 and 1 are before everything.
        numbers.insert("revision", 1)?;
    }
    Ok(transaction.commit()?)
}

/// Makes an empty store at `path` where there is none, also when another process does just that.
fn create(path: &Path) -> Result<(), Failure> {
    let failed = |action| move |source| Failure::File { action, source };
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(directory).map_err(failed("given a directory"))?;
    let directory = std::fs::File::open(directory).map_err(failed("given a directory"))?;
    // One at a time; the lock goes with the descriptor.
    rustix::fs::flock(&directory, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| failed("locked for creation")(error.into()))?;
    if path.try_exists().map_err(failed("looked at"))? {
        return Ok(());
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let made = make(&beside).and_then(|()| {
        std::fs::rename(&beside, path).map_err(failed("put in its place"))?;
        directory.sync_all().map_err(failed("put in its place"))
    });
    if made.is_err() {
        // What is left over is emptied by the next attempt anyway.
        let _ = std::fs::remove_file(&beside);
    }
    made
}

fn make(path: &Path) -> Result<(), Failure> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|source| Failure::File { action: "created", source })?;
    let database = Builder::new().set_cache_size(CACHE).create(path)?;
    initialize(&database)?;
    drop(database);
    file.sync_all().map_err(|source| Failure::File { action: "synced", source })
}
