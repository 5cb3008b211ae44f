//! What the agent, its supervisors and `stampede-libvirt` say to each other over a Unix socket.
//!
//! A connection is one question: a [`Request`] in a line of JSON, and an [`Answer`] in another. [`Request::Follow`] is answered by
//! [`Event`]s, a line each, for as long as both sides are there.
//!
//! Nothing of libvirt is in this crate, so that a host without it has an agent all the same.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Where the program listens.
pub const SOCKET: &str = "/run/stampede/libvirt.sock";
/// libvirt's own socket: where it is, libvirt is.
pub const LIBVIRT_SOCKET: &str = "/run/libvirt/libvirt-sock";
/// The XML namespace of what we keep in a domain's metadata.
pub const NAMESPACE: &str = "https://stampede.internal/instance/1";
/// Its prefix.
pub const PREFIX: &str = "stampede";
/// The storage pool with what is ours.
pub const POOL: &str = "stampede";
/// Where that pool is: below libvirt's own folder for images, which has the labels and profiles that let a guest's qemu open it.
pub const POOL_PATH: &str = "/var/lib/libvirt/images/stampede";
/// Where libvirt's log daemon keeps what guests write to their consoles.
pub const CONSOLES: &str = "/var/log/libvirt/qemu";
/// No line is longer, in bytes.
pub const LONGEST_LINE: usize = 4 << 20;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "call", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// What is there: [`Answer::Probed`]. Waits until it was tried what runs a guest.
    Probe,
    /// Whether libvirt answers: [`Answer::Done`].
    Ping,
    /// All domains with metadata of ours: [`Answer::Domains`].
    List,
    /// One, by its uuid: [`Answer::Domain`].
    Look { uuid: String },
    /// One, by its name, whoever's it is: [`Answer::Domain`].
    LookByName { name: String },
    /// Its XML as it is now, or as it runs: [`Answer::Xml`].
    Describe { uuid: String },
    /// Makes a persistent domain, or changes the one with its uuid: [`Answer::Domain`].
    Define { xml: String },
    /// Writes `metadata` into it and starts it, held at its first instruction: [`Answer::Done`]. Fine where it runs.
    Start { uuid: String, metadata: String },
    /// Lets it go on, and then writes `metadata` into it: [`Answer::Done`]. Fine where it is not held.
    Resume {
        uuid: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<String>,
    },
    /// Asks the guest to power off, by ACPI: [`Answer::Done`].
    Shutdown { uuid: String },
    /// Ends it at once: [`Answer::Done`]. Fine where it does not run or is not there.
    Destroy { uuid: String },
    /// Takes its definition away: [`Answer::Done`]. Fine where it is not there.
    Undefine { uuid: String },
    /// Makes a volume in our pool, or lets the one of that name grow to its size: [`Answer::Done`].
    CreateVolume(Volume),
    /// The volumes whose names begin so: [`Answer::Volumes`].
    ListVolumes { prefix: String },
    /// Takes the volumes away whose names begin so, and the logs of consoles: [`Answer::Done`].
    DeleteVolumes { prefix: String },
    /// Gives a domain that runs another disk, as long as it runs: [`Answer::Done`].
    AttachDisk { uuid: String, xml: String },
    /// Asks the guest to let go of a disk: [`Answer::Done`]. Whether it has is seen by [`Request::Describe`].
    DetachDisk { uuid: String, xml: String },
    /// Lets a disk of a domain that runs grow, by its target (`vda`), and tells the guest: [`Answer::Done`]. Fine where it is as large.
    GrowDisk { uuid: String, target: String, capacity: u64 },
    /// Has a guest that runs write to other files from now on, which are there, by libvirt's XML of a snapshot: [`Answer::Done`].
    Snapshot { uuid: String, xml: String },
    /// Brings what is in one layer of a disk of a guest that runs into the one below, and waits for it a while: [`Answer::Done`] when
    /// that is over, [`Answer::Merging`] while it is not.
    Merge { uuid: String, target: String, over: String, under: String },
    /// What happens to domains from now on; no other answer.
    Follow,
}

/// A volume that is to be made, a qcow2 file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    pub name: String,
    /// In bytes; 0 for that of what it lies on.
    pub capacity: u64,
    /// What it is a copy-on-write clone of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backing: Option<Backing>,
    /// One of that name is made anew: it holds nothing yet.
    #[serde(default)]
    pub anew: bool,
}

/// What a volume is a clone of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backing {
    pub path: String,
    pub format: Format,
}

/// How a disk's content is laid out in its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Raw,
    Qcow2,
}

impl Format {
    /// As libvirt and file names have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Answer {
    Done,
    Domain {
        domain: Option<Domain>,
    },
    Domains {
        domains: Vec<Domain>,
    },
    Xml {
        xml: String,
    },
    Probed(Probed),
    Volumes {
        names: Vec<String>,
    },
    /// It is under way.
    Merging,
    /// libvirt said no, in its own words.
    Refused {
        /// What kind of no, where it matters.
        cause: Cause,
        message: String,
    },
    /// libvirt is not there.
    Gone {
        message: String,
    },
}

/// Why libvirt said no, as far as that decides anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Cause {
    /// It is not there.
    Absent,
    /// The guest is in no state for it.
    State,
    /// The question was no question.
    Question,
    Other,
}

/// What libvirt is like here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probed {
    /// `11.3.0`
    pub libvirt: String,
    pub qemu: String,
    /// What runs guests here; `None` where nothing does.
    pub accelerator: Option<Accelerator>,
    /// Why it is not hardware that runs them, or why nothing does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// What runs a guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// Translation in software: ten times slower and more.
    Tcg,
}

impl Accelerator {
    /// A domain's type in libvirt's XML.
    pub const fn domain_type(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "qemu",
        }
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A domain as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Domain {
    pub uuid: String,
    pub name: String,
    /// A process is there for it, whether or not it is held.
    pub active: bool,
    /// It is held: at its first instruction, or since somebody paused it.
    pub paused: bool,
    /// Why it is off, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off: Option<Off>,
    /// Our element of its metadata, as text; `None` where it is none of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<String>,
}

/// Why a domain is off (virDomainShutoffReason).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Off {
    /// The guest powered itself off.
    Shutdown,
    /// Somebody ended it.
    Destroyed,
    /// Its process died.
    Crashed,
    Migrated,
    Saved,
    /// It could not be started.
    Failed,
    Unknown,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Event {
    /// libvirt is there (again): anything may have happened before.
    Resync,
    /// libvirt went away.
    Gone,
    /// A domain began or ceased to run, or its definition changed.
    Domain { uuid: String, kind: Kind },
}

/// What happened to a domain (virDomainEventType).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Kind {
    Defined,
    Undefined,
    Started,
    Suspended,
    Resumed,
    Stopped,
    Shutdown,
    Crashed,
    Other,
}

/// A line of the wire, with its end.
///
/// # Errors
/// Where it cannot be written as JSON.
pub fn line<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    Ok(line)
}

/// What a line says.
///
/// # Errors
/// Where it is not what is spoken here.
pub fn parse<T: DeserializeOwned>(line: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let volume = Volume {
            name: "1i54-root.qcow2".into(),
            capacity: 1 << 30,
            backing: Some(Backing { path: "/x".into(), format: Format::Qcow2 }),
            anew: true,
        };
        for request in [
            Request::Probe,
            Request::Start { uuid: "u".into(), metadata: "<a b=\"\n\"/>".into() },
            Request::CreateVolume(volume),
        ] {
            let line = line(&request).unwrap();
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "a line each, whatever is in it");
            assert_eq!(parse::<Request>(&line).unwrap(), request);
        }
        let domain =
            Domain { uuid: "u".into(), name: "n".into(), active: true, paused: false, off: None, metadata: None };
        let answer = Answer::Domain { domain: Some(domain) };
        assert_eq!(parse::<Answer>(&line(&answer).unwrap()).unwrap(), answer);
        assert!(parse::<Request>(b"{\"call\":\"reboot\"}\n").is_err());
    }
}
