//! A host that does what it is told at once, and says again and again what it sees, as after each restart of an agent.

use stampede::orchestration::Orchestrator;
use stampede::orchestration::lifecycle::Observation;
use stampede::placement::record::Claim;
use stampede::resource::assignment::{Desired, Token};
use stampede::resource::link::Ports;
use stampede::resource::port::Protocol;
use stampede::resource::{Resource, instance};
use stampede::store::{Store, decode, key};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How often it was started, and whether it is up, by instance.
#[derive(Debug, Default)]
pub struct Containers(Mutex<HashMap<u64, (u64, bool)>>);

impl Containers {
    pub fn up(&self, id: u64) -> bool {
        self.0.lock().unwrap().get(&id).is_some_and(|(_, up)| *up)
    }

    pub fn starts(&self, id: u64) -> u64 {
        self.0.lock().unwrap().get(&id).map_or(0, |(starts, _)| *starts)
    }
}

/// What its image exposes: `docker:exposes-80` that port of TCP.
fn exposed(row: &Resource) -> Option<Ports> {
    let image = row.get::<String>(instance::IMAGE_UUID)?;
    let port = image.strip_prefix("docker:exposes-").and_then(|port| port.parse().ok());
    Some(port.map(|port| (port, Protocol::Tcp)).into_iter().collect())
}

pub async fn run(store: Arc<dyn Store>, orchestrator: Orchestrator, containers: Arc<Containers>) {
    let mut restarts: HashMap<u64, u64> = HashMap::new();
    loop {
        for claim in store.range(&key::all_on("h1")).await.unwrap().entries {
            let Claim { id, .. } = decode(&claim).unwrap();
            let Some(entry) = store.get(&key::resource("instance", id)).await.unwrap().entry else { continue };
            let row: Resource = decode(&entry).unwrap();
            let asked = row.get(instance::RESTARTS).unwrap_or(0);
            let seen = {
                let mut all = containers.0.lock().unwrap();
                let container = all.entry(id).or_default();
                let again = restarts.insert(id, asked).is_some_and(|before| before != asked);
                let wanted = instance::desired(&row);
                if wanted == Desired::Running && (!container.1 || again) {
                    *container = (container.0 + 1, true);
                }
                if wanted != Desired::Running {
                    container.1 = false;
                }
                match wanted {
                    Desired::Running => {
                        Observation::Running { external_id: format!("c{}", container.0), started_at: 1 }
                    }
                    Desired::Stopped => Observation::Stopped,
                    Desired::Purged => Observation::Purged,
                }
            };
            let token = Token { generation: 1, revision: claim.create_revision.0 };
            let exposed = exposed(&row).filter(|_| matches!(seen, Observation::Running { .. }));
            // A claim that went meanwhile is seen in the next round.
            let _ = orchestrator.observed_exposing("h1", token, &entry, &seen, exposed.as_ref()).await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
