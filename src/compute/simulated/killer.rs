//! What a cgroup would do: ends a container without asking its daemon, and keeps the next one out.

use super::{Simulated, Why};
use crate::compute::supervisor::cgroup::{Killer, Left};
use std::time::Duration;

impl Killer for Simulated {
    fn end(&self, id: &str, external_id: Option<&str>) -> Left {
        let slices = self.gait.slices;
        let (mut dead, mut running) = (Vec::new(), false);
        {
            let mut state = self.state();
            if slices {
                state.sealed.insert(id.to_owned());
            }
            let environment = state.environment.clone();
            let now = environment.clock.boottime();
            let most = usize::try_from(self.gait.kill.as_millis()).unwrap_or(0);
            for container in state.containers.values_mut().filter(|container| container.running) {
                let what = &container.what;
                let found = (slices && what.instance == id) || Some(what.external_id.as_str()) == external_id;
                if !found {
                    continue;
                }
                let takes = || now + Duration::from_millis(environment.below(most + 1) as u64);
                if *container.dying.get_or_insert_with(takes) <= now {
                    dead.push(what.external_id.clone());
                } else {
                    running = true;
                }
            }
        }
        for external_id in dead {
            Simulated::end(self, &external_id, Why::Killed, 137);
        }
        Left { running, sealed: slices }
    }

    fn lift(&self, id: &str) {
        self.state().sealed.remove(id);
    }
}
