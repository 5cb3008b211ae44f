//! Which assignment has which address, from the ledger.
//!
//! Docker asks by address, the ledger's files go by instance. What was read is kept, and a file is read again only when its
//! time or size changed: with a hundred instances a look costs a hundred `stat`s, not a hundred files.

use crate::resource::assignment::{Assignment, Desired};
use crate::store::ledger::Ledger;
use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// What tells one state of a file from the next: its writer renames a new file over it, so the inode changes too.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    inode: u64,
}

#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    files: HashMap<String, (Stamp, Option<Arc<Assignment>>)>,
}

impl Directory {
    pub fn new(ledger: &Path) -> Self {
        Self { path: ledger.to_owned(), files: HashMap::new() }
    }

    /// The assignment that has the address; not that of a native container, which Docker gives another each time. One that is to be purged has none any more, where another claims it.
    pub fn find(&mut self, address: Ipv4Addr) -> io::Result<Option<Arc<Assignment>>> {
        self.refresh()?;
        let has = |assignment: &&Arc<Assignment>| assignment.native.is_none() && assignment.address() == Some(address);
        let found = self.files.values().filter_map(|(_, assignment)| assignment.as_ref()).filter(has);
        Ok(found.min_by_key(|assignment| (assignment.desired == Desired::Purged, assignment.id.clone())).cloned())
    }

    fn refresh(&mut self) -> io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let mut there = HashMap::new();
        let list = match std::fs::read_dir(self.path.join("instance")) {
            Ok(list) => list,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.files.clear();
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        for entry in list {
            let entry = entry?;
            let name = entry.file_name();
            let Some(id) = name.to_str().and_then(|name| name.strip_suffix(".json")) else { continue };
            // Gone between the two looks: not there.
            let Ok(metadata) = entry.metadata() else { continue };
            there.insert(id.to_owned(), Stamp { modified: metadata.modified().ok(), inode: metadata.ino() });
        }
        self.files.retain(|id, (stamp, _)| there.get(id) == Some(stamp));
        there.retain(|id, _| !self.files.contains_key(id));
        if there.is_empty() {
            return Ok(());
        }
        let ledger = Ledger::open(&self.path).map_err(io::Error::other)?;
        for (id, stamp) in there {
            let assignment = match ledger.assignment(&id) {
                Ok(assignment) => assignment.map(Arc::new),
                Err(error) => {
                    tracing::warn!(id, %error, "a ledger file is left out");
                    None
                }
            };
            self.files.insert(id, (stamp, assignment));
        }
        Ok(())
    }
}
