//! Config drives: a small CD with what a guest is told (ISO 9660 with Joliet and Rock Ridge, volume label `config-2`).

use hadris_iso::joliet::JolietLevel;
use hadris_iso::read::PathSeparator;
use hadris_iso::rrip::RripOptions;
use hadris_iso::write::options::{BaseIsoLevel, CreationFeatures, IsoFormatOptions};
use hadris_iso::write::{File, InputFiles, IsoImageWriter};
use std::collections::BTreeMap;
use std::io::{self, Cursor, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// What OpenStack's config drives are called.
pub const LABEL: &str = "config-2";
const SECTOR: usize = 2048;
/// Room for what stands beside the files: descriptors, path tables, directories in two trees.
const BESIDE: usize = 1 << 20;

#[derive(Default)]
struct Tree {
    files: BTreeMap<String, Vec<u8>>,
    directories: BTreeMap<String, Tree>,
}

impl Tree {
    fn put(&mut self, path: &str, content: &[u8]) {
        match path.split_once('/') {
            Some((first, rest)) => self.directories.entry(first.to_owned()).or_default().put(rest, content),
            None => drop(self.files.insert(path.to_owned(), content.to_vec())),
        }
    }

    fn into_files(self) -> Vec<File> {
        let files = self.files.into_iter().map(|(name, contents)| File::File { name: Arc::new(name), contents });
        let directories = self
            .directories
            .into_iter()
            .map(|(name, below)| File::Directory { name: Arc::new(name), children: below.into_files() });
        files.chain(directories).collect()
    }
}

/// A disc with these files, by their paths.
///
/// # Errors
/// Where they are more than a disc of this kind can name.
pub fn image<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> io::Result<Vec<u8>> {
    let (mut tree, mut size) = (Tree::default(), BESIDE);
    for (path, content) in files {
        size += content.len().next_multiple_of(SECTOR) + SECTOR;
        tree.put(path, content);
    }
    let options = IsoFormatOptions {
        volume_name: LABEL.to_owned(),
        system_id: None,
        volume_set_id: None,
        publisher_id: None,
        preparer_id: None,
        application_id: None,
        sector_size: SECTOR,
        path_separator: PathSeparator::ForwardSlash,
        features: CreationFeatures {
            filenames: BaseIsoLevel::Level1 { supports_lowercase: false, supports_rrip: true },
            joliet: Some(JolietLevel::Level3),
            rock_ridge: Some(RripOptions::default()),
            ..CreationFeatures::default()
        },
        // The label has a hyphen and small letters, as everybody's has.
        strict_charset: false,
    };
    let input = InputFiles { path_separator: PathSeparator::ForwardSlash, files: tree.into_files() };
    let mut disc = Cursor::new(vec![0; size]);
    IsoImageWriter::create(&mut disc, input, options).map_err(|error| io::Error::other(error.to_string()))?;
    let mut disc = disc.into_inner();
    // What the volume says that it has (ECMA-119, 8.4.8: both byte orders, the little one first).
    let sectors =
        disc.get(0x8050..0x8054).and_then(|bytes| bytes.first_chunk()).map_or(0, |bytes| u32::from_le_bytes(*bytes));
    disc.truncate((sectors as usize).saturating_mul(SECTOR).max(SECTOR * 17));
    Ok(disc)
}

/// Puts `disc` at `path` in one step; what it tells is for nobody but the guest.
///
/// # Errors
/// Where it cannot be written.
pub fn put(path: &Path, disc: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::File::options().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(disc)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hadris_iso::read::IsoImage;

    #[test]
    fn a_disc_that_is_read_again() {
        let large = vec![7_u8; 65_535];
        let files: [(&str, &[u8]); 3] = [
            ("openstack/latest/meta_data.json", b"{}"),
            ("openstack/latest/user_data", &large),
            ("ec2/latest/meta-data.json", b"{\"a\": 1}"),
        ];
        let disc = image(files).unwrap();
        assert!(disc.len() < 1 << 20 && disc.len().is_multiple_of(SECTOR), "{} bytes", disc.len());
        assert_eq!(disc[0x8028..0x8030], *LABEL.as_bytes());
        let names = |directory: &str| disc.windows(directory.len()).any(|part| part == directory.as_bytes());
        assert!(names("meta_data.json") && names("user_data"), "Rock Ridge has names as they are");
        let joliet: Vec<u8> = "meta_data.json".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert!(disc.windows(joliet.len()).any(|part| part == joliet), "and so has Joliet");
        IsoImage::open(Cursor::new(disc)).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.iso");
        put(&path, b"one").unwrap();
        put(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
    }
}
