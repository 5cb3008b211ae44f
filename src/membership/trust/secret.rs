//! The cluster secret: 256 bit that every host has and etcd never sees.
//!
//! It is one line of 64 hexadecimal digits in a file that only root reads. The first agent makes it; other hosts get it by
//! a join token, from a systemd credential, or from an operator's own hand. What is made with it never uses the secret
//! itself but a key derived for that one purpose.

use crate::environment::Environment;
use ring::hkdf::{HKDF_SHA256, Salt};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const LENGTH: usize = 32;
/// What systemd calls it where it is a credential of the unit.
pub const CREDENTIAL: &str = "stampede.secret";

/// What is wrong with a secret or its file.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("cannot {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} holds no cluster secret: that is one line of 64 hexadecimal digits, the same on all hosts; a new cluster's is \
         made with `openssl rand -hex 32`",
        path.display()
    )]
    Content { path: PathBuf },
    #[error("{} holds the cluster secret and others than its owner can read it: chmod 600 it", path.display())]
    Open { path: PathBuf },
    #[error("{} does not exist, and secret_file names it: put the cluster secret there, or take that line out", path.display())]
    Missing { path: PathBuf },
}

/// See the module's text. Cheap to clone; wiped from memory with the last clone.
#[derive(Clone)]
pub struct ClusterSecret(Arc<Zeroizing<[u8; LENGTH]>>);

impl fmt::Debug for ClusterSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterSecret(…)")
    }
}

impl PartialEq for ClusterSecret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }
}

impl Eq for ClusterSecret {}

/// Length of what is derived.
struct Key;

impl ring::hkdf::KeyType for Key {
    fn len(&self) -> usize {
        LENGTH
    }
}

impl ClusterSecret {
    pub fn generate(environment: &Environment) -> Self {
        let mut bytes = Zeroizing::new([0; LENGTH]);
        environment.random.fill(bytes.as_mut_slice());
        Self(Arc::new(bytes))
    }

    /// From its 64 digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.trim().as_bytes();
        if digits.len() != 2 * LENGTH {
            return None;
        }
        let mut bytes = Zeroizing::new([0; LENGTH]);
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            let digit = |at: usize| char::from(pair[at]).to_digit(16);
            *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
        }
        Some(Self(Arc::new(bytes)))
    }

    /// Its 64 digits.
    pub fn text(&self) -> Zeroizing<String> {
        Zeroizing::new(hex(self.0.as_slice()))
    }

    /// What it is called: sixteen digits that say nothing of it.
    pub fn name(&self) -> String {
        let name = self.derive("stampede-secret-name-1", &[]);
        hex(&name[..8])
    }

    /// The key for one purpose: HKDF-SHA256 over the secret, with `context` as salt and `purpose` as info.
    pub fn derive(&self, purpose: &str, context: &[u8]) -> Zeroizing<[u8; LENGTH]> {
        let mut key = Zeroizing::new([0; LENGTH]);
        let info = [purpose.as_bytes()];
        let drawn = Salt::new(HKDF_SHA256, context).extract(self.0.as_slice());
        // HKDF fails only for more than 255 times the hash's length.
        if drawn.expand(&info, Key).and_then(|okm| okm.fill(key.as_mut_slice())).is_err() {
            tracing::error!(purpose, "no key could be derived; a key of zeros opens nothing");
        }
        key
    }
}

/// In small digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
    text
}

/// Where a host's secret is: the place that was told, or else a credential of the unit, or else the state directory.
#[derive(Clone, Debug)]
pub struct SecretPlace {
    told: Option<PathBuf>,
    credential: Option<PathBuf>,
    own: PathBuf,
}

impl SecretPlace {
    /// `credentials` is systemd's `$CREDENTIALS_DIRECTORY`.
    pub fn new(told: Option<PathBuf>, credentials: Option<PathBuf>, state: &Path) -> Self {
        Self { told, credential: credentials.map(|path| path.join(CREDENTIAL)), own: state.join("secret") }
    }

    /// The one this host has; `None` where it has none yet.
    ///
    /// # Errors
    /// Where there is a file and it is no good.
    pub fn find(&self) -> Result<Option<ClusterSecret>, SecretError> {
        if let Some(told) = &self.told {
            return read(told)?.map(Some).ok_or_else(|| SecretError::Missing { path: told.clone() });
        }
        for path in self.credential.iter().chain([&self.own]) {
            if let Some(secret) = read(path)? {
                return Ok(Some(secret));
            }
        }
        Ok(None)
    }

    /// The file that [`Self::find`] reads, or would if there were one.
    pub fn used(&self) -> PathBuf {
        let credential = self.credential.iter().filter(|path| path.exists());
        self.told.iter().chain(credential).next().unwrap_or(&self.own).clone()
    }

    /// Where the secret lies that is to follow: beside the one that is used, or where there is none, in a credential.
    pub fn next(&self) -> PathBuf {
        let next = |of: &Path| {
            let mut path = of.as_os_str().to_owned();
            path.push(".next");
            PathBuf::from(path)
        };
        let beside = next(&self.used());
        let given = self.credential.as_deref().map(next);
        given.filter(|given| given.exists() && !beside.exists()).unwrap_or(beside)
    }

    /// The one that is to follow takes the place of the one that is used.
    ///
    /// # Errors
    /// Where the files are not the agent's to move, as systemd's credentials are not.
    pub(super) fn succeed(&self) -> Result<(), SecretError> {
        let (next, used) = (self.next(), self.used());
        if next.parent() == used.parent() {
            return rename(&next, &used);
        }
        // A credential stays where it is, and says from now on what is used anyway.
        match read(&next)? {
            Some(secret) => write_private(&used, secret.text().as_bytes()),
            None => Ok(()),
        }
    }

    /// Where a secret goes that this host makes or is given.
    pub fn own(&self) -> &Path {
        &self.own
    }

    /// Where one lies that was made for a new cluster, until the cluster has taken it.
    pub fn proposed(&self) -> PathBuf {
        self.own.with_extension("proposed")
    }
}

/// The secret in a file; `None` where there is no file.
///
/// # Errors
/// Where it cannot be read, is none, or is open to others.
pub fn read(path: &Path) -> Result<Option<ClusterSecret>, SecretError> {
    let failed = |source| SecretError::File { action: "read", path: path.to_owned(), source };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    if file.metadata().map_err(failed)?.permissions().mode() & 0o077 != 0 {
        return Err(SecretError::Open { path: path.to_owned() });
    }
    let mut text = Zeroizing::new(String::with_capacity(256));
    Read::by_ref(&mut file).take(200).read_to_string(&mut text).map_err(failed)?;
    ClusterSecret::parse(&text).map(Some).ok_or_else(|| SecretError::Content { path: path.to_owned() })
}

/// `bytes` at `path`, for root alone: whole or not at all, and there after a power loss.
///
/// # Errors
/// Where it cannot be written.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), SecretError> {
    let beside = path.with_extension("new");
    let failed = |action| move |source| SecretError::File { action, path: path.to_owned(), source };
    // One that was left behind could be open to others.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("replace")(error)),
        _ => {}
    }
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside).map_err(failed("create"))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed("write"))?;
    rename(&beside, path)
}

/// Moves a file to its place, for good.
///
/// # Errors
/// Where that fails.
pub fn rename(from: &Path, to: &Path) -> Result<(), SecretError> {
    let failed = |source| SecretError::File { action: "replace", path: to.to_owned(), source };
    fs::rename(from, to).map_err(failed)?;
    to.parent().map_or(Ok(()), |directory| File::open(directory).and_then(|it| it.sync_all()).map_err(failed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> ClusterSecret {
        ClusterSecret::generate(&Environment::system().unwrap())
    }

    #[test]
    fn text_and_back() {
        let one = secret();
        assert_eq!(one.text().len(), 64);
        assert_eq!(ClusterSecret::parse(&format!("{}\n", one.text().as_str())), Some(one.clone()));
        assert_ne!(one, secret());
        for text in ["", "abc", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert!(ClusterSecret::parse(text).is_none(), "{text}");
        }
        assert!(!format!("{one:?}").contains(&one.text()[..8]));
    }

    #[test]
    fn a_key_for_each_purpose() {
        let one = secret();
        assert_eq!(one.derive("a", b"x"), one.derive("a", b"x"));
        assert_ne!(one.derive("a", b"x"), one.derive("b", b"x"));
        assert_ne!(one.derive("a", b"x"), one.derive("a", b"y"));
        assert_ne!(one.derive("a", b"x"), secret().derive("a", b"x"));
    }

    /// RFC 5869, worked out by another implementation (Python's hmac).
    #[test]
    fn as_others_derive() {
        let secret = ClusterSecret::parse(&"0b".repeat(32)).unwrap();
        assert_eq!(
            hex(secret.derive("stampede-authority-1", b"c").as_slice()),
            "4f0b503f1318e2fe422a40c217b32bbb9d0d8175941c87c957db4e07cdb73757"
        );
    }

    #[test]
    fn files_are_for_their_owner_alone() {
        let state = tempfile::tempdir().unwrap();
        let place = SecretPlace::new(None, None, state.path());
        assert_eq!(place.find().unwrap(), None);
        let one = secret();
        write_private(place.own(), one.text().as_bytes()).unwrap();
        assert_eq!(fs::metadata(place.own()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(place.find().unwrap(), Some(one));
        fs::set_permissions(place.own(), fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(place.find(), Err(SecretError::Open { .. })));
        write_private(place.own(), b"rubbish").unwrap();
        assert!(matches!(place.find(), Err(SecretError::Content { .. })));
        let told = SecretPlace::new(Some(state.path().join("told")), None, state.path());
        assert!(matches!(told.find(), Err(SecretError::Missing { .. })));
    }

    #[test]
    fn the_next_lies_beside_the_one_in_use() {
        let (state, credentials) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = SecretPlace::new(None, Some(credentials.path().to_owned()), state.path());
        assert_eq!(place.next(), state.path().join("secret.next"));
        let given = credentials.path().join("stampede.secret.next");
        let (own, new) = (secret(), secret());
        write_private(place.own(), own.text().as_bytes()).unwrap();
        write_private(&given, new.text().as_bytes()).unwrap();
        assert_eq!(place.next(), given, "a file's successor may come as a credential");
        place.succeed().unwrap();
        assert_eq!((place.find().unwrap(), given.exists()), (Some(new), true));
        fs::remove_file(&given).unwrap();
        write_private(&credentials.path().join(CREDENTIAL), secret().text().as_bytes()).unwrap();
        assert_eq!(place.next(), credentials.path().join("stampede.secret.next"));
        let told = SecretPlace::new(Some("/etc/stampede/secret.hex".into()), None, state.path());
        assert_eq!(told.next(), Path::new("/etc/stampede/secret.hex.next"));
    }

    #[test]
    fn a_credential_comes_before_the_state_directory() {
        let (state, credentials) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let place = SecretPlace::new(None, Some(credentials.path().to_owned()), state.path());
        let (own, given) = (secret(), secret());
        write_private(place.own(), own.text().as_bytes()).unwrap();
        assert_eq!(place.find().unwrap(), Some(own));
        write_private(&credentials.path().join(CREDENTIAL), given.text().as_bytes()).unwrap();
        assert_eq!(place.find().unwrap(), Some(given));
    }
}
