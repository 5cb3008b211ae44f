//! The cluster's certificate authority, at `authority`: its certificates plainly, their keys sealed with the cluster secret.
//!
//! Every host has the secret, so every agent can sign, and none has to be asked. Who reads etcd learns no key. Each entry is sealed
//! over its certificate: who writes to etcd without the secret cannot put in an authority of his own.
//!
//! ```text
//! rotate:   old signs, new is trusted │ new signs, old is trusted │ old is forgotten
//!           created                   │ signs_from              │ trusted_until
//! ```
//! Which entry signs and which are trusted follows from the record and the time alone ([`Authorities::signer`]).

use super::keyring::Held;
use super::secret::{ClusterSecret, hex};
use crate::environment::{Environment, Timestamp};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::time::Duration;
use zeroize::Zeroizing;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// An authority's own certificate.
const LIFETIME: Duration = DAY.saturating_mul(3650);
/// Certificates begin this long before they are made: clocks differ.
pub const BACKDATED: Duration = DAY;
/// A new authority does not sign before every agent had this time to hear of it.
pub const HEARD: Duration = Duration::from_secs(600);
/// How long an old authority is trusted after another came; longer than a host's certificate lives.
pub const OVERLAP: Duration = DAY.saturating_mul(8);

/// What is wrong with the authority.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error(
        "this host's cluster secret is not the one that the cluster's authority is sealed with: copy the file `secret` from \
         a host of the cluster, or remove it here and join with a token (`stampede token create` there)"
    )]
    WrongSecret,
    #[error("the authority's record in the store cannot be read: {0}")]
    Record(String),
    #[error("the certificate cannot be an authority: {0}")]
    Unfit(String),
    #[error("a certificate could not be made: {0}")]
    Making(#[from] rcgen::Error),
}

/// The record at `authority`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authorities {
    pub authorities: Vec<Authority>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Authority {
    /// PEM.
    pub certificate: String,
    /// The key in PKCS #8, sealed: Base64 of nonce and ciphertext.
    pub sealed_key: String,
    pub created: Timestamp,
    pub signs_from: Timestamp,
    /// Set when another one came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trusted_until: Option<Timestamp>,
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Authorities {
    /// The one that signs at `now`: the newest whose time has come. A clock that is far off still finds one.
    pub fn signer(&self, now: Timestamp) -> Option<&Authority> {
        let begun = self.authorities.iter().filter(|it| it.signs_from <= now).max_by_key(|it| it.signs_from);
        begun.or_else(|| self.authorities.iter().min_by_key(|it| it.signs_from))
    }

    /// Those whose certificates are good at `now`; the one that signs is always among them.
    pub fn trusted(&self, now: Timestamp) -> Vec<&Authority> {
        let signer = self.signer(now);
        let good = |it: &&Authority| it.trusted_until.is_none_or(|until| until > now) || signer == Some(*it);
        self.authorities.iter().filter(good).collect()
    }

    /// Without what nobody trusts any more.
    #[must_use]
    pub fn swept(&self, now: Timestamp) -> Self {
        Self { authorities: self.trusted(now).into_iter().cloned().collect(), other: self.other.clone() }
    }

    /// With `new` to take over. It signs after [`HEARD`], or half of `overlap` where that is shorter; the others are trusted for
    /// `overlap` from now.
    #[must_use]
    pub fn rotated(&self, mut new: Authority, overlap: Duration, now: Timestamp) -> Self {
        let mut next = self.swept(now);
        new.created = now;
        new.signs_from = now.after(HEARD.min(overlap / 2));
        new.trusted_until = None;
        let until = now.after(overlap);
        for old in &mut next.authorities {
            old.trusted_until = Some(old.trusted_until.map_or(until, |before| before.min(until)));
        }
        next.authorities.push(new);
        next
    }

    /// Those that were made with `secret`. One that was not is not trusted, and said.
    ///
    /// # Errors
    /// Where none was: then it is the secret that is wrong.
    pub fn opened(&self, cluster: &str, secret: &ClusterSecret) -> Result<Self, AuthorityError> {
        let mut good = Self { authorities: Vec::new(), other: self.other.clone() };
        for authority in &self.authorities {
            match authority.key(cluster, secret) {
                Ok(_) => good.authorities.push(authority.clone()),
                Err(error) => tracing::error!(
                    %error, created = authority.created.0,
                    "an authority in the store was not made with the cluster's secret; it is not trusted"
                ),
            }
        }
        if good.authorities.is_empty() { Err(AuthorityError::WrongSecret) } else { Ok(good) }
    }

    /// Those that were made with a secret that is held, all of them under the one in use; and whether any was under the other.
    ///
    /// # Errors
    /// As [`Self::opened`].
    pub fn under(&self, environment: &Environment, cluster: &str, held: &Held) -> Result<(Self, bool), AuthorityError> {
        let (mut next, mut moved) = (self.clone(), false);
        if let Some(other) = &held.other {
            for authority in &mut next.authorities {
                if authority.key(cluster, &held.current).is_err()
                    && let Ok(key) = authority.key(cluster, other)
                {
                    *authority = authority.resealed(environment, cluster, &held.current, &key)?;
                    moved = true;
                }
            }
        }
        Ok((next.opened(cluster, &held.current)?, moved))
    }
}

impl Authority {
    /// A new one, good from now on.
    ///
    /// # Errors
    /// Where the certificate cannot be made.
    pub fn generate(environment: &Environment, cluster: &str, secret: &ClusterSecret) -> Result<Self, AuthorityError> {
        let now = environment.clock.now();
        // The library draws keys from the operating system itself; no simulation makes certificates.
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        let name = format!("Stampede {} {}", &cluster[..cluster.len().min(8)], now.0 / 1000);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = moment(Timestamp(now.0.saturating_sub(millis(BACKDATED))))?;
        params.not_after = moment(now.after(LIFETIME))?;
        let certificate = params.self_signed(&key)?.pem();
        Self::sealed(environment, cluster, secret, certificate, &Zeroizing::new(key.serialize_der()))
    }

    /// An authority of the operator's own: PEM of its certificate and of its key (PKCS #8).
    ///
    /// # Errors
    /// Where they do not belong together, or cannot sign hosts' certificates.
    pub fn import(
        environment: &Environment,
        cluster: &str,
        secret: &ClusterSecret,
        certificate: &str,
        key: &str,
    ) -> Result<Self, AuthorityError> {
        let unfit = |why: &str| AuthorityError::Unfit(why.to_owned());
        let der = CertificateDer::from_pem_slice(certificate.as_bytes())
            .map_err(|_| unfit("there is no certificate in the file (PEM)"))?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).map_err(|_| unfit("it cannot be read"))?;
        let key = KeyPair::from_pem(key)
            .map_err(|_| unfit("its key is none of PKCS #8 in PEM with ECDSA (P-256, P-384), Ed25519 or RSA"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(unfit("certificate and key do not belong together"));
        }
        if !parsed.is_ca() {
            return Err(unfit("it is a host's or a person's (basicConstraints has no CA:TRUE)"));
        }
        if let Ok(Some(usage)) = parsed.key_usage()
            && !usage.value.key_cert_sign()
        {
            return Err(unfit("its key usage has no certificate signing (keyCertSign)"));
        }
        let now = environment.clock.now();
        if parsed.validity().not_after.timestamp() < now.after(OVERLAP).0 / 1000 {
            return Err(unfit("it ends within days"));
        }
        // Only the certificate itself, however much there was in the file.
        let certificate = pem(&der);
        Self::sealed(environment, cluster, secret, certificate, &Zeroizing::new(key.serialize_der()))
    }

    fn sealed(
        environment: &Environment,
        cluster: &str,
        secret: &ClusterSecret,
        certificate: String,
        key: &[u8],
    ) -> Result<Self, AuthorityError> {
        let now = environment.clock.now();
        let mut authority = Self {
            certificate,
            sealed_key: String::new(),
            created: now,
            signs_from: now,
            trusted_until: None,
            other: Map::new(),
        };
        let mut nonce = [0; NONCE_LEN];
        environment.random.fill(&mut nonce);
        let mut sealed = Zeroizing::new(key.to_vec());
        let failed = || AuthorityError::Record("its key cannot be sealed".into());
        let aad = Aad::from(authority.bound_to(cluster)?);
        sealing_key(cluster, secret)
            .ok_or_else(failed)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut *sealed)
            .map_err(|_| failed())?;
        authority.sealed_key = BASE64.encode([nonce.as_slice(), sealed.as_slice()].concat());
        Ok(authority)
    }

    /// The same with its key under `secret`.
    fn resealed(
        &self,
        environment: &Environment,
        cluster: &str,
        secret: &ClusterSecret,
        key: &[u8],
    ) -> Result<Self, AuthorityError> {
        let sealed = Self::sealed(environment, cluster, secret, self.certificate.clone(), key)?;
        Ok(Self { sealed_key: sealed.sealed_key, ..self.clone() })
    }

    /// Its key.
    ///
    /// # Errors
    /// [`AuthorityError::WrongSecret`] where it was not sealed for this cluster and certificate with `secret`.
    pub fn key(&self, cluster: &str, secret: &ClusterSecret) -> Result<Zeroizing<Vec<u8>>, AuthorityError> {
        let bytes =
            BASE64.decode(&self.sealed_key).map_err(|_| AuthorityError::Record("a sealed key is no Base64".into()))?;
        let Some((nonce, sealed)) = bytes.split_at_checked(NONCE_LEN) else {
            return Err(AuthorityError::Record("a sealed key is cut off".into()));
        };
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| AuthorityError::WrongSecret)?;
        let mut buffer = Zeroizing::new(sealed.to_vec());
        let aad = Aad::from(self.bound_to(cluster)?);
        let length = sealing_key(cluster, secret)
            .and_then(|key| key.open_in_place(nonce, aad, &mut buffer).ok().map(|plain| plain.len()))
            .ok_or(AuthorityError::WrongSecret)?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Able to sign.
    ///
    /// # Errors
    /// As [`Self::key`].
    pub fn issuer(&self, cluster: &str, secret: &ClusterSecret) -> Result<Issuer<'static, KeyPair>, AuthorityError> {
        let key = self.key(cluster, secret)?;
        let key = KeyPair::try_from(key.as_slice())?;
        Ok(Issuer::from_ca_cert_der(&self.der()?, key)?)
    }

    /// # Errors
    /// Where the record holds no certificate.
    pub fn der(&self) -> Result<CertificateDer<'static>, AuthorityError> {
        CertificateDer::from_pem_slice(self.certificate.as_bytes())
            .map_err(|error| AuthorityError::Record(error.to_string()))
    }

    /// SHA-256 of the certificate: what a join token pins.
    ///
    /// # Errors
    /// As [`Self::der`].
    pub fn fingerprint(&self) -> Result<[u8; 32], AuthorityError> {
        Ok(fingerprint(&self.der()?))
    }

    fn bound_to(&self, cluster: &str) -> Result<Vec<u8>, AuthorityError> {
        Ok([cluster.as_bytes(), &self.fingerprint()?].concat())
    }
}

fn sealing_key(cluster: &str, secret: &ClusterSecret) -> Option<LessSafeKey> {
    let key = secret.derive("stampede-authority-1", cluster.as_bytes());
    UnboundKey::new(&CHACHA20_POLY1305, key.as_slice()).ok().map(LessSafeKey::new)
}

/// SHA-256 of a certificate.
pub fn fingerprint(der: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(der).into()
}

/// A fingerprint as people compare it.
pub fn shown(fingerprint: &[u8; 32]) -> String {
    hex(fingerprint)
}

/// A certificate in PEM.
pub fn pem(der: &CertificateDer<'_>) -> String {
    let text = BASE64.encode(der);
    let lines: Vec<&str> = text.as_bytes().chunks(64).filter_map(|line| std::str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// As certificates have it: whole seconds.
pub(super) fn moment(at: Timestamp) -> Result<time::OffsetDateTime, AuthorityError> {
    time::OffsetDateTime::from_unix_timestamp(at.0 / 1000)
        .map_err(|_| AuthorityError::Unfit("this host's clock shows a time that no certificate can have".into()))
}

pub(super) fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made() -> (Environment, ClusterSecret, Authority) {
        let environment = Environment::system().unwrap();
        let secret = ClusterSecret::generate(&environment);
        let authority = Authority::generate(&environment, "c1", &secret).unwrap();
        (environment, secret, authority)
    }

    #[test]
    fn its_key_opens_with_the_secret_of_its_cluster_alone() {
        let (environment, secret, authority) = made();
        authority.issuer("c1", &secret).unwrap();
        let text = serde_json::to_string(&authority).unwrap();
        let key = authority.key("c1", &secret).unwrap();
        assert!(!text.contains(&BASE64.encode(&key[..30])) && !text.contains("PRIVATE"));
        let wrong = ClusterSecret::generate(&environment);
        assert!(matches!(authority.key("c1", &wrong), Err(AuthorityError::WrongSecret)));
        assert!(matches!(authority.key("c2", &secret), Err(AuthorityError::WrongSecret)));
        // Nobody can put another certificate to a sealed key.
        let other = Authority::generate(&environment, "c1", &secret).unwrap();
        let mixed = Authority { certificate: other.certificate, ..authority };
        assert!(matches!(mixed.key("c1", &secret), Err(AuthorityError::WrongSecret)));
    }

    #[test]
    fn what_others_put_in_is_not_trusted() {
        let (environment, secret, authority) = made();
        let foreign = Authority::generate(&environment, "c1", &ClusterSecret::generate(&environment)).unwrap();
        let record = Authorities { authorities: vec![authority.clone(), foreign.clone()], ..Authorities::default() };
        assert_eq!(record.opened("c1", &secret).unwrap().authorities, [authority]);
        let record = Authorities { authorities: vec![foreign], ..Authorities::default() };
        assert!(matches!(record.opened("c1", &secret), Err(AuthorityError::WrongSecret)));
    }

    #[test]
    fn rotation_overlaps() {
        let (environment, secret, first) = made();
        let at = |seconds: i64| Timestamp(first.created.0 + seconds * 1000);
        let record = Authorities { authorities: vec![first.clone()], ..Authorities::default() };
        let new = Authority::generate(&environment, "c1", &secret).unwrap();
        let record = record.rotated(new.clone(), OVERLAP, at(1000));
        let signer = |seconds| record.signer(at(seconds)).unwrap().certificate.clone();
        let trusted = |seconds| record.trusted(at(seconds)).len();
        assert_eq!((signer(1000), trusted(1000)), (first.certificate.clone(), 2));
        assert_eq!((signer(1601), trusted(1601)), (new.certificate.clone(), 2));
        let end = 1000 + 8 * 24 * 3600;
        assert_eq!((trusted(end - 1), trusted(end)), (2, 1));
        assert_eq!(record.swept(at(end)).authorities[0].certificate, new.certificate);
        // A clock that stands far behind finds the first one.
        assert_eq!(signer(-1_000_000), first.certificate);
        // A second rotation on top gives nobody a longer life.
        let third = Authority::generate(&environment, "c1", &secret).unwrap();
        let again = record.rotated(third, OVERLAP, at(2000));
        assert_eq!(again.authorities[0].trusted_until, record.authorities[0].trusted_until);
        assert_eq!(again.authorities.len(), 3);
    }

    #[test]
    fn fields_of_later_versions_survive() {
        let (_, _, authority) = made();
        let mut value =
            serde_json::to_value(Authorities { authorities: vec![authority], ..Authorities::default() }).unwrap();
        value["later"] = 5.into();
        value["authorities"][0]["later"] = "x".into();
        let record: Authorities = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(serde_json::to_value(record).unwrap(), value);
    }

    #[test]
    fn only_a_real_authority_is_imported() {
        let (environment, secret, _) = made();
        let import = |certificate: &str, key: &str| Authority::import(&environment, "c1", &secret, certificate, key);
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        let leaf = params.clone().self_signed(&key).unwrap().pem();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap().pem();
        let other = KeyPair::generate().unwrap().serialize_pem();
        let imported = import(&authority, &key.serialize_pem()).unwrap();
        imported.issuer("c1", &secret).unwrap();
        for (certificate, key, word) in [
            (leaf.as_str(), key.serialize_pem(), "CA:TRUE"),
            (authority.as_str(), other, "belong together"),
            (authority.as_str(), "x".into(), "PKCS #8"),
            ("x", key.serialize_pem(), "no certificate"),
        ] {
            let error = import(certificate, &key).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
