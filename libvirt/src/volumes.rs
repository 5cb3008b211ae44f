//! Disks of guests, in a pool of libvirt's that is ours: libvirt makes them, gives them the right owner and label, and takes them away.

use crate::answer::Trouble;
use crate::daemon::{Daemon, locked};
use stampede_libvirt_protocol::{CONSOLES, POOL, POOL_PATH, Volume};
use virt::connect::Connect;
use virt::error::{Error, ErrorNumber};
use virt::storage_pool::StoragePool;
use virt::storage_vol::StorageVol;

/// The pool; made where it is not there.
fn pool(connect: &Connect) -> Result<StoragePool, Error> {
    let pool = match StoragePool::lookup_by_name(connect, POOL) {
        Err(error) if error.code() == ErrorNumber::NoStoragePool => {
            let xml = format!(
                "<pool type='dir'><name>{POOL}</name><target><path>{POOL_PATH}</path>\
                 <permissions><mode>0711</mode><owner>0</owner><group>0</group></permissions></target></pool>"
            );
            let pool = StoragePool::define_xml(connect, &xml, 0)?;
            pool.build(0)?;
            pool.set_autostart(true)?;
            pool
        }
        found => found?,
    };
    if !pool.is_active()? {
        pool.create(0)?;
    }
    Ok(pool)
}

fn find(pool: &StoragePool, name: &str) -> Result<Option<StorageVol>, Error> {
    match StorageVol::lookup_by_name(pool, name) {
        Ok(volume) => Ok(Some(volume)),
        Err(error) if error.code() == ErrorNumber::NoStorageVolume => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes a volume; one that is there keeps what is on it, and is as large at least.
pub fn create(connect: &Connect, daemon: &Daemon, volume: &Volume) -> Result<(), Trouble> {
    plain(&volume.name)?;
    let backing = match &volume.backing {
        Some(backing) => {
            let below = backing.path.strip_prefix(POOL_PATH).and_then(|below| below.strip_prefix('/'));
            let Some(below) = below else {
                return Err(Trouble::Question(format!("{} is not below {POOL_PATH}", backing.path)));
            };
            below.split('/').try_for_each(plain)?;
            let (path, format) = (&backing.path, backing.format.name());
            format!("<backingStore><path>{path}</path><format type='{format}'/></backingStore>")
        }
        None => String::new(),
    };
    // What lies on another is as large as that, unless told.
    let capacity = match volume.capacity {
        0 => String::new(),
        capacity => format!("<capacity unit='bytes'>{capacity}</capacity>"),
    };
    let xml = format!(
        "<volume><name>{}</name>{capacity}<allocation>0</allocation><target>\
         <format type='qcow2'/><permissions><mode>0600</mode></permissions><compat>1.1</compat></target>{backing}</volume>",
        volume.name
    );
    let _one_at_a_time = locked(&daemon.volumes);
    let pool = pool(connect)?;
    let mut found = find(&pool, &volume.name)?;
    if found.is_none() {
        // What somebody else made, or libvirt has forgotten, is on the disk.
        pool.refresh(0)?;
        found = find(&pool, &volume.name)?;
    }
    match found {
        Some(found) if volume.anew => found.delete(0)?,
        Some(found) => {
            if found.get_info()?.capacity < volume.capacity {
                found.resize(volume.capacity, 0)?;
            }
            return Ok(());
        }
        None => {}
    }
    StorageVol::create_xml(&pool, &xml, 0)?;
    Ok(())
}

/// Those whose names begin with `prefix`, as they are on the disk.
fn all(connect: &Connect, prefix: &str) -> Result<Vec<(String, StorageVol)>, Trouble> {
    plain(prefix)?;
    if !prefix.contains('-') {
        return Err(Trouble::Question(format!("{prefix} could be of several")));
    }
    let pool = pool(connect)?;
    pool.refresh(0)?;
    let mut found = Vec::new();
    for volume in pool.list_all_volumes(0)? {
        let name = volume.get_name()?;
        if name.starts_with(prefix) {
            found.push((name, volume));
        }
    }
    Ok(found)
}

/// The names of the volumes that begin with `prefix`.
pub fn list(connect: &Connect, daemon: &Daemon, prefix: &str) -> Result<Vec<String>, Trouble> {
    let _one_at_a_time = locked(&daemon.volumes);
    Ok(all(connect, prefix)?.into_iter().map(|(name, _)| name).collect())
}

/// Takes all volumes away whose names begin with `prefix`.
pub fn delete(connect: &Connect, daemon: &Daemon, prefix: &str) -> Result<(), Trouble> {
    let _one_at_a_time = locked(&daemon.volumes);
    for (_, volume) in all(connect, prefix)? {
        volume.delete(0)?;
    }
    consoles(prefix);
    Ok(())
}

/// What was kept of their consoles goes with them. One that cannot be taken away is told of, and no reason to keep the rest.
fn consoles(prefix: &str) {
    let Ok(files) = std::fs::read_dir(CONSOLES) else { return };
    for file in files.flatten().filter(|file| file.file_name().to_string_lossy().starts_with(prefix)) {
        if let Err(error) = std::fs::remove_file(file.path()) {
            tracing::warn!(path = %file.path().display(), %error, "the log of a console is left there");
        }
    }
}

/// No name leads elsewhere, and none needs to be escaped.
fn plain(name: &str) -> Result<(), Trouble> {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.starts_with('.') || !name.bytes().all(fine) {
        return Err(Trouble::Question(format!("{name:?} is no name of a volume")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_name_leads_elsewhere() {
        assert!(plain("1i54-root.qcow2").is_ok());
        for name in ["", "..", "a/b", "<a>", "a b", "ä"] {
            assert!(plain(name).is_err(), "{name}");
        }
    }
}
