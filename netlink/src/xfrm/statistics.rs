//! /proc/net/xfrm_stat: why packets were dropped, counted for the whole namespace.

use std::{collections::BTreeMap, fs};

use crate::Error;

const PATH: &str = "/proc/thread-self/net/xfrm_stat";

/// The counters, by the kernel's own names (Documentation/networking/xfrm_proc.rst).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Statistics {
    /// Every counter, also those that only a newer kernel has.
    pub counters: BTreeMap<String, u64>,
}

impl Statistics {
    /// Reads those of the calling thread's network namespace; for another, run it inside [`crate::namespace::run_in`].
    ///
    /// # Errors
    /// [`Error::Sysctl`]: a kernel without CONFIG_XFRM_STATISTICS has no such file.
    pub fn read() -> Result<Self, Error> {
        let text = fs::read_to_string(PATH).map_err(|source| Error::Sysctl {
            action: "read",
            path: PATH.to_owned(),
            source,
        })?;
        Ok(Self::parse(&text))
    }

    /// Understands the file; a line that is none is passed over.
    pub fn parse(text: &str) -> Self {
        let pair = |line: &str| {
            let (name, value) = line.trim().split_once(char::is_whitespace)?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        };
        Self { counters: text.lines().filter_map(pair).collect() }
    }

    /// One counter; 0 where the kernel has none of that name.
    pub fn get(&self, name: &str) -> u64 {
        self.counters.get(name).copied().unwrap_or(0)
    }

    /// Packets that came under an SPI that nothing is known of.
    pub fn no_association_in(&self) -> u64 {
        self.get("XfrmInNoStates")
    }

    /// Packets that should have gone out through an association and found none.
    pub fn no_association_out(&self) -> u64 {
        self.get("XfrmOutNoStates")
    }

    /// Packets that came in plain text where a policy wants ESP.
    pub fn plain_text_in(&self) -> u64 {
        self.get("XfrmInTmplMismatch") + self.get("XfrmInNoPols") + self.get("XfrmInPolBlock")
    }

    /// Packets with a wrong tag, or that came again.
    pub fn forged_or_replayed(&self) -> u64 {
        self.get("XfrmInStateProtoError") + self.get("XfrmInStateSeqError")
    }
}
