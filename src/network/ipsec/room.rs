//! Room for associations, made before there is traffic.
//!
//! A kernel's table of associations begins with eight buckets and is doubled whenever there are more associations; while that lasts,
//! packets find none and are dropped. That would be in the middle of a change of keys, when there are most. It never gets smaller.

use super::super::kernel::Error;
use super::encryptor::Encryptor;
use crate::environment::Environment;
use stampede_netlink::xfrm::AeadKey;
use zeroize::Zeroizing;

/// Associations of one peer at the worst time: each of two own halves with each of two of the peer's, ways out of both, and room.
const EACH: usize = 8;
/// There is room for so many peers whatever is known.
const LEAST: usize = 16;
/// No SPI of ours has its two highest bits so.
const SPI: u32 = 0x4001_0000;

/// Has the kernel make room for the associations of so many peers. For how many there is room then.
///
/// # Errors
/// Where the kernel takes none.
pub async fn make(encryptor: &dyn Encryptor, environment: &Environment, peers: usize) -> Result<usize, Error> {
    let peers = peers.max(LEAST).next_power_of_two();
    let wanted = u32::try_from(peers * EACH).unwrap_or(u32::MAX);
    let mut material = Zeroizing::new([0; 36]);
    environment.random.fill(material.as_mut_slice());
    let table = encryptor.make_room(wanted, SPI, &AeadKey::aes256(&material)).await?;
    if table.buckets < wanted {
        tracing::warn!(
            buckets = table.buckets,
            wanted,
            "the kernel's table of associations is not as large as it should be: packets may be lost while keys change"
        );
    }
    Ok(peers)
}
