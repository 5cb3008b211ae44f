//! A host's own certificate: made by its agent, short-lived, renewed by itself.
//!
//! It names the host twice. For people and the API: host name and addresses. For other agents: a name under
//! [`AGENTS`] that holds the host's identity, so that a host of the same name that came later is another one. `<state>/certificate.pem`
//! holds key and chain, `<state>/ca.pem` the authorities that are trusted; both are there before the store answers.

use super::authority::{Authorities, Authority, AuthorityError, BACKDATED, fingerprint, millis, moment, pem};
use super::secret::{ClusterSecret, SecretError, hex, write_private};
use crate::environment::Timestamp;
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use x509_parser::extensions::GeneralName;
use zeroize::Zeroizing;

/// The usual life of a host's certificate.
pub const LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);
/// Any agent of the cluster has this name; one by itself `<identity>.<host>.` before it.
pub const AGENTS: &str = "agents.stampede.internal";

/// What a host's certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub host: String,
    pub identity: String,
    /// Names and addresses by which the API is reached, besides the host's name and this machine's loopback.
    pub names: BTreeSet<String>,
}

impl Subject {
    /// All that the certificate is to be good for; what can be no name in a certificate is left out.
    pub fn all_names(&self) -> BTreeSet<String> {
        let fixed = [&self.host, "localhost", "127.0.0.1", "::1", AGENTS].map(str::to_owned);
        let own = agent_name(&self.host, &self.identity);
        fixed
            .into_iter()
            .chain([own])
            .chain(self.names.iter().map(|name| name.to_lowercase()))
            .filter(|it| fits(it))
            .collect()
    }
}

/// The name that only this host's agent has.
pub fn agent_name(host: &str, identity: &str) -> String {
    format!("{identity}.{host}.{AGENTS}")
}

/// The host and identity in such a name.
pub fn agent_of(name: &str) -> Option<(&str, &str)> {
    let (identity, host) = name.strip_suffix(AGENTS)?.strip_suffix('.')?.split_once('.')?;
    (!host.contains('.')).then_some((host, identity))
}

fn fits(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok() || rustls::pki_types::DnsName::try_from(name).is_ok()
}

/// A certificate with its key.
#[derive(Clone)]
pub struct NodeCertificate {
    /// The host's own first, then the authority's.
    pub chain: Vec<CertificateDer<'static>>,
    key: Arc<Zeroizing<Vec<u8>>>,
    pub not_after: Timestamp,
    pub issued: Timestamp,
    pub names: BTreeSet<String>,
    serial: Vec<u8>,
}

impl fmt::Debug for NodeCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeCertificate")
            .field("names", &self.names)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl NodeCertificate {
    /// Makes a new key and has `authority` sign for it.
    ///
    /// # Errors
    /// Where the secret is not the authority's, or the certificate cannot be made.
    pub fn issue(
        authority: &Authority,
        cluster: &str,
        secret: &ClusterSecret,
        subject: &Subject,
        now: Timestamp,
        lifetime: Duration,
    ) -> Result<Self, AuthorityError> {
        let issuer = authority.issuer(cluster, secret)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        for name in subject.all_names() {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.try_into()?),
            });
        }
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, subject.host.as_str());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = moment(Timestamp(now.0.saturating_sub(millis(BACKDATED))))?;
        params.not_after = moment(now.after(lifetime))?;
        let certificate = params.signed_by(&key, &issuer)?;
        let chain = vec![certificate.der().clone(), authority.der()?];
        Self::of(chain, Zeroizing::new(key.serialize_der()))
            .ok_or_else(|| AuthorityError::Record("a certificate that was just made cannot be read".into()))
    }

    /// The one on this host's disk, if it is there whole.
    pub fn load(state: &Path) -> Option<Self> {
        let text = Zeroizing::new(std::fs::read(state.join("certificate.pem")).ok()?);
        let key = PrivateKeyDer::from_pem_slice(&text).ok()?;
        let chain = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>().ok()?;
        Self::of(chain, Zeroizing::new(key.secret_der().to_vec()))
    }

    fn of(chain: Vec<CertificateDer<'static>>, key: Zeroizing<Vec<u8>>) -> Option<Self> {
        let parsed = x509_parser::parse_x509_certificate(chain.first()?).ok()?.1;
        let names = names_of(&parsed);
        let issued = Timestamp(parsed.validity().not_before.timestamp() * 1000).after(BACKDATED);
        let not_after = Timestamp(parsed.validity().not_after.timestamp() * 1000);
        let serial = parsed.raw_serial().to_vec();
        Some(Self { chain, key: Arc::new(key), not_after, issued, names, serial })
    }

    /// # Errors
    /// Where it cannot be written.
    pub fn save(&self, state: &Path) -> Result<(), SecretError> {
        let key = Zeroizing::new(
            pem(&CertificateDer::from(self.key.as_slice())).replace("CERTIFICATE-----", "PRIVATE KEY-----"),
        );
        let chain: String = self.chain.iter().map(pem).collect();
        let text = Zeroizing::new(format!("{}{chain}", key.as_str()));
        write_private(&state.join("certificate.pem"), text.as_bytes())
    }

    /// For a TLS library; a copy that it keeps.
    pub fn key(&self) -> Option<PrivateKeyDer<'static>> {
        PrivateKeyDer::try_from(self.key.to_vec()).ok()
    }

    /// Who it is for: host and identity.
    pub fn agent(&self) -> Option<(&str, &str)> {
        self.names.iter().find_map(|name| agent_of(name))
    }

    /// When it is to be renewed: at about half of its life, each host at another moment.
    pub fn renewal(&self) -> Timestamp {
        let life = self.not_after.0.saturating_sub(self.issued.0);
        // 40 to 60 hundredths; the serial number is random.
        let hundredths = 40 + i64::from(self.serial.last().copied().unwrap_or(128)) * 20 / 255;
        Timestamp(self.issued.0 + life / 100 * hundredths)
    }

    /// Why another one is needed at `now`; `None` while this one does.
    pub fn outdated(&self, authorities: &Authorities, subject: &Subject, now: Timestamp) -> Option<&'static str> {
        let signer = authorities.signer(now).and_then(|it| it.fingerprint().ok());
        if self.chain.get(1).map(fingerprint) != signer {
            return Some("another authority signs");
        }
        if self.agent() != Some((&subject.host, &subject.identity)) {
            return Some("it is of another host");
        }
        if !subject.all_names().is_subset(&self.names) {
            return Some("the host has more names or addresses");
        }
        if now.0 < self.issued.0.saturating_sub(millis(BACKDATED)) {
            return Some("the clock went back");
        }
        (now >= self.renewal()).then_some("half of its time is over")
    }
}

/// The DNS names and addresses that a certificate is for.
fn names_of(certificate: &x509_parser::certificate::X509Certificate<'_>) -> BTreeSet<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return BTreeSet::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|it| IpAddr::from(it).to_string()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|it| IpAddr::from(it).to_string()),
            _ => None,
        },
        _ => None,
    };
    extension.value.general_names.iter().filter_map(text).collect()
}

/// The host and identity that a peer's certificate is for.
pub fn agent_in(certificate: &CertificateDer<'_>) -> Option<(String, String)> {
    let parsed = x509_parser::parse_x509_certificate(certificate).ok()?.1;
    names_of(&parsed)
        .iter()
        .find_map(|name| agent_of(name))
        .map(|(host, identity)| (host.to_owned(), identity.to_owned()))
}

/// The serial number as people compare it.
pub fn serial(certificate: &NodeCertificate) -> String {
    hex(&certificate.serial)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;

    fn subject() -> Subject {
        Subject {
            host: "h1".into(),
            identity: "0f8fad5b-d9cb-469f-a165-70867728950e".into(),
            names: ["198.18.0.1", "H1.example.org", "fd00::1", "not a name"].map(str::to_owned).into(),
        }
    }

    fn world() -> (Environment, ClusterSecret, Authorities) {
        let environment = Environment::system().unwrap();
        let secret = ClusterSecret::generate(&environment);
        let authority = Authority::generate(&environment, "c", &secret).unwrap();
        (environment, secret, Authorities { authorities: vec![authority], ..Authorities::default() })
    }

    fn issue(secret: &ClusterSecret, authorities: &Authorities, now: Timestamp) -> NodeCertificate {
        NodeCertificate::issue(authorities.signer(now).unwrap(), "c", secret, &subject(), now, LIFETIME).unwrap()
    }

    #[test]
    fn it_says_who_the_host_is_and_survives_the_disk() {
        let (environment, secret, authorities) = world();
        let made = issue(&secret, &authorities, environment.clock.now());
        assert_eq!(made.names, subject().all_names());
        assert!(made.names.contains("h1.example.org") && made.names.contains("fd00::1"), "{:?}", made.names);
        assert!(!made.names.contains("not a name"));
        assert_eq!(made.agent(), Some(("h1", "0f8fad5b-d9cb-469f-a165-70867728950e")));
        let state = tempfile::tempdir().unwrap();
        made.save(state.path()).unwrap();
        let read = NodeCertificate::load(state.path()).unwrap();
        assert_eq!((&read.chain, &read.names, read.not_after), (&made.chain, &made.names, made.not_after));
        assert_eq!(read.key(), made.key());
        assert!(format!("{made:?}").len() < 600);
    }

    #[test]
    fn renewed_at_about_half_and_when_it_does_not_fit() {
        let (environment, secret, mut authorities) = world();
        let now = environment.clock.now();
        let made = issue(&secret, &authorities, now);
        let after = |hundredths: u32| now.after(LIFETIME * hundredths / 100);
        assert_eq!(made.outdated(&authorities, &subject(), after(39)), None);
        assert!(made.outdated(&authorities, &subject(), after(61)).is_some());
        let mut more = subject();
        more.names.insert("198.18.0.9".into());
        assert_eq!(made.outdated(&authorities, &more, now), Some("the host has more names or addresses"));
        let fewer = Subject { names: BTreeSet::new(), ..subject() };
        assert_eq!(made.outdated(&authorities, &fewer, now), None);
        let other = Subject { identity: "1f8fad5b-d9cb-469f-a165-70867728950e".into(), ..subject() };
        assert_eq!(made.outdated(&authorities, &other, now), Some("it is of another host"));
        assert_eq!(made.outdated(&authorities, &subject(), Timestamp(0)), Some("the clock went back"));
        let new = Authority::generate(&environment, "c", &secret).unwrap();
        authorities = authorities.rotated(new, Duration::ZERO, now);
        assert_eq!(made.outdated(&authorities, &subject(), now), Some("another authority signs"));
    }

    #[test]
    fn names_of_agents() {
        assert_eq!(agent_of(&agent_name("h1", "abc")), Some(("h1", "abc")));
        for name in
            [AGENTS, "h1", "abc.h1.x.agents.stampede.internal", "h1.agents.stampede.internal", "a.b.agents.example"]
        {
            assert_eq!(agent_of(name), None, "{name}");
        }
    }
}
