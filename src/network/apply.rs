//! Making a [`Plan`] so. Everything is tried, whatever failed before it, and each failure is told; the next run sees what
//! still differs.

use super::NetworkConfig;
use super::firewall;
use super::hairpin;
use super::kernel::{Error, Kernel};
use super::metadata;
use super::overlay::Plan;
use super::pins;
use super::senders;
use crate::environment::Clock;
use stampede_netlink::{
    Outcome,
    address::{Change, Others},
    link::LinkSpec,
};

/// What came of it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Applied {
    /// How many changes were made; none where all was as it should be.
    pub changes: usize,
    /// What failed, in words for the operator.
    pub failed: Vec<String>,
    /// What works and should be otherwise.
    pub warnings: Vec<String>,
}

impl Applied {
    fn fail(&mut self, error: &Error) {
        self.failed.push(text(error));
    }

    pub(super) fn count<C>(&mut self, outcome: Result<Outcome<C>, Error>) {
        match outcome {
            Ok(outcome) => {
                self.changes += outcome.made.len();
                self.failed.extend(outcome.failed.iter().map(|(_, error)| text(error)));
            }
            Err(error) => self.fail(&error),
        }
    }

    pub(super) async fn link(&mut self, kernel: &Kernel, spec: &LinkSpec) -> Option<u32> {
        match kernel.netlink.ensure_link(spec).await {
            Ok(ensured) => {
                self.changes += ensured.changes.len();
                Some(ensured.index)
            }
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    pub(super) fn settings(&mut self, kernel: &Kernel, wishes: &[super::kernel::Wish]) {
        let (written, failed) = kernel.ensure_settings(wishes);
        self.changes += written;
        failed.iter().for_each(|error| self.fail(error));
    }
}

/// An error with its sources, as one line.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Whether all of a plan is known, or only what needs no store: then nothing is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    Base,
    Whole,
}

/// Makes the plan so: settings, links, what lies on them, then routes, the guard before all others, and the firewall.
pub async fn apply(
    kernel: &Kernel,
    config: &NetworkConfig,
    plan: &Plan,
    (extent, clock): (Extent, &dyn Clock),
) -> Applied {
    let subnet = &config.subnet;
    let mut applied = Applied { warnings: plan.problems.clone(), ..Applied::default() };
    let netlink = &kernel.netlink;
    applied.settings(kernel, &plan.global);
    // The firewall stands before the first address does: nothing gets out untranslated.
    config.leader().apply(kernel, &mut applied).await;
    firewall::apply(kernel, &mut applied).await;
    if let Some(bridge) = &plan.bridge
        && let Some(index) = applied.link(kernel, bridge).await
    {
        let knows_all = extent == Extent::Whole && !config.floating.is_undecided();
        let others = if knows_all { Others::Remove } else { Others::Keep };
        // What is given up meanwhile stays away, and no lifetime is of before.
        let _writing = config.floating.writing().await;
        let wanted = || [plan.bridge_addresses.as_slice(), &config.floating.kept(clock.boottime())].concat();
        let outcome = netlink.ensure_addresses_as_of(index, wanted, others).await;
        // What is only renewed is no change.
        applied.count(outcome.map(|mut outcome| {
            outcome.made.retain(|change| !matches!(change, Change::Renew(_)));
            outcome
        }));
    }
    if plan.bridge.is_some() {
        pins::apply(kernel, &config.askers, subnet, &mut applied).await;
        senders::apply(kernel, subnet, &mut applied).await;
    }
    hairpin::apply(kernel, subnet, plan.bridge.as_ref().and_then(|bridge| bridge.mtu), &mut applied).await;
    let overlay = match &plan.overlay {
        Some(overlay) => applied.link(kernel, overlay).await,
        None => None,
    };
    applied.settings(kernel, &plan.settings);
    if let Some(index) = overlay {
        applied.count(netlink.reconcile_forwarding(index, &plan.forwarding).await);
        applied.count(netlink.reconcile_neighbours(index, &plan.neighbours).await);
    }
    if extent == Extent::Whole {
        let routes = [plan.routes.as_slice(), &hairpin::routes(subnet), &metadata::way::routes()].concat();
        applied.count(netlink.reconcile_routes(&routes).await);
    }
    applied
}

impl Applied {
    /// Counts what became of a part that tells by itself.
    pub(super) fn note(&mut self, changed: Result<bool, Error>) {
        match changed {
            Ok(changed) => self.changes += usize::from(changed),
            Err(error) => self.fail(&error),
        }
    }
}
