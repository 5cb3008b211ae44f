//! What an image's first bytes say, before any program that would act on them sees it.
//!
//! A qcow2 image can name other files of the host that its reader then opens (a backing file, an external data file), so one that
//! names any is refused. The format is that of qemu's docs/interop/qcow2.txt; everything in it is big-endian.

use stampede_libvirt_protocol::Format;

/// So many bytes are looked at: headers and their extensions end before that.
pub const LOOK: usize = 64 << 10;
/// No disk is larger.
pub const LARGEST_DISK: u64 = 64 << 40;

const MAGIC: [u8; 4] = *b"QFI\xfb";
/// Bits of the incompatible features: dirty, corrupt, external data file, compression type, extended L2 entries.
const CORRUPT: u64 = 1 << 1;
const EXTERNAL: u64 = 1 << 2;
const KNOWN: u64 = 0b1_1111;
/// The header of version 2; that of version 3 says its own length, at this place.
const LENGTH_2: usize = 72;
const LENGTH_3: usize = 104;
/// An extension that names the external data file.
const EXTENSION_EXTERNAL: u32 = 0x4441_5441;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;

/// Why an image is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it is empty")]
    Empty,
    #[error("it is {0}: images are raw or qcow2; convert it with qemu-img convert -O qcow2")]
    Format(&'static str),
    #[error("its header is broken ({0})")]
    Broken(&'static str),
    #[error("it is of version {0} of qcow2, and 2 and 3 are known")]
    Version(u32),
    #[error("it stands on another file ({0}); make it stand alone with qemu-img convert -O qcow2")]
    Backing(&'static str),
    #[error("it is encrypted")]
    Encrypted,
    #[error("it asks for features that are not known (bits {0:#x})")]
    Features(u64),
    #[error("its disk has {} GB, and {} GB is the most", .0 >> 30, LARGEST_DISK >> 30)]
    Large(u64),
}

/// What an image is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Image {
    pub format: Format,
    /// The disk's size in bytes.
    pub capacity: u64,
}

/// Of the first [`LOOK`] bytes (all, where there are fewer) of a file of `length` bytes.
pub fn look(head: &[u8], length: u64) -> Result<Image, Error> {
    if length == 0 {
        return Err(Error::Empty);
    }
    if head.starts_with(&MAGIC) {
        return qcow2(head, length);
    }
    // Disks of other programs would be taken for raw ones, and not boot.
    for (magic, at, name) in [
        (&b"KDMV"[..], 0, "a VMDK"),
        (b"# Disk DescriptorFile", 0, "a VMDK"),
        (b"conectix", 0, "a VHD"),
        (b"vhdxfile", 0, "a VHDX"),
        (b"<<< ", 0, "a VDI"),
        (b"QED\0", 0, "a QED"),
        (b"CD001", 0x8001, "an ISO 9660 image"),
    ] {
        if head.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
            return Err(Error::Format(name));
        }
    }
    let capacity = length.next_multiple_of(512);
    if capacity > LARGEST_DISK { Err(Error::Large(capacity)) } else { Ok(Image { format: Format::Raw, capacity }) }
}

fn number<const N: usize>(head: &[u8], at: usize) -> Result<[u8; N], Error> {
    head.get(at..).and_then(|rest| rest.first_chunk()).copied().ok_or(Error::Broken("it ends too early"))
}

fn four(head: &[u8], at: usize) -> Result<u32, Error> {
    number(head, at).map(u32::from_be_bytes)
}

fn eight(head: &[u8], at: usize) -> Result<u64, Error> {
    number(head, at).map(u64::from_be_bytes)
}

fn qcow2(head: &[u8], length: u64) -> Result<Image, Error> {
    let version = four(head, 4)?;
    if !(2..=3).contains(&version) {
        return Err(Error::Version(version));
    }
    if eight(head, 8)? != 0 || four(head, 16)? != 0 {
        return Err(Error::Backing("a backing file"));
    }
    let cluster_bits = four(head, 20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(Error::Broken("the size of its clusters"));
    }
    let capacity = eight(head, 24)?;
    if capacity > LARGEST_DISK {
        return Err(Error::Large(capacity));
    }
    if capacity == 0 {
        return Err(Error::Empty);
    }
    if four(head, 32)? != 0 {
        return Err(Error::Encrypted);
    }
    tables(head, length, capacity, cluster_bits)?;
    let header = if version == 2 { LENGTH_2 } else { features(head)? };
    extensions(head, header, 1_usize << cluster_bits)?;
    Ok(Image { format: Format::Qcow2, capacity })
}

/// Its first tables are in the file, and not larger than the disk needs.
fn tables(head: &[u8], length: u64, capacity: u64, cluster_bits: u32) -> Result<(), Error> {
    let (entries, at) = (u64::from(four(head, 36)?), eight(head, 40)?);
    let (references, clusters) = (eight(head, 48)?, u64::from(four(head, 56)?));
    let cluster = 1_u64 << cluster_bits;
    // An entry of the first level leads to a cluster of entries of 8 bytes, each of a cluster.
    let needed = capacity.div_ceil(cluster * cluster / 8);
    // Snapshots of a disk that was larger leave more behind.
    if entries < needed || entries > needed.max(1).saturating_mul(64) {
        return Err(Error::Broken("the size of its table"));
    }
    let inside =
        |at: u64, bytes: u64| at.is_multiple_of(cluster) && at.checked_add(bytes).is_some_and(|end| end <= length);
    // Its last cluster may be cut short.
    if at >= length
        || !at.is_multiple_of(cluster)
        || !inside(references, 0)
        || references >= length
        || clusters > 1 << 20
    {
        return Err(Error::Broken("its tables are not in it"));
    }
    Ok(())
}

/// Of version 3; the header's length.
fn features(head: &[u8]) -> Result<usize, Error> {
    let incompatible = eight(head, 72)?;
    if incompatible & EXTERNAL != 0 {
        return Err(Error::Backing("an external data file"));
    }
    if incompatible & CORRUPT != 0 {
        return Err(Error::Broken("it is marked as corrupt"));
    }
    if incompatible & !KNOWN != 0 {
        return Err(Error::Features(incompatible & !KNOWN));
    }
    let header = usize::try_from(four(head, 100)?).unwrap_or(usize::MAX);
    if !(LENGTH_3..=4096).contains(&header) || !header.is_multiple_of(8) {
        return Err(Error::Broken("its length"));
    }
    Ok(header)
}

/// They stand after the header in its first cluster, up to one of type 0.
fn extensions(head: &[u8], header: usize, cluster: usize) -> Result<(), Error> {
    let mut at = header;
    while at + 8 <= cluster.min(head.len()) {
        let (kind, length) = (four(head, at)?, usize::try_from(four(head, at + 4)?).unwrap_or(usize::MAX));
        match kind {
            0 => return Ok(()),
            EXTENSION_EXTERNAL => return Err(Error::Backing("an external data file")),
            EXTENSION_BACKING_FORMAT => return Err(Error::Backing("a backing file")),
            _ => {}
        }
        at = length
            .checked_next_multiple_of(8)
            .and_then(|length| at.checked_add(8 + length))
            .filter(|next| *next <= cluster)
            .ok_or(Error::Broken("an extension of its header"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As `qemu-img create -f qcow2 x 64M` makes it.
    fn image() -> Vec<u8> {
        let mut head = vec![0; 196_616];
        let mut put = |at: usize, bytes: &[u8]| head[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &3_u32.to_be_bytes());
        put(20, &16_u32.to_be_bytes());
        put(24, &(64_u64 << 20).to_be_bytes());
        put(36, &1_u32.to_be_bytes());
        put(40, &(3_u64 << 16).to_be_bytes());
        put(48, &(1_u64 << 16).to_be_bytes());
        put(56, &1_u32.to_be_bytes());
        put(100, &104_u32.to_be_bytes());
        head
    }

    fn looked(change: impl FnOnce(&mut Vec<u8>)) -> Result<Image, Error> {
        let mut image = image();
        change(&mut image);
        let length = image.len() as u64;
        look(&image[..LOOK.min(image.len())], length)
    }

    fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
        image[at..at + bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn what_stands_alone_is_taken() {
        let wanted = Image { format: Format::Qcow2, capacity: 64 << 20 };
        assert_eq!(looked(|_| {}), Ok(wanted));
        // Lazy reference counts, compressed by zstd, extended entries; a name for features.
        assert_eq!(looked(|image| put(image, 72, &0b1_1000_u64.to_be_bytes())), Ok(wanted));
        assert_eq!(looked(|image| put(image, 104, &[0x68, 0x03, 0xf8, 0x57, 0, 0, 0, 48])), Ok(wanted));
        assert_eq!(look(&[0; 700], 700), Ok(Image { format: Format::Raw, capacity: 1024 }));
    }

    #[test]
    fn what_leads_to_other_files_is_not() {
        let backing = Err(Error::Backing("a backing file"));
        assert_eq!(looked(|image| put(image, 8, &112_u64.to_be_bytes())), backing);
        assert_eq!(looked(|image| put(image, 16, &4_u32.to_be_bytes())), backing);
        assert_eq!(looked(|image| put(image, 104, &[0xe2, 0x79, 0x2a, 0xca, 0, 0, 0, 3])), backing);
        let external = Err(Error::Backing("an external data file"));
        assert_eq!(looked(|image| put(image, 72, &EXTERNAL.to_be_bytes())), external);
        assert_eq!(looked(|image| put(image, 104, b"DATA\0\0\0\x09")), external);
        // Behind another extension.
        let behind = |image: &mut Vec<u8>| {
            put(image, 104, &[0x68, 0x03, 0xf8, 0x57, 0, 0, 0, 5]);
            put(image, 120, b"DATA\0\0\0\x09");
        };
        assert_eq!(looked(behind), external);
    }

    #[test]
    fn what_is_broken_is_not() {
        assert!(matches!(looked(|image| image.truncate(60)), Err(Error::Broken(_))));
        assert_eq!(looked(|image| put(image, 4, &4_u32.to_be_bytes())), Err(Error::Version(4)));
        assert_eq!(looked(|image| put(image, 32, &2_u32.to_be_bytes())), Err(Error::Encrypted));
        assert_eq!(looked(|image| put(image, 72, &0x80_u64.to_be_bytes())), Err(Error::Features(0x80)));
        assert_eq!(looked(|image| put(image, 24, &u64::MAX.to_be_bytes())), Err(Error::Large(u64::MAX)));
        assert!(matches!(looked(|image| put(image, 20, &40_u32.to_be_bytes())), Err(Error::Broken(_))));
        assert!(matches!(looked(|image| put(image, 40, &(1_u64 << 40).to_be_bytes())), Err(Error::Broken(_))));
        assert!(matches!(looked(|image| put(image, 36, &u32::MAX.to_be_bytes())), Err(Error::Broken(_))));
        assert_eq!(look(b"", 0), Err(Error::Empty));
        assert_eq!(look(b"KDMV....", 8), Err(Error::Format("a VMDK")));
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(at in 0..LOOK - 8, bytes in prop::collection::vec(any::<u8>(), 8), cut in 0..196_616_usize) {
            let mut image = image();
            put(&mut image, at, &bytes);
            image.truncate(cut);
            let length = image.len() as u64;
            let _ = look(&image[..LOOK.min(image.len())], length);
        }
    }
}
