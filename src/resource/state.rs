//! The states that resources pass through, as the API names them.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! states {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)+) => {
        /// The state of a resource. Which one follows which: [`super::transition`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum State {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)+
        }

        impl State {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// As on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// From the wire.
            pub fn parse(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

states! {
    /// Asked for, nothing done.
    Requested = "requested",
    Registering = "registering",
    Inactive = "inactive",
    Activating = "activating",
    Active = "active",
    Deactivating = "deactivating",
    UpdatingActive = "updating-active",
    UpdatingInactive = "updating-inactive",
    /// An instance that waits for a host, or whose host has not begun.
    Creating = "creating",
    Starting = "starting",
    Running = "running",
    Stopping = "stopping",
    Stopped = "stopped",
    Restarting = "restarting",
    Migrating = "migrating",
    UpdatingRunning = "updating-running",
    UpdatingStopped = "updating-stopped",
    Removing = "removing",
    Removed = "removed",
    Restoring = "restoring",
    Purging = "purging",
    Purged = "purged",
    /// A host whose lease has ended.
    Disconnected = "disconnected",
    Reconnecting = "reconnecting",
    /// A host that what may move is leaving.
    Draining = "draining",
    /// A floating address on its way to the host of its instance; there; on its way back from it.
    Associating = "associating",
    Associated = "associated",
    Disassociating = "disassociating",
}

impl State {
    /// Whether something is under way in it.
    pub const fn in_transition(self) -> bool {
        !matches!(
            self,
            Self::Inactive
                | Self::Active
                | Self::Running
                | Self::Stopped
                | Self::Removed
                | Self::Purged
                | Self::Disconnected
                | Self::Associated
        )
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Whether a resource is on its way, there, or failed on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transitioning {
    Yes,
    #[default]
    No,
    Error,
}
