//! Links of this host's instances that lack ports of their targets get them.
//!
//! A target that runs for the first time only after the link was made, or to which the link was led later, may have ports that
//! nobody knew when the instance started. They are added to its row ([`Orchestrator::learn_links`]), and so become a part of
//! what this host is told of it.

use super::chain;
use crate::environment::{Backoff, Environment};
use crate::network::Links;
use crate::network::links::Lacking;
use crate::orchestration::{Orchestrator, StatusError};
use crate::resource::{identifier, instance};
use std::collections::BTreeSet;
use std::time::Duration;

/// After a failure: again, first after …, and at most after.
const AGAIN: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);

/// Sees to it for ever.
pub async fn keep(links: Links, orchestrator: Orchestrator, environment: Environment, host: String) {
    let mut changes = links.changes();
    let mut backoff = Backoff::new(&environment, AGAIN, LONGEST);
    let mut tried = BTreeSet::new();
    loop {
        let lacking = links.lacking();
        // What could not be added (there are enough ports) is asked for again when something else is lacking.
        tried.retain(|known| lacking.contains(known));
        let wanting: BTreeSet<&Lacking> = lacking.iter().filter(|one| !tried.contains(*one)).collect();
        let instances: BTreeSet<&str> = wanting.iter().map(|one| one.instance.as_str()).collect();
        let mut failed = false;
        for id in instances {
            match learn(&links, &orchestrator, &host, id).await {
                Ok(()) => tried.extend(lacking.iter().filter(|one| one.instance == id).cloned()),
                Err(error) => {
                    tracing::warn!(instance = id, error = chain(&error), "its links lack ports; tried again soon");
                    failed = true;
                }
            }
        }
        if failed {
            backoff.wait().await;
        } else {
            backoff.reset();
            changes.next().await;
        }
    }
}

async fn learn(links: &Links, orchestrator: &Orchestrator, host: &str, id: &str) -> Result<(), StatusError> {
    let (Some(token), Some(number)) = (links.token(id), identifier::parse(instance::BASE, id)) else { return Ok(()) };
    match orchestrator.learn_links(host, token, number).await {
        // It is not this host's any more, which the instances' loop sees too.
        Err(StatusError::ClaimLost) => Ok(()),
        learnt => learnt.map(drop),
    }
}
