//! What an agent's managed network leads, put together as `Network::start` and `cli::assembly` do it, over the model of the kernel.

use crate::agent::{Site, subnet};
use stampede::environment::{Backoff, Environment};
use stampede::host::floating::Floats;
use stampede::host::{floating, links};
use stampede::membership::Membership;
use stampede::network::apart::Apart;
use stampede::network::datapath::Datapath;
use stampede::network::dns::{Askers, Names};
use stampede::network::floating::Keeper;
use stampede::network::led::Leader;
use stampede::network::{Floating, ForDocker, Links, NetworkStatus, Published};
use stampede::orchestration::Orchestrator;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

type Work = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// As long as nothing changes, and after a failure.
const LOOK: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(1);

/// What works as long as the agent does, whether it is in the cluster yet or not.
pub struct Led {
    pub published: Published,
    pub links: Links,
    pub names: Names,
    floating: Floating,
    _work: Vec<AbortOnDropHandle<()>>,
}

fn spawn(work: impl Future<Output = ()> + Send + 'static) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(Box::pin(work) as Work))
}

fn memory(site: &Site) -> PathBuf {
    site.state_directory.join("links.json")
}

/// What the ledger has of floating addresses.
fn floats(site: &Site) -> Floats {
    Floats::new(&site.ledger.assignments().unwrap().0)
}

impl Led {
    /// `None` where the kernel cannot be asked: the agent ends, and is started again.
    pub async fn start(site: &Site) -> Option<Self> {
        let (store, environment, datapath) = (&site.store, &site.environment, &site.datapath);
        let (known, _) = site.ledger.assignments().unwrap();
        let (published, links) = (Published::new(&known), Links::new(&known, Some(&memory(site))));
        let floating = Floating::default();
        floating.adopt(datapath.as_ref(), floats(site).ways()).await.ok()?;
        let leader = Leader {
            host: site.name.clone(),
            subnet: subnet(),
            published: published.clone(),
            links: links.clone(),
            floating: floating.clone(),
            for_docker: ForDocker::default(),
            apart: Apart::default(),
            askers: Askers::default(),
        };
        let keeper = Keeper {
            floating: floating.clone(),
            datapath: datapath.clone(),
            environment: environment.clone(),
            subnet: subnet(),
            status: watch::Sender::new(NetworkStatus::default()).subscribe(),
        };
        let work = vec![
            spawn(links.clone().follow(store.clone(), environment.clone(), Some(memory(site)))),
            spawn(keeper.run()),
            spawn(lead(leader, datapath.clone(), environment.clone())),
        ];
        let names = Names::new(store.clone(), environment);
        Some(Self { published, links, names, floating, _work: work })
    }

    /// What the host's instances need of it, and what sees to that as long as it is held.
    pub fn live(
        &self,
        site: &Site,
        orchestrator: &Orchestrator,
        membership: &Membership,
    ) -> ((Published, Links, Floats), Vec<AbortOnDropHandle<()>>) {
        let floats = floats(site);
        let keeper = floating::Keeper {
            floats: floats.clone(),
            network: self.floating.clone(),
            membership: membership.clone(),
            orchestrator: orchestrator.clone(),
            store: site.store.clone(),
            environment: site.environment.clone(),
            host: site.name.clone(),
        };
        let learning =
            links::keep(self.links.clone(), orchestrator.clone(), site.environment.clone(), site.name.clone());
        let work = vec![spawn(learning), spawn(keeper.keep())];
        ((self.published.clone(), self.links.clone(), floats), work)
    }
}

/// As the reconciler of the network does it: at once where something is to be led elsewhere, and with each of its looks.
async fn lead(leader: Leader, datapath: Arc<dyn Datapath>, environment: Environment) {
    let mut changes = leader.changes();
    let mut backoff = Backoff::new(&environment, AGAIN, LOOK);
    loop {
        let pause = if leader.lead(datapath.as_ref()).await {
            backoff.reset();
            LOOK
        } else {
            backoff.next_delay()
        };
        tokio::select! {
            () = changes.next() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}
