//! What runs guests here: tried by running one.
//!
//! /dev/kvm may be there and still run nothing (no rights, nested virtualization that is off, another hypervisor in the way). So a
//! guest of one sector is started: it powers the machine off, by the register that firmware and ACPI know. One that does that in
//! time has run. The same guest is tried under translation where the processor runs none.

use stampede_libvirt_protocol::{Accelerator, POOL_PATH, Probed};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::Duration;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::ErrorNumber;

const NAME: &str = "stampede-trial";
/// Between two looks at it, and how many.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS: usize = 150;

/// `mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt; jmp`: PM1a_CNT, SLP_EN, as qemu's own firmware places it.
const CODE: [u8; 10] = [0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xf4, 0xeb, 0xfd];

/// Firmware takes no smaller disk.
const DISK: usize = 1 << 20;

fn disk() -> Vec<u8> {
    let mut disk = vec![0; DISK];
    disk[..CODE.len()].copy_from_slice(&CODE);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// Looks at libvirt, and tries what was not found out `before`.
pub fn probe(connect: &Connect, before: Option<Probed>) -> Probed {
    let version = |number: Result<u32, virt::error::Error>| number.map_or_else(|_| "unknown".to_owned(), version);
    let (accelerator, warning) = match before.filter(|before| before.accelerator.is_some()) {
        Some(before) => (before.accelerator, before.warning),
        None => accelerator(connect),
    };
    Probed {
        libvirt: version(connect.get_lib_version()),
        qemu: version(connect.get_hyp_version()),
        accelerator,
        warning,
    }
}

/// 11003000 is 11.3.0.
fn version(number: u32) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1000 % 1000, number % 1000)
}

fn accelerator(connect: &Connect) -> (Option<Accelerator>, Option<String>) {
    if std::env::consts::ARCH != "x86_64" {
        return (None, Some(format!("guests are run on x86_64 alone, and this is {}", std::env::consts::ARCH)));
    }
    let hardware = match run(connect, Accelerator::Kvm) {
        Ok(()) => return (Some(Accelerator::Kvm), None),
        Err(error) => error,
    };
    match run(connect, Accelerator::Tcg) {
        Ok(()) => {
            let warning = format!("the processor runs no guests here ({hardware}); they are translated, which is slow");
            (Some(Accelerator::Tcg), Some(warning))
        }
        Err(software) => (None, Some(format!("no guest runs here: {software}"))),
    }
}

/// Why a trial failed.
#[derive(Debug, thiserror::Error)]
enum Trial {
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("{}", .0.message())]
    Libvirt(#[from] virt::error::Error),
    #[error("a guest was started and did nothing for {}s", (LOOK * 150).as_secs())]
    Idle,
}

fn run(connect: &Connect, accelerator: Accelerator) -> Result<(), Trial> {
    if accelerator == Accelerator::Kvm {
        let path = PathBuf::from("/dev/kvm");
        std::fs::metadata(&path).map_err(|source| Trial::File { path, source })?;
    }
    let path = PathBuf::from(POOL_PATH).join("trial.img");
    let written = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(POOL_PATH)
        .and_then(|()| std::fs::write(&path, disk()));
    written.map_err(|source| Trial::File { path: path.clone(), source })?;
    end(connect);
    let result = Domain::create_xml(connect, &xml(accelerator, &path.to_string_lossy()), 0)
        .map_err(Trial::from)
        .and_then(|_| if (0..LOOKS).any(|_| is_over(connect)) { Ok(()) } else { Err(Trial::Idle) });
    end(connect);
    if let Err(error) = std::fs::remove_file(&path) {
        tracing::debug!(%error, path = %path.display(), "left there");
    }
    result
}

fn is_over(connect: &Connect) -> bool {
    std::thread::park_timeout(LOOK);
    Domain::lookup_by_name(connect, NAME).is_err_and(|error| error.code() == ErrorNumber::NoDomain)
}

/// One that is left of this trial or an earlier one.
fn end(connect: &Connect) {
    if let Ok(left) = Domain::lookup_by_name(connect, NAME)
        && let Err(error) = left.destroy()
    {
        tracing::debug!(%error, "the trial has ended by itself");
    }
}

fn xml(accelerator: Accelerator, path: &str) -> String {
    format!(
        "<domain type='{}'><name>{NAME}</name><memory unit='MiB'>32</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/></os><features><acpi/></features>\
         <on_poweroff>destroy</on_poweroff><devices><disk type='file' device='disk'><driver name='qemu' type='raw'/>\
         <source file='{path}'/><target dev='vda' bus='virtio'/><readonly/></disk>\
         <controller type='usb' model='none'/><memballoon model='none'/></devices></domain>",
        accelerator.domain_type()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_boots() {
        let disk = disk();
        assert_eq!((disk[0], disk[510], disk[511]), (0xba, 0x55, 0xaa));
        assert_eq!(version(11_003_000), "11.3.0");
    }
}
