//! The supervisor's decisions. Pure: what is known goes in, what is to be done comes out.

use crate::compute::{End, Health, Observed};
use crate::resource::assignment::OnEnd;
use crate::store::ledger::{EndReason, Phase};
use std::time::Duration;

/// The wait before the first start again.
pub const FIRST_DELAY: Duration = Duration::from_secs(1);
/// The longest wait, before jitter.
pub const LONGEST_DELAY: Duration = Duration::from_secs(60);
/// Who has run for so long has started well: the waits begin anew.
pub const RAN_WELL: Duration = Duration::from_secs(60);

/// Whether the machine is going down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    Staying,
    Leaving,
    /// Systemd is there and has not answered.
    Unknown,
    /// There is no systemd to ask.
    Silent,
}

/// What there is at the beginning, and after the daemon was gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It runs: touch nothing.
    TakeOver,
    /// It ran when it was last looked at and has ended since, by itself.
    Ended(End),
    Start,
}

/// `last` is what ran when somebody last looked, on this boot: external id and start. `by_daemon`: a container that is
/// found ended may have been ended by its daemon.
pub fn on_beginning(last: Option<(&str, Option<i64>)>, found: Option<&Observed>, by_daemon: bool) -> Beginning {
    match (last, found) {
        (_, Some(found)) if found.running => Beginning::TakeOver,
        (Some(_), _) if by_daemon => Beginning::Start,
        (Some((external_id, started_at)), Some(found))
            if found.external_id == external_id && found.started_at == started_at =>
        {
            Beginning::Ended(found.end())
        }
        (Some(_), None) => Beginning::Ended(End::removed()),
        _ => Beginning::Start,
    }
}

/// What ran when it was last looked at, by the report of this boot.
pub fn last_seen(phase: &Phase) -> Option<(&str, Option<i64>)> {
    match phase {
        Phase::Running { external_id, started_at } => Some((external_id, (*started_at != 0).then_some(*started_at))),
        _ => None,
    }
}

/// What is to be done about an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Report this and be done (81).
    Stay(EndReason),
    /// Its own end; wait, then have it started again (80).
    Again { delay: Duration },
    /// The daemon ended it or is not there to be believed: wait for the daemon, then look again.
    AwaitDaemon,
}

/// What an end means. `asked`: we were told to stop. `short_runs`: how often in a row, this one included, it has ended
/// by itself soon after its start.
pub fn on_end(health: Health, machine: Machine, asked: bool, policy: OnEnd, short_runs: u32) -> Action {
    if machine == Machine::Leaving {
        return Action::Stay(EndReason::Shutdown);
    }
    if asked {
        return Action::Stay(on_stop(machine));
    }
    if health != Health::Answers {
        return Action::AwaitDaemon;
    }
    match policy {
        OnEnd::Stop | OnEnd::Remove => Action::Stay(EndReason::Own),
        OnEnd::Restart => Action::Again { delay: delay(short_runs) },
    }
}

/// Why we were told to stop. In doubt the machine goes down: a stop that nobody asked for would stay after the boot,
/// while one that is taken back can be asked for again.
pub const fn on_stop(machine: Machine) -> EndReason {
    match machine {
        Machine::Staying | Machine::Silent => EndReason::Asked,
        Machine::Leaving | Machine::Unknown => EndReason::Shutdown,
    }
}

/// How many short runs in a row, this one included.
pub fn short_runs(before: u32, ran: Duration) -> u32 {
    if ran >= RAN_WELL { 1 } else { before.saturating_add(1) }
}

fn delay(short_runs: u32) -> Duration {
    let doublings = short_runs.saturating_sub(1).min(16);
    (FIRST_DELAY * 2u32.pow(doublings)).min(LONGEST_DELAY)
}

/// Whether an exit code can come from a signal that somebody else sent: only then it is worth a second look at whether
/// the daemon stays.
pub const fn may_be_killed(exit_code: Option<i64>) -> bool {
    matches!(exit_code, None | Some(137 | 143))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn health() -> impl Strategy<Value = Health> {
        prop_oneof![Just(Health::Answers), Just(Health::Away), Just(Health::Silent)]
    }

    fn machine() -> impl Strategy<Value = Machine> {
        prop_oneof![Just(Machine::Staying), Just(Machine::Leaving), Just(Machine::Unknown), Just(Machine::Silent)]
    }

    fn policy() -> impl Strategy<Value = OnEnd> {
        prop_oneof![Just(OnEnd::Stop), Just(OnEnd::Restart), Just(OnEnd::Remove)]
    }

    fn found() -> impl Strategy<Value = Option<Observed>> {
        let one = ("[ab]", any::<bool>(), prop_oneof![Just(None), Just(Some(1)), Just(Some(2))]);
        proptest::option::of(one.prop_map(|(external_id, running, started_at)| Observed {
            instance: "1i1".to_owned(),
            uuid: "u".to_owned(),
            token: None,
            generation: None,
            external_id,
            running,
            exit_code: (!running).then_some(3),
            started_at,
            message: None,
            oom: false,
        }))
    }

    proptest! {
        #[test]
        fn a_daemon_that_is_not_there_ends_nothing(
            health in health(), machine in machine(), asked: bool, policy in policy(), runs: u32
        ) {
            let action = on_end(health, machine, asked, policy, runs);
            let own = matches!(action, Action::Stay(EndReason::Own) | Action::Again { .. });
            prop_assert!(!own || (health == Health::Answers && machine != Machine::Leaving && !asked));
        }

        #[test]
        fn what_is_asked_to_stop_is_not_started(health in health(), machine in machine(), policy in policy(), runs: u32) {
            let action = on_end(health, machine, true, policy, runs);
            prop_assert!(matches!(action, Action::Stay(EndReason::Asked | EndReason::Shutdown)), "{:?}", action);
        }

        #[test]
        fn only_its_policy_starts_it_again(health in health(), machine in machine(), asked: bool, policy in policy(), runs: u32) {
            let action = on_end(health, machine, asked, policy, runs);
            let again = matches!(action, Action::Again { .. });
            prop_assert!(policy == OnEnd::Restart || !again);
        }

        #[test]
        fn waits_grow_and_stay_within_bounds(runs in 1u32..1000) {
            prop_assert!(delay(runs) >= FIRST_DELAY && delay(runs) <= LONGEST_DELAY && delay(runs) <= delay(runs + 1));
        }

        #[test]
        fn what_runs_is_never_started(found in found(), seen: bool, by_daemon: bool) {
            let last = seen.then_some(("a", Some(1)));
            let beginning = on_beginning(last, found.as_ref(), by_daemon);
            prop_assert_eq!(beginning == Beginning::TakeOver, found.is_some_and(|found| found.running));
        }

        #[test]
        fn only_what_was_seen_running_can_have_ended(found in found(), by_daemon: bool) {
            prop_assert!(!matches!(on_beginning(None, found.as_ref(), by_daemon), Beginning::Ended(_)));
            if by_daemon {
                prop_assert!(!matches!(on_beginning(Some(("a", Some(1))), found.as_ref(), true), Beginning::Ended(_)));
            }
        }
    }

    #[test]
    fn waits_double_and_begin_anew_after_a_good_run() {
        let seconds: Vec<_> = (1..9).map(|runs| delay(runs).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(short_runs(7, RAN_WELL), 1);
        assert_eq!(short_runs(7, RAN_WELL - Duration::from_millis(1)), 8);
    }

    #[test]
    fn an_end_that_nobody_saw_is_the_instance_s_own() {
        let found = Observed {
            instance: "1i1".to_owned(),
            uuid: "u".to_owned(),
            token: None,
            generation: None,
            external_id: "a".to_owned(),
            running: false,
            exit_code: Some(3),
            started_at: Some(1),
            message: None,
            oom: false,
        };
        let ended = on_beginning(Some(("a", Some(1))), Some(&found), false);
        assert_eq!(ended, Beginning::Ended(End { exit_code: Some(3), message: None, oom: false }));
        assert!(matches!(on_beginning(Some(("a", Some(1))), None, false), Beginning::Ended(_)));
        // Another start of it, by whomever, is not the one that was seen.
        assert_eq!(on_beginning(Some(("a", Some(2))), Some(&found), false), Beginning::Start);
    }
}
