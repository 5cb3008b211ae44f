//! The answers, one a request. Each call is libvirt's own; what is here decides nothing.

use crate::daemon::Daemon;
use crate::{shim, volumes};
use stampede_libvirt_protocol::{Answer, Cause, Domain as Shown, NAMESPACE, Off, PREFIX, Request};
use std::time::Duration;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::domain_snapshot::DomainSnapshot;
use virt::error::{Error, ErrorNumber};
use virt_sys as sys;

/// How often, and how many times, it is looked at whether layers are merged.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: usize = 200;

/// Why there is no answer to what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("{}", .0.message())]
    Libvirt(#[from] Error),
    #[error("{0}")]
    Question(String),
}

/// Answers one.
pub fn answer(request: Request, daemon: &Daemon) -> Answer {
    let held = match daemon.connection() {
        Ok(held) => held,
        Err(message) => return Answer::Gone { message },
    };
    if request == Request::Probe {
        return daemon.probed().map_or_else(
            || Answer::Gone { message: "it is still being tried what runs guests here".to_owned() },
            Answer::Probed,
        );
    }
    match answered(request, &held.0, daemon) {
        Ok(answer) => answer,
        Err(Trouble::Question(message)) => Answer::Refused { cause: Cause::Question, message },
        Err(Trouble::Libvirt(error)) if !held.0.is_alive().unwrap_or(false) => {
            Answer::Gone { message: error.message().to_owned() }
        }
        Err(Trouble::Libvirt(error)) => {
            Answer::Refused { cause: cause(error.code()), message: error.message().to_owned() }
        }
    }
}

fn cause(code: ErrorNumber) -> Cause {
    match code {
        ErrorNumber::NoDomain
        | ErrorNumber::NoDomainMetadata
        | ErrorNumber::NoStoragePool
        | ErrorNumber::NoStorageVolume => Cause::Absent,
        ErrorNumber::OperationInvalid => Cause::State,
        _ => Cause::Other,
    }
}

fn answered(request: Request, connect: &Connect, daemon: &Daemon) -> Result<Answer, Trouble> {
    let shown = |domain: Option<Domain>| Ok(Answer::Domain { domain: domain.map(|domain| show(&domain)).transpose()? });
    let look = |uuid: &str| present(Domain::lookup_by_uuid_string(connect, uuid));
    match request {
        // Who follows has a thread of its own, and whoever probes an answer.
        Request::Ping | Request::Follow | Request::Probe => {}
        Request::List => {
            let all = connect.list_all_domains(0)?;
            // One may go while it is looked at.
            let domains = all.iter().filter_map(|domain| show(domain).ok()).filter(|shown| shown.metadata.is_some());
            return Ok(Answer::Domains { domains: domains.collect() });
        }
        Request::Look { uuid } => return shown(look(&uuid)?),
        Request::LookByName { name } => return shown(present(Domain::lookup_by_name(connect, &name))?),
        Request::Describe { uuid } => {
            let xml = Domain::lookup_by_uuid_string(connect, &uuid)?.get_xml_desc(0)?;
            return Ok(Answer::Xml { xml });
        }
        Request::Define { xml } => return shown(Some(Domain::define_xml(connect, &xml)?)),
        Request::Start { uuid, metadata } => start(&Domain::lookup_by_uuid_string(connect, &uuid)?, &metadata)?,
        Request::Resume { uuid, metadata } => {
            resume(&Domain::lookup_by_uuid_string(connect, &uuid)?, metadata.as_deref())?;
        }
        Request::Shutdown { uuid } => {
            let domain = Domain::lookup_by_uuid_string(connect, &uuid)?;
            domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)?;
        }
        Request::Destroy { uuid } => {
            if let Some(domain) = look(&uuid)?.filter(|domain| domain.is_active().unwrap_or(true)) {
                unless_off(&domain, domain.destroy())?;
            }
        }
        Request::Undefine { uuid } => {
            if let Some(domain) = look(&uuid)? {
                let flags = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
                    | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
                    | sys::VIR_DOMAIN_UNDEFINE_NVRAM;
                let _ = present(domain.undefine_flags(flags))?;
            }
        }
        Request::CreateVolume(volume) => volumes::create(connect, daemon, &volume)?,
        Request::ListVolumes { prefix } => {
            return Ok(Answer::Volumes { names: volumes::list(connect, daemon, &prefix)? });
        }
        Request::AttachDisk { uuid, xml } => {
            Domain::lookup_by_uuid_string(connect, &uuid)?.attach_device_flags(&xml, sys::VIR_DOMAIN_AFFECT_LIVE)?;
        }
        Request::DetachDisk { uuid, xml } => {
            Domain::lookup_by_uuid_string(connect, &uuid)?.detach_device_flags(&xml, sys::VIR_DOMAIN_AFFECT_LIVE)?;
        }
        Request::Snapshot { uuid, xml } => {
            let domain = Domain::lookup_by_uuid_string(connect, &uuid)?;
            let flags = sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
                | sys::VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
                | sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
                | sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC;
            DomainSnapshot::create_xml(&domain, &xml, flags)?;
        }
        Request::Merge { uuid, target, over, under } => {
            let domain = Domain::lookup_by_uuid_string(connect, &uuid)?;
            if !merge(&domain, &target, &over, &under)? {
                return Ok(Answer::Merging);
            }
        }
        Request::GrowDisk { uuid, target, capacity } => {
            let domain = Domain::lookup_by_uuid_string(connect, &uuid)?;
            if domain.get_block_info(&target, 0)?.capacity < capacity {
                domain.block_resize(&target, capacity, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES)?;
            }
        }
        Request::DeleteVolumes { prefix } => volumes::delete(connect, daemon, &prefix)?,
    }
    Ok(Answer::Done)
}

/// `None` where it is not there.
fn present<T>(found: Result<T, Error>) -> Result<Option<T>, Error> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.code() == ErrorNumber::NoDomain => Ok(None),
        Err(error) => Err(error),
    }
}

/// That it is off by now is what was wanted.
fn unless_off(domain: &Domain, result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if domain.is_active().unwrap_or(false) => Err(error),
        _ => Ok(()),
    }
}

/// Whether it is over; begun, where nothing is under way.
fn merge(domain: &Domain, target: &str, over: &str, under: &str) -> Result<bool, Error> {
    if !shim::has_job(domain, target)? {
        shim::commit(domain, target, over, under)?;
    }
    for _ in 0..LOOKS {
        if !shim::has_job(domain, target)? {
            return Ok(true);
        }
        std::thread::park_timeout(LOOK);
    }
    Ok(false)
}

fn start(domain: &Domain, metadata: &str) -> Result<(), Error> {
    if domain.is_active()? {
        return Ok(());
    }
    write(domain, metadata, sys::VIR_DOMAIN_AFFECT_CONFIG)?;
    match domain.create_with_flags(sys::VIR_DOMAIN_START_PAUSED) {
        // Somebody else was faster.
        Err(error) if error.code() == ErrorNumber::OperationInvalid && domain.is_active()? => Ok(()),
        result => result.map(drop),
    }
}

fn resume(domain: &Domain, metadata: Option<&str>) -> Result<(), Error> {
    if domain.get_state()?.0 == sys::VIR_DOMAIN_PAUSED {
        domain.resume()?;
    }
    match metadata {
        Some(metadata) => write(domain, metadata, sys::VIR_DOMAIN_AFFECT_LIVE | sys::VIR_DOMAIN_AFFECT_CONFIG),
        None => Ok(()),
    }
}

/// Writes our element.
fn write(domain: &Domain, metadata: &str, where_to: sys::virDomainModificationImpact) -> Result<(), Error> {
    let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap_or_default();
    domain.set_metadata(kind, Some(metadata), Some(PREFIX), Some(NAMESPACE), where_to).map(drop)
}

fn show(domain: &Domain) -> Result<Shown, Error> {
    let (state, reason) = domain.get_state()?;
    let kind = i32::try_from(sys::VIR_DOMAIN_METADATA_ELEMENT).unwrap_or_default();
    let metadata = match domain.get_metadata(kind, Some(NAMESPACE), sys::VIR_DOMAIN_AFFECT_CURRENT) {
        Ok(metadata) => Some(metadata),
        Err(error) if error.code() == ErrorNumber::NoDomainMetadata => None,
        Err(error) => return Err(error),
    };
    let is_off = matches!(state, sys::VIR_DOMAIN_SHUTOFF | sys::VIR_DOMAIN_CRASHED);
    Ok(Shown {
        uuid: domain.get_uuid_string()?,
        name: domain.get_name()?,
        active: !is_off,
        paused: state == sys::VIR_DOMAIN_PAUSED,
        off: is_off.then(|| off(reason)),
        metadata,
    })
}

fn off(reason: i32) -> Off {
    match sys::virDomainShutoffReason::try_from(reason) {
        Ok(sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN) => Off::Shutdown,
        Ok(sys::VIR_DOMAIN_SHUTOFF_DESTROYED) => Off::Destroyed,
        Ok(sys::VIR_DOMAIN_SHUTOFF_CRASHED) => Off::Crashed,
        Ok(sys::VIR_DOMAIN_SHUTOFF_MIGRATED) => Off::Migrated,
        Ok(sys::VIR_DOMAIN_SHUTOFF_SAVED) => Off::Saved,
        Ok(sys::VIR_DOMAIN_SHUTOFF_FAILED) => Off::Failed,
        _ => Off::Unknown,
    }
}
