//! The way to the store: the agent's own, and that of its keepalives.

use crate::environment::Environment;
use crate::host::config::{Config, ConfigError};
use crate::membership::{Connect, History, fence};
use crate::store::Store;
use crate::store::embedded::Embedded;
use crate::store::etcd::{EtcdLogin, EtcdOptions, EtcdStore, EtcdTls};
use anyhow::{Context, Result};
use std::path::Path;
use std::sync::Arc;

/// See the module's text.
#[derive(Clone, Debug)]
pub struct Way {
    pub store: Arc<dyn Store>,
    /// `None` for a store of this host's own.
    etcd: Option<EtcdOptions>,
}

impl Way {
    /// As the configuration has it.
    ///
    /// # Errors
    /// Where that cannot be used; it does not wait for etcd.
    pub fn open(config: &Config, environment: &Environment) -> Result<Self> {
        if let Some(path) = &config.store.file {
            return Ok(Self { store: open_file(path, environment)?, etcd: None });
        }
        let options = etcd_options(config)?;
        Ok(Self { store: Arc::new(EtcdStore::connect(options.clone(), environment)?), etcd: Some(options) })
    }

    /// The embedded store serves all; etcd gets a connection of its own, to the same member: whichever is silent is noticed
    /// by keepalives first.
    pub fn keepalive(&self, config: &Config, environment: &Environment, history: Option<&History>) -> Connect {
        let Some(options) = self.etcd.clone() else { return Connect::shared(self.store.clone()) };
        // Time for two members within what the fence leaves: one may be on a host that was just lost.
        let options = EtcdOptions { timeout: fence::wait(config.lease_ttl()) / 2, ..options };
        let (environment, history) = (environment.clone(), history.cloned());
        Connect::new(move || {
            let opened =
                EtcdStore::connect(options.clone(), &environment).map(|store| Arc::new(store) as Arc<dyn Store>);
            let guarded = opened.map(|store| match &history {
                Some(history) => history.guard(store),
                None => store,
            });
            std::future::ready(guarded)
        })
    }
}

/// The embedded store in a file, made where it is not there.
///
/// # Errors
/// Where it cannot be.
pub fn open_file(path: &Path, environment: &Environment) -> Result<Arc<dyn Store>> {
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    }
    Ok(Arc::new(Embedded::open(path, environment)?))
}

/// How etcd is reached.
///
/// # Errors
/// Where settings that belong together are not.
pub fn etcd_options(config: &Config) -> Result<EtcdOptions, ConfigError> {
    let tls = config.store.tls.as_ref().map(|tls| match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => {
            Ok(EtcdTls { ca: Some(tls.ca.clone()), identity: Some((certificate.clone(), key.clone())) })
        }
        (None, None) => Ok(EtcdTls { ca: Some(tls.ca.clone()), identity: None }),
        _ => Err(ConfigError::Wrong("store.tls.certificate and store.tls.key belong together: set both".into())),
    });
    let login = match (&config.store.user, &config.store.password) {
        (Some(user), Some(password)) => Some(EtcdLogin { user: user.clone(), password: password.clone() }),
        (None, None) => None,
        _ => return Err(ConfigError::Wrong("store.user and store.password belong together: set both".into())),
    };
    Ok(EtcdOptions {
        endpoints: config.store.endpoints.clone(),
        tls: tls.transpose()?,
        login,
        ..EtcdOptions::default()
    })
}
