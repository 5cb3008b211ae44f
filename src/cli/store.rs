//! `stampede store`: the cluster's state to a file and back, on the store itself; no agent is asked.

use super::way::{etcd_options, open_file};
use crate::environment::Environment;
use crate::host::config::{Config, DEFAULT_PATH};
use crate::membership::backup;
use crate::store::Store;
use crate::store::etcd::{EtcdOptions, EtcdStore};
use anyhow::{Context, Result, bail};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long one call may take: the whole state comes in one answer.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, clap::Subcommand)]
pub enum StoreVerb {
    /// Writes the cluster's state to a file. With etcd at any time; a store file only while its agent is stopped.
    Export(ExportOptions),
    /// Reads such a file into an empty store, as a new generation of the cluster. Before the agents are started.
    Import(ImportOptions),
    /// After etcd was restored from a snapshot of its own, and before the agents are started: a new generation of the
    /// cluster, in which no id is given out a second time.
    Restored(RestoredOptions),
}

#[derive(Debug, clap::Args)]
pub struct RestoredOptions {
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
pub struct ExportOptions {
    /// The file to be written; `-` is standard output.
    file: PathBuf,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
pub struct ImportOptions {
    /// A file that `stampede store export` wrote.
    file: PathBuf,
    /// Puts it in the place of the cluster that is there, which is lost.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    place: Place,
}

/// Which store: as the agent's settings say, unless told.
#[derive(Debug, clap::Args)]
struct Place {
    /// The agent's configuration file; /etc/stampede/config.toml if it is there.
    #[arg(long, env = "STAMPEDE_CONFIG")]
    config: Option<PathBuf>,
    /// An etcd client address, http://HOST:2379; may be given several times.
    #[arg(long = "store", env = "STAMPEDE_STORE", value_delimiter = ',')]
    endpoints: Vec<String>,
    /// The store file of `stampede up`: /var/lib/stampede/store.redb.
    #[arg(long, conflicts_with = "endpoints")]
    store_file: Option<PathBuf>,
}

impl Place {
    fn config(self) -> Result<Config> {
        let path = self.config.clone().unwrap_or_else(|| DEFAULT_PATH.into());
        let mut config = Config::read(&path, self.config.is_some())?;
        if let Some(file) = self.store_file {
            config.store.endpoints.clear();
            config.store.file = Some(file);
        } else if !self.endpoints.is_empty() {
            config.store.endpoints = self.endpoints;
            config.store.file = None;
        }
        config.check_store()?;
        Ok(config)
    }

    /// `must_be` is false where a store file may be made.
    fn open(self, environment: &Environment, must_be: bool) -> Result<Arc<dyn Store>> {
        let config = self.config()?;
        if let Some(path) = &config.store.file {
            if must_be && !path.exists() {
                bail!("there is no store file {}", path.display());
            }
            return open_file(path, environment);
        }
        let options = EtcdOptions { timeout: LIMIT, ..etcd_options(&config)? };
        Ok(Arc::new(EtcdStore::connect(options, environment)?))
    }
}

pub async fn run(verb: StoreVerb) -> Result<()> {
    let environment = Environment::system().context("cannot tell which machine this is (/etc/machine-id)")?;
    match verb {
        StoreVerb::Export(options) => export(options, &environment).await,
        StoreVerb::Import(options) => import(options, &environment).await,
        StoreVerb::Restored(options) => restored(options, &environment).await,
    }
}

async fn export(options: ExportOptions, environment: &Environment) -> Result<()> {
    let store = options.place.open(environment, true)?;
    let (header, text) = backup::export(store.as_ref(), environment).await?;
    if options.file == Path::new("-") {
        let mut output = std::io::stdout();
        output.write_all(text.as_bytes()).and_then(|()| output.flush()).context("cannot write the backup")?;
    } else {
        put(&options.file, text.as_bytes()).with_context(|| format!("cannot write {}", options.file.display()))?;
    }
    eprintln!(
        "{} keys of cluster {}, generation {}, at revision {} of {}",
        header.keys,
        header.cluster,
        header.generation,
        header.revision,
        store.describe()
    );
    Ok(())
}

/// For root alone (it holds hashes of keys, and what containers were given as environment); whole or not at all.
fn put(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)
}

async fn import(options: ImportOptions, environment: &Environment) -> Result<()> {
    let name = options.file.display().to_string();
    let bytes = std::fs::read(&options.file).with_context(|| format!("cannot read {name}"))?;
    // All of it, before anything is opened or written.
    let (header, items) = backup::read(&bytes).context(name)?;
    let store = options.place.open(environment, false)?;
    let generation = backup::import(store.as_ref(), environment, items, options.force).await?;
    eprintln!(
        "{} keys of cluster {} are in {}, as generation {generation}; start the agents",
        header.keys,
        header.cluster,
        store.describe()
    );
    Ok(())
}

async fn restored(options: RestoredOptions, environment: &Environment) -> Result<()> {
    let store = options.place.open(environment, true)?;
    let generation = backup::restored(store.as_ref(), environment).await?;
    eprintln!("{} is generation {generation} of its cluster; start the agents", store.describe());
    Ok(())
}
