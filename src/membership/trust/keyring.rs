//! The cluster secrets that this host has, and which of them is in use.
//!
//! There is one, but while it is changed there are two: beside the file `secret` lies `secret.next`. Every host says in its
//! record which it has, by their names, the one in use first; who reads etcd learns nothing of a secret from its name.
//!
//! ```text
//! secret.next is put on one host after the other │ the last one has it: all use it │ a quarter of an hour later
//! both are accepted, the old one is used         │ both are accepted               │ secret.next becomes secret
//! ```
//! Which one is in use follows from the files and the records alone, so that an agent that starts in the middle goes on with it.

use super::Trust;
use super::secret::{self, ClusterSecret, SecretError, SecretPlace};
use crate::membership::record::SecretNames;
use crate::store::key;
use crate::store::mirror::Mirror;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// The files are read this often.
const LOOK: Duration = Duration::from_secs(60);
/// The old secret is good this long after the last host began to use the new one: longer than an old half of a key lives.
const SETTLED: Duration = Duration::from_secs(15 * 60);

/// Of a host's record what it says of its secrets; of thousands of hosts, the rest is not held.
#[derive(Debug, Deserialize)]
struct Holder {
    #[serde(default)]
    secrets: Option<SecretNames>,
}

/// What those hosts say that they have that have any.
pub type Said = BTreeMap<String, SecretNames>;

/// How far a change is, in words; `None` where there is none under way.
pub fn progress(said: &Said) -> Option<String> {
    let those = |has: &dyn Fn(&SecretNames) -> bool| {
        said.iter().filter(|(_, names)| has(names)).map(|(host, _)| host.as_str()).collect::<Vec<_>>().join(", ")
    };
    let coming: BTreeSet<&String> = said.values().filter_map(|names| names.next.as_ref()).collect();
    let Some(next) = coming.first() else {
        let before = said.values().any(|names| names.before.is_some());
        return before
            .then(|| "the secret was changed; the old one is accepted for a quarter of an hour more".to_owned());
    };
    if coming.len() > 1 {
        return Some(format!("{} different secrets are to follow: bring one and the same to all hosts", coming.len()));
    }
    let lacking = those(&|names| !names.has(next));
    Some(match lacking.is_empty() {
        false => {
            format!("the secret {next} is to follow; it is not on {lacking} yet: stampede secret next --file … there")
        }
        true => format!("all hosts have the secret {next} and change over"),
    })
}

impl SecretNames {
    fn has(&self, name: &str) -> bool {
        [Some(&self.used), self.next.as_ref(), self.before.as_ref()].into_iter().flatten().any(|known| known == name)
    }
}

/// The secrets of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// What is made is made with this one.
    pub current: ClusterSecret,
    /// What was made with this one is good too.
    pub other: Option<ClusterSecret>,
    /// A change is under way, and `current` is the secret to come.
    pub changing: bool,
}

impl Held {
    /// Which one is in use: the next as soon as all hosts that have a secret have it.
    pub fn decide(found: ClusterSecret, next: Option<ClusterSecret>, said: &Said) -> Self {
        let Some(next) = next.filter(|next| *next != found) else {
            return Self { current: found, other: None, changing: false };
        };
        let name = next.name();
        let all = !said.is_empty() && said.values().all(|names| names.has(&name));
        let (current, other) = if all { (next, found) } else { (found, next) };
        Self { current, other: Some(other), changing: all }
    }

    /// Their names.
    pub fn names(&self) -> SecretNames {
        let other = self.other.as_ref().map(ClusterSecret::name);
        let (next, before) = if self.changing { (None, other) } else { (other, None) };
        SecretNames { used: self.current.name(), next, before }
    }

    /// Whether a change is so far that every host uses the new one.
    pub fn is_used_by_all(&self, said: &Said) -> bool {
        let name = self.current.name();
        self.changing && said.values().all(|names| names.used == name)
    }

    /// The one in the file, and the one that is to follow it.
    pub fn in_files(&self) -> (&ClusterSecret, Option<&ClusterSecret>) {
        match (&self.other, self.changing) {
            (Some(before), true) => (before, Some(&self.current)),
            (next, _) => (&self.current, next.as_ref()),
        }
    }

    /// All of them, the one in use first.
    pub fn all(&self) -> impl Iterator<Item = &ClusterSecret> {
        [&self.current].into_iter().chain(&self.other)
    }
}

/// See the module's text. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keyring(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    place: SecretPlace,
    said: Mutex<Said>,
    /// What is wrong with the next secret's file, as it was said.
    told: Mutex<String>,
    held: watch::Sender<Option<Held>>,
}

impl Keyring {
    /// Of the secrets at `place`; nothing is read yet.
    pub fn new(place: SecretPlace) -> Self {
        let (said, told) = (Mutex::default(), Mutex::default());
        Self(Arc::new(Inner { place, said, told, held: watch::Sender::new(None) }))
    }

    pub fn place(&self) -> &SecretPlace {
        &self.0.place
    }

    /// Reads the files anew. A next one that is no good is told of in the log and changes nothing.
    ///
    /// # Errors
    /// Where the secret itself is no good; what was held is held on.
    pub fn look(&self) -> Result<Option<Held>, SecretError> {
        let held = match (self.0.place.find()?, self.next()) {
            (None, _) => None,
            (Some(_), Err(())) if self.held().is_some_and(|held| held.other.is_some()) => self.held(),
            (Some(found), next) => {
                let said = self.0.said.lock().unwrap_or_else(PoisonError::into_inner);
                Some(Held::decide(found, next.unwrap_or_default(), &said))
            }
        };
        self.0.held.send_if_modified(|now| {
            let changed = *now != held;
            if let (true, Some(held)) = (changed && held.as_ref().is_some_and(|held| held.other.is_some()), &held) {
                let [used, accepted] =
                    [&held.current, held.other.as_ref().unwrap_or(&held.current)].map(ClusterSecret::name);
                tracing::info!(used, accepted, "the cluster's secret is being changed");
            }
            now.clone_from(&held);
            changed
        });
        Ok(held)
    }

    /// The secret that is to follow; what is wrong with its file is said once.
    fn next(&self) -> Result<Option<ClusterSecret>, ()> {
        let next = secret::read(&self.0.place.next());
        let wrong = next.as_ref().err().map(ToString::to_string).unwrap_or_default();
        let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong != *told {
            if !wrong.is_empty() {
                tracing::error!(
                    error = wrong,
                    "the cluster's next secret cannot be used here, so that it is not changed"
                );
            }
            *told = wrong;
        }
        next.map_err(drop)
    }

    /// What all hosts say that they have, as of now.
    ///
    /// # Errors
    /// As [`Self::look`].
    pub fn heard(&self, said: Said) -> Result<Option<Held>, SecretError> {
        *self.0.said.lock().unwrap_or_else(PoisonError::into_inner) = said;
        self.look()
    }

    /// What is held, and each change of it.
    pub fn watch(&self) -> watch::Receiver<Option<Held>> {
        self.0.held.subscribe()
    }

    /// What is held.
    pub fn held(&self) -> Option<Held> {
        self.0.held.borrow().clone()
    }

    /// The change is over: the next secret takes the place of the one before, which is gone.
    ///
    /// # Errors
    /// Where the files are not the agent's to move, as systemd's credentials are not.
    pub fn settle(&self) -> Result<(), SecretError> {
        self.0.place.succeed()?;
        tracing::info!("the cluster's secret was changed; the old one is gone");
        self.look().map(drop)
    }
}

impl Trust {
    /// Follows what the hosts say of their secrets, and settles a change that is over; never ends.
    pub async fn follow_secrets(self) {
        let (store, environment) = (self.shared.store.clone(), &self.shared.environment);
        let hosts: Mirror<Holder> = Mirror::start(store, environment, key::hosts());
        let keys = &self.shared.settings.keys;
        let (clock, environment) = (&self.shared.environment.clock, &self.shared.environment);
        let mut changes = hosts.changes();
        let (mut used_since, mut told) = (None, String::new());
        loop {
            let said: Said = hosts
                .view()
                .iter()
                .filter_map(|(host, item)| Some((host.clone(), item.value.secrets.clone()?)))
                .collect();
            let mut result = keys.heard(said.clone());
            if let Ok(Some(held)) = &result
                && held.is_used_by_all(&said)
                && hosts.freshness().stale_since.is_none()
            {
                let since = *used_since.get_or_insert_with(|| clock.boottime());
                if clock.boottime().saturating_sub(since) >= SETTLED && self.is_sealed_with(&held.current) {
                    result = keys.settle().and_then(|()| keys.look());
                }
            } else {
                used_since = None;
            }
            let problem = result.err().map(|error| error.to_string()).unwrap_or_default();
            if problem != told {
                tracing::warn!(error = problem, "the cluster's secrets here");
                told = problem;
            }
            tokio::select! {
                _ = changes.next() => {}
                () = tokio::time::sleep(environment.jitter(LOOK)) => {}
            }
        }
    }

    /// Whether the store's authorities are under that secret.
    fn is_sealed_with(&self, secret: &ClusterSecret) -> bool {
        self.opened().is_ok_and(|opened| {
            opened.as_stored.authorities.iter().all(|authority| authority.key(&opened.cluster, secret).is_ok())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;

    fn secret() -> ClusterSecret {
        ClusterSecret::generate(&Environment::system().unwrap())
    }

    fn has(used: &ClusterSecret, next: Option<&ClusterSecret>, before: Option<&ClusterSecret>) -> SecretNames {
        let name = |secret: Option<&ClusterSecret>| secret.map(ClusterSecret::name);
        SecretNames { used: used.name(), next: name(next), before: name(before) }
    }

    fn said(all: &[SecretNames]) -> Said {
        all.iter().enumerate().map(|(number, names)| (format!("h{}", number + 1), names.clone())).collect()
    }

    #[test]
    fn the_next_is_used_when_the_last_host_has_it() {
        let (old, new) = (secret(), secret());
        let decide = |all: &[SecretNames]| {
            let held = Held::decide(old.clone(), Some(new.clone()), &said(all));
            assert_eq!(held.all().count(), 2);
            assert_eq!(held.changing, held.current == new);
            held.changing
        };
        let (both, used) = (has(&old, Some(&new), None), has(&new, None, Some(&old)));
        assert!(!decide(&[]), "nothing is known of the others");
        assert!(!decide(&[both.clone(), has(&old, None, None)]));
        assert!(decide(&[both.clone(), both]));
        assert!(decide(&[used, has(&new, None, None)]), "one has settled it already");
        let same = Held::decide(old.clone(), Some(old.clone()), &said(&[has(&old, None, None)]));
        assert_eq!(same.other, None);
    }

    #[test]
    fn how_far_it_is_is_told() {
        let (old, new, third) = (secret(), secret(), secret());
        let told = |all: &[SecretNames]| progress(&said(all)).unwrap_or_default();
        let (one, both, used) = (has(&old, None, None), has(&old, Some(&new), None), has(&new, None, Some(&old)));
        assert_eq!(told(&[one.clone(), one.clone()]), "");
        assert!(told(&[both.clone(), one]).contains("not on h2 yet"));
        assert!(told(&[used.clone(), both.clone()]).contains("change over"));
        assert!(told(&[used.clone(), used.clone()]).contains("was changed"));
        assert!(told(&[has(&new, None, None), used]).contains("was changed"));
        assert!(told(&[both, has(&old, Some(&third), None)]).contains("2 different"));
    }

    fn write_next(ring: &Keyring, next: &ClusterSecret) {
        secret::write_private(&ring.place().next(), next.text().as_bytes()).unwrap();
    }

    #[test]
    fn files_are_read_and_settled() {
        let state = tempfile::tempdir().unwrap();
        let ring = Keyring::new(SecretPlace::new(None, None, state.path()));
        assert_eq!(ring.look().unwrap(), None);
        let (old, new) = (secret(), secret());
        let mut changes = ring.watch();
        secret::write_private(ring.place().own(), old.text().as_bytes()).unwrap();
        assert_eq!(ring.look().unwrap().unwrap().names(), has(&old, None, None));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        ring.look().unwrap();
        assert!(!changes.has_changed().unwrap());

        write_next(&ring, &new);
        assert_eq!(ring.look().unwrap().unwrap().names(), has(&old, Some(&new), None));
        let held = ring.heard(said(&[has(&old, Some(&new), None)])).unwrap().unwrap();
        assert_eq!((held.names(), held.changing), (has(&new, None, Some(&old)), true));
        ring.settle().unwrap();
        assert_eq!(ring.held().unwrap(), Held { current: new.clone(), other: None, changing: false });
        assert!(!ring.place().next().exists());

        secret::write_private(&ring.place().next(), b"rubbish").unwrap();
        assert_eq!(ring.look().unwrap().unwrap(), ring.held().unwrap());
        assert_eq!(ring.held().unwrap(), Held { current: new.clone(), other: None, changing: false });
        // While it is being changed, what is held is held on.
        write_next(&ring, &old);
        let changing = ring.look().unwrap();
        assert_eq!(changing.as_ref().unwrap().all().count(), 2);
        secret::write_private(&ring.place().next(), b"rubbish").unwrap();
        assert_eq!(ring.look().unwrap(), changing);
        secret::write_private(ring.place().own(), b"rubbish").unwrap();
        assert!(ring.look().is_err());
        assert_eq!(ring.held(), changing);
    }
}
