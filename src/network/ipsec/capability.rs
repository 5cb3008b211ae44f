//! Whether this kernel can do what is asked of it, found by doing it once.
//!
//! Making an association has the kernel load what it needs, so a module that is installed is there afterwards. Where one
//! is missing the operator is told which, and what to do; nothing is ever sent in plain text instead.

use super::super::kernel::{self, Kernel};
use crate::environment::Environment;
use rustix::io::Errno;
use stampede_netlink::xfrm::{AeadKey, AssociationChange, AssociationSpec};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zeroize::Zeroizing;

/// No SPI of ours has its two highest bits so.
const SPI: u32 = 0x4000_0000;

/// Why it cannot.
#[derive(Debug, thiserror::Error)]
#[error(
    "this kernel cannot encrypt between hosts: {missing} is missing ({source}). Load the modules xfrm_user, {esp}, gcm, ctr and \
     seqiv, or install the kernel package that has them; or set network.encryption = \"none\" on all hosts where the \
     wires between them are trusted. Nothing is sent in plain text by itself"
)]
pub struct Incapable {
    missing: &'static str,
    esp: &'static str,
    source: kernel::Error,
}

/// Makes an association between two addresses that nobody has (RFC 5737, RFC 3849), and removes it.
///
/// # Errors
/// [`Incapable`] says which module is missing.
pub async fn check(kernel: &Kernel, environment: &Environment, ipv4: bool) -> Result<(), Incapable> {
    let esp = if ipv4 { "esp4" } else { "esp6" };
    let failed = |missing, source| Incapable { missing, esp, source };
    let xfrm = kernel.xfrm().map_err(|source| failed("xfrm_user", source))?;
    let mut material = Zeroizing::new([0; 36]);
    environment.random.fill(material.as_mut_slice());
    let (source, destination): (IpAddr, IpAddr) = if ipv4 {
        (Ipv4Addr::new(192, 0, 2, 1).into(), Ipv4Addr::new(192, 0, 2, 2).into())
    } else {
        let nobody = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into();
        (nobody(1), nobody(2))
    };
    let spec = AssociationSpec::new(source, destination, SPI, AeadKey::aes256(&material));
    let id = spec.id;
    let changes = vec![AssociationChange::Add(spec), AssociationChange::Remove(id)];
    match xfrm.change_associations(changes).await.and_then(stampede_netlink::Outcome::into_result) {
        // Left behind by an agent that was killed at this very moment.
        Err(error) if !error.is_exists() => Err(failed(missing(&error, esp), error)),
        _ => Ok(()),
    }
}

/// Which module, by the kernel's answer: it knows no such protocol, or no such cipher.
fn missing(error: &kernel::Error, esp: &'static str) -> &'static str {
    match error.errno() {
        Some(Errno::PROTONOSUPPORT | Errno::AFNOSUPPORT) => esp,
        Some(Errno::NOSYS | Errno::NOENT) => "AES-GCM (gcm, ctr, ghash, seqiv)",
        _ => "IPsec",
    }
}
