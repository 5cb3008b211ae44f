//! The loop that keeps this host's certificate and its TLS as they should be.

use super::authority::{Authorities, Authority};
use super::certificate::{NodeCertificate, Subject};
use super::keyring::Held;
use super::secret::{self, ClusterSecret};
use super::tls::{Tls, roots};
use super::{Names, Opened, Trust, TrustError};
use crate::environment::Environment;
use crate::store::mirror::Mirror;
use crate::store::{self, Operation, Transaction, key};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

/// How often is looked whether something is due.
const LOOK: Duration = Duration::from_secs(60);
/// A turn that failed is tried again sooner.
const AGAIN: Duration = Duration::from_secs(5);
/// For the record to be heard of, before the last known one has to do.
const HEARING: Duration = Duration::from_secs(5);

/// What there was when this agent last ran: its certificate, and whom it trusted.
pub(super) fn last_known(own: &NodeCertificate, state: &Path, environment: &Environment) -> Option<Tls> {
    let text = std::fs::read(state.join("ca.pem")).ok()?;
    let trusted = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().ok()?;
    Tls::new(own, roots(trusted).ok()?, environment).ok()
}

/// What the loop holds from turn to turn.
struct Turn {
    record: Mirror<Authorities>,
    cluster: String,
    host: String,
    identity: String,
    names: Names,
    own: Option<NodeCertificate>,
    /// What TLS was last made from.
    trusted: String,
}

impl Trust {
    /// Makes secret and authority where the cluster has none, then keeps this host's certificate; never ends. To be called
    /// when this host is in the cluster: one that is refused makes nothing.
    pub async fn keep(self, cluster: String, host: String, identity: String, names: Names) {
        let shared = &self.shared;
        let record = Mirror::start(shared.store.clone(), &shared.environment, key::authority());
        let mut changes = record.changes();
        let own = NodeCertificate::load(&shared.settings.state);
        let mut turn = Turn { record, cluster, host, identity, names, own, trusted: String::new() };
        let mut told = String::new();
        let mut held = shared.settings.keys.watch();
        loop {
            held.mark_unchanged();
            let wait = match self.turn(&mut turn).await {
                Ok(()) => {
                    told.clear();
                    // Also: not later than an authority takes over.
                    shared.environment.jitter(LOOK.min(shared.settings.lifetime / 20).max(Duration::from_secs(1)))
                }
                Err(error) => {
                    let text = error.to_string();
                    if text != told {
                        tracing::warn!(error = text, "who is who cannot be settled");
                        told = text;
                    }
                    match error {
                        TrustError::Store(_) => shared.environment.jitter(AGAIN),
                        _ => shared.environment.jitter(LOOK),
                    }
                }
            };
            tokio::select! {
                _ = changes.next() => {}
                // The keyring is ours, so that this ends never.
                _ = held.changed() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn turn(&self, turn: &mut Turn) -> Result<(), TrustError> {
        let shared = &self.shared;
        let now = shared.environment.clock.now();
        let known = match turn.record.listed(HEARING).await {
            true => turn.record.get("").map(|item| item.value.as_ref().clone()),
            // The store is away: the last record known has to do.
            false => Some(last_record(&shared.settings.state).ok_or(TrustError::NotOpen)?),
        };
        let (held, record) = match known {
            Some(record) => (self.held_for(&record, &turn.cluster)?, record),
            None => self.found(&turn.cluster).await?,
        };
        let (authorities, moved) = record.under(&shared.environment, &turn.cluster, &held)?;
        if moved && held.changing {
            self.reseal(&turn.cluster, &held).await?;
        }
        self.remember(&record)?;
        let opened = Opened { cluster: turn.cluster.clone(), held, authorities, as_stored: record.clone() };
        let opened = Arc::new(opened);
        *shared.opened.write().unwrap_or_else(PoisonError::into_inner) = Some(opened.clone());

        let subject = Subject { host: turn.host.clone(), identity: turn.identity.clone(), names: (turn.names.0)() };
        let reason =
            turn.own.as_ref().map_or(Some("there is none"), |own| own.outdated(&opened.authorities, &subject, now));
        let mut changed = false;
        if let (Some(reason), Some(signer)) = (reason, opened.authorities.signer(now)) {
            let lifetime = shared.settings.lifetime;
            let own = NodeCertificate::issue(signer, &opened.cluster, opened.secret(), &subject, now, lifetime)?;
            own.save(&shared.settings.state)?;
            tracing::info!(
                reason,
                serial = super::certificate::serial(&own),
                until = own.not_after.0,
                "a new certificate"
            );
            turn.own = Some(own);
            changed = true;
        }
        let trusted: String = opened.authorities.trusted(now).iter().map(|it| it.certificate.as_str()).collect();
        if let Some(own) = &turn.own
            && (changed || trusted != turn.trusted)
        {
            secret::write_private(&shared.settings.state.join("ca.pem"), trusted.as_bytes())?;
            let certificates =
                CertificateDer::pem_slice_iter(trusted.as_bytes()).filter_map(Result::ok).collect::<Vec<_>>();
            let tls = Tls::new(own, roots(certificates)?, &shared.environment)?;
            shared.tls.send_replace(Some(Arc::new(tls)));
            turn.trusted = trusted;
        }
        self.sweep(&record).await;
        Ok(())
    }

    /// This host's secrets, one of which has to open `record`.
    fn held_for(&self, record: &Authorities, cluster: &str) -> Result<Held, TrustError> {
        let keys = &self.shared.settings.keys;
        if let Some(held) = keys.look()? {
            return Ok(held);
        }
        let place = keys.place();
        // An agent that made the cluster's may have been cut off before it had it in its place.
        match secret::read(&place.proposed())? {
            Some(secret) if record.opened(cluster, &secret).is_ok() => {
                secret::rename(&place.proposed(), place.own())?;
                keys.look()?.ok_or_else(|| TrustError::NoSecret { path: place.own().to_owned() })
            }
            _ => Err(TrustError::NoSecret { path: place.own().to_owned() }),
        }
    }

    /// Makes the cluster's authority, and the secret where this host was given none. Of agents that do so at once one is
    /// first, and what the others made is forgotten.
    async fn found(&self, cluster: &str) -> Result<(Held, Authorities), TrustError> {
        let shared = &self.shared;
        let place = shared.settings.keys.place();
        let secret = match (place.find()?, secret::read(&place.proposed())?) {
            (Some(secret), _) | (None, Some(secret)) => secret,
            (None, None) => {
                let secret = ClusterSecret::generate(&shared.environment);
                secret::write_private(&place.proposed(), secret.text().as_bytes())?;
                secret
            }
        };
        let authority = Authority::generate(&shared.environment, cluster, &secret)?;
        let record = Authorities { authorities: vec![authority], ..Authorities::default() };
        let at = key::authority();
        let put = Operation::put(&at, store::encode(&at, &record)?);
        let first = shared.store.commit(Transaction::new().absent(&at).then(put)).await?.succeeded;
        let record = match (first, self.record().await?) {
            (true, _) => {
                tracing::info!(cluster, "the cluster has a certificate authority now");
                record
            }
            (false, Some((_, record))) => record,
            (false, None) => return Err(TrustError::NotOpen),
        };
        // Takes what was proposed to its place, if that is what the cluster took.
        Ok((self.held_for(&record, cluster)?, record))
    }

    /// Has the store hold the authorities' keys under the secret that is in use by now. Whoever is first does it for all.
    async fn reseal(&self, cluster: &str, held: &Held) -> Result<(), TrustError> {
        let Some((entry, record)) = self.record().await? else { return Ok(()) };
        let (next, moved) = record.under(&self.shared.environment, cluster, held)?;
        if moved && self.replace(&entry, &next).await? {
            tracing::info!("the authority's keys are sealed with the new secret");
        }
        Ok(())
    }

    /// The record as last seen, for the time when nobody can be asked. Its keys are sealed here as well.
    fn remember(&self, authorities: &Authorities) -> Result<(), TrustError> {
        let state = &self.shared.settings.state;
        if last_record(state).as_ref() == Some(authorities) {
            return Ok(());
        }
        let bytes = store::encode(&key::authority(), authorities)?;
        Ok(secret::write_private(&state.join("authority.json"), &bytes)?)
    }

    /// Takes out of the store what nobody trusts any more.
    async fn sweep(&self, seen: &Authorities) {
        let now = self.shared.environment.clock.now();
        if seen.swept(now) == *seen {
            return;
        }
        // Looked at anew: another agent may have done it.
        let swept = async {
            let Some((entry, record)) = self.record().await? else { return Ok(false) };
            let next = record.swept(now);
            Ok::<_, store::Error>(next != record && self.replace(&entry, &next).await?)
        };
        match swept.await {
            Ok(true) => tracing::info!("an old authority is forgotten"),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "an old authority could not be taken out"),
        }
    }
}

fn last_record(state: &Path) -> Option<Authorities> {
    serde_json::from_slice(&std::fs::read(state.join("authority.json")).ok()?).ok()
}
