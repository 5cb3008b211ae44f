//! The images of a host: a folder with those that are whole, each under a name that follows from where it comes from.
//!
//! Several processes may want the same one at once, the supervisors of its instances: the first locks `<key>.part` (flock(2)) and
//! fetches, the others wait for the lock and then find it. One that is killed leaves its part; the lock goes with the process, and
//! the next begins anew.

use super::checksum::{self, Checksum, Hasher};
use super::fetch::{self, Fetch, Progress, Refused};
use super::{Error, header, unpack};
use crate::environment::Environment;
use crate::resource::assignment::MachineImage;
use rustix::fs::{FlockOperation, flock};
use sha2::Digest;
use stampede_libvirt_protocol::Format;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Between two looks at whether another is done with it.
const LOOK: Duration = Duration::from_millis(300);
/// Nothing larger is fetched.
const MOST: u64 = 1 << 40;
/// So much of the disk stays free: guests write to theirs.
const RESERVE: u64 = 256 << 20;

/// An image that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub path: PathBuf,
    pub format: Format,
    /// The size of its disk in bytes.
    pub capacity: u64,
}

/// Where they are: `/var/lib/libvirt/images/stampede/images`.
#[derive(Clone, Debug)]
pub struct Images {
    directory: PathBuf,
    refused: Refused,
}

/// What an image is called here: the same for the same address and checksum.
fn key(image: &MachineImage) -> String {
    let mut hasher = sha2::Sha256::new();
    hasher.update(image.url.as_bytes());
    hasher.update(b"\n");
    hasher.update(image.checksum.as_deref().unwrap_or_default().as_bytes());
    checksum::digits(&hasher.finalize()[..16])
}

impl Images {
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), refused: fetch::is_own }
    }

    fn failed(path: &Path) -> impl FnOnce(io::Error) -> Error + use<> {
        let path = path.to_owned();
        move |source| Error::File { path, source }
    }

    /// The image, where it is there.
    ///
    /// # Errors
    /// Where it is there and cannot be read.
    pub fn find(&self, image: &MachineImage) -> Result<Option<Stored>, Error> {
        let key = key(image);
        for format in [Format::Qcow2, Format::Raw] {
            let path = self.directory.join(format!("{key}.{}", format.name()));
            let file = match File::open(&path) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(Error::File { path, source }),
            };
            let found = looked(&file, &path, &image.url)?;
            return Ok(Some(Stored { path, ..found }));
        }
        Ok(None)
    }

    /// Its folder, through which every guest's qemu goes to its own, whatever this process hides from others by itself.
    fn prepare(&self) -> Result<(), Error> {
        let pool = self.directory.parent().unwrap_or(&self.directory);
        for directory in [pool, &self.directory] {
            match std::fs::create_dir(directory) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(source) => return Err(Error::File { path: directory.to_owned(), source }),
            }
            let passable = std::fs::Permissions::from_mode(0o711);
            std::fs::set_permissions(directory, passable).map_err(Self::failed(directory))?;
        }
        Ok(())
    }

    /// The image, fetched where it is not there.
    ///
    /// # Errors
    /// Why it is not there.
    pub async fn ensure(
        &self,
        image: &MachineImage,
        environment: &Environment,
        progress: Progress<'_>,
    ) -> Result<Stored, Error> {
        self.prepare()?;
        let part = self.directory.join(format!("{}.part", key(image)));
        loop {
            if let Some(found) = self.find(image)? {
                return Ok(found);
            }
            let mut options = File::options();
            let file = options.read(true).write(true).create(true).truncate(false).open(&part);
            let file = file.map_err(Self::failed(&part))?;
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && is_at(&file, &part) {
                // Another may have been done with it just now.
                return match self.find(image)? {
                    Some(found) => Ok(found),
                    None => self.fetch(image, environment, progress, file, &part).await,
                };
            }
            progress(&format!("another instance of this host fetches {}", image.url));
            tokio::time::sleep(environment.jitter(LOOK)).await;
        }
    }

    /// With the lock on `part`.
    async fn fetch(
        &self,
        image: &MachineImage,
        environment: &Environment,
        progress: Progress<'_>,
        file: File,
        part: &Path,
    ) -> Result<Stored, Error> {
        let url = &image.url;
        // Whatever becomes of it, a part is of no use to the next.
        let leftover = Leftover(part.to_owned());
        let wanted = image.checksum.as_deref().map(str::parse::<Checksum>).transpose()?;
        file.set_len(0).map_err(Self::failed(part))?;
        let free = self.free()?;
        let mut file = tokio::fs::File::from_std(file);
        let fetch = Fetch { url, environment, most: MOST.min(free), progress, refused: self.refused };
        let found = match fetch.write_into(&mut file, wanted.as_ref().map(|wanted| Hasher::new(wanted.kind))).await {
            Err(Error::Large { .. }) => return Err(Error::Full { free }),
            found => found?,
        };
        if let (Some(wanted), Some(found)) = (&wanted, found)
            && wanted.digits != found
        {
            let (url, kind, wanted) = (url.clone(), wanted.kind.name(), wanted.digits.clone());
            return Err(Error::Other { url, kind, found, wanted });
        }
        progress(&format!("unpacking {url}"));
        let file = file.into_std().await;
        let (this, image, part) = (self.clone(), image.clone(), part.to_owned());
        // It takes seconds of a processor.
        let stored = tokio::task::spawn_blocking(move || this.take(&image, file, &part)).await??;
        drop(leftover);
        tracing::info!(url, path = %stored.path.display(), capacity = stored.capacity, "an image is there");
        Ok(stored)
    }

    /// What was fetched becomes an image, or an error.
    fn take(&self, image: &MachineImage, mut file: File, part: &Path) -> Result<Stored, Error> {
        let unpacked = self.directory.join(format!("{}.unpacked", key(image)));
        let _leftover = Leftover(unpacked.clone());
        let free = self.free()?;
        match unpack::unpack(&mut file, &unpacked, free) {
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::FileTooLarge | io::ErrorKind::StorageFull) => {
                return Err(Error::Full { free });
            }
            Err(source) => return Err(Error::Unpack { url: image.url.clone(), source }),
        }
        let whole = File::open(&unpacked).map_err(Self::failed(&unpacked))?;
        let found = looked(&whole, &unpacked, &image.url)?;
        // For every guest's qemu to read.
        let readable = std::fs::Permissions::from_mode(0o644);
        whole.set_permissions(readable).map_err(Self::failed(&unpacked))?;
        let path = self.directory.join(format!("{}.{}", key(image), found.format.name()));
        std::fs::rename(&unpacked, &path).map_err(Self::failed(&path))?;
        let directory = File::open(&self.directory).map_err(Self::failed(&self.directory))?;
        directory.sync_all().map_err(Self::failed(&self.directory))?;
        drop(std::fs::remove_file(part));
        Ok(Stored { path, ..found })
    }

    /// Bytes that may be written here.
    fn free(&self) -> Result<u64, Error> {
        let free = rustix::fs::statvfs(&self.directory).map_err(|error| Self::failed(&self.directory)(error.into()))?;
        Ok((free.f_bavail * free.f_frsize).saturating_sub(RESERVE))
    }
}

/// A file that is taken away with this, if it is there.
struct Leftover(PathBuf);

impl Drop for Leftover {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "is left there");
            }
            _ => {}
        }
    }
}

/// Whether that path is (still) this file.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

fn looked(file: &File, path: &Path, url: &str) -> Result<Stored, Error> {
    let failed = |source| Error::File { path: path.to_owned(), source };
    let length = file.metadata().map_err(failed)?.len();
    let mut head = vec![0; usize::try_from(length).unwrap_or(header::LOOK).min(header::LOOK)];
    file.read_exact_at(&mut head, 0).map_err(failed)?;
    let found = header::look(&head, length).map_err(|source| Error::Header { url: url.to_owned(), source })?;
    Ok(Stored { path: path.to_owned(), format: found.format, capacity: found.capacity })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Answers each connection with `content`: the first `broken` of them break off half-way. Counts them.
    async fn server(content: Vec<u8>, broken: usize) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (number, content) = (counted.fetch_add(1, Ordering::SeqCst), content.clone());
                tokio::spawn(async move {
                    let mut head = vec![0; 4096];
                    let length = stream.read(&mut head).await.unwrap();
                    let head = String::from_utf8_lossy(&head[..length]).to_ascii_lowercase();
                    let from: usize = head
                        .split_once("range: bytes=")
                        .and_then(|(_, rest)| rest.split_once('-')?.0.parse().ok())
                        .unwrap_or(0);
                    let status = if from > 0 { "206 Partial Content" } else { "200 OK" };
                    let length = content.len() - from;
                    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"x\"\r\n\r\n");
                    stream.write_all(head.as_bytes()).await.unwrap();
                    let end = if number < broken { from + length / 2 } else { content.len() };
                    let _ = stream.write_all(&content[from..end]).await;
                });
            }
        });
        (format!("http://{address}/image"), count)
    }

    /// From servers of this very host too.
    fn anywhere(directory: &Path) -> Images {
        Images { refused: |_| false, ..Images::new(directory) }
    }

    fn image(url: &str, checksum: Option<&str>) -> MachineImage {
        MachineImage { id: 7, url: url.to_owned(), checksum: checksum.map(str::to_owned) }
    }

    fn content() -> Vec<u8> {
        (0..3_000_000_u32).map(|at| u8::try_from(at.wrapping_mul(at) % 253).unwrap()).collect()
    }

    fn sha256(bytes: &[u8]) -> String {
        checksum::digits(&sha2::Sha256::digest(bytes))
    }

    fn files(directory: &Path) -> Vec<String> {
        let names =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    #[tokio::test]
    async fn fetched_once_for_all_who_want_it_and_gone_on_with_where_it_broke_off() {
        let directory = tempfile::tempdir().unwrap();
        let (images, environment) = (anywhere(directory.path()), Environment::system().unwrap());
        let (url, count) = server(content(), 1).await;
        let wanted = image(&url, Some(&format!("sha256:{}", sha256(&content()))));
        let all = (0..4).map(|_| images.ensure(&wanted, &environment, &|_| {}));
        let all = futures::future::try_join_all(all).await.unwrap();
        assert!(all.iter().all(|one| *one == all[0]));
        assert_eq!(count.load(Ordering::SeqCst), 2, "once, and once more for its other half");
        assert!(std::fs::read(&all[0].path).unwrap() == content());
        assert_eq!(files(directory.path()).len(), 1, "nothing else is left: {:?}", files(directory.path()));
        assert_eq!(all[0].path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        images.ensure(&wanted, &environment, &|_| {}).await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn what_is_not_what_was_asked_for_is_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let (images, environment) = (anywhere(directory.path()), Environment::system().unwrap());
        let (url, _) = server(content(), 0).await;
        let wrong = image(&url, Some(&sha256(b"another")));
        let error = images.ensure(&wrong, &environment, &|_| {}).await.unwrap_err();
        assert!(matches!(error, Error::Other { .. }), "{error}");
        let no_digits = images.ensure(&image(&url, Some("x")), &environment, &|_| {}).await.unwrap_err();
        assert!(matches!(no_digits, Error::Checksum(_)), "{no_digits}");
        let mut hostile = b"QFI\xfb".to_vec();
        hostile.resize(100_000, 1);
        let (url, _) = server(hostile, 0).await;
        let error = images.ensure(&image(&url, None), &environment, &|_| {}).await.unwrap_err();
        assert!(matches!(error, Error::Header { .. }), "{error}");
        let (url, count) = server(content(), 0).await;
        let error = Images::new(directory.path()).ensure(&image(&url, None), &environment, &|_| {}).await.unwrap_err();
        assert!(error.to_string().contains("the host itself"), "{error}");
        assert_eq!(count.load(Ordering::SeqCst), 0);
        let error = images.ensure(&image("ftp://x/y", None), &environment, &|_| {}).await.unwrap_err();
        assert!(matches!(error, Error::Url { .. }), "{error}");
        assert!(files(directory.path()).is_empty(), "{:?}", files(directory.path()));
    }
}
