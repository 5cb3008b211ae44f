use super::*;
use crate::environment::Environment;
use crate::network::datapath::Wanted;
use stampede_netlink::address::Address;
use stampede_netlink::conntrack::Flow;
use stampede_netlink::nftables::{Table, TableOutcome};
use std::io;
use tokio::sync::Semaphore;
use tokio_util::task::AbortOnDropHandle;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 2);
const TO: Ipv4Addr = Ipv4Addr::new(10, 42, 7, 9);

fn until(life: i64, millis: u64) -> Option<Fence> {
    Some(Fence { life, deadline: Duration::from_millis(millis) })
}

#[test]
fn nothing_is_had_beyond_the_deadline_or_in_another_life() {
    let floating = Floating::default();
    floating.hold(ADDRESS, Lead { id: 1, to: TO }, 7);
    assert_eq!(floating.specs(Duration::from_secs(5)), [], "no deadline is known");
    floating.until(until(7, 8_300));
    let seconds = |now| floating.specs(Duration::from_millis(now)).first().and_then(|spec| spec.valid_for);
    assert_eq!((seconds(5_000), seconds(8_299), seconds(8_300)), (Some(4), Some(1), None));
    floating.until(until(9, 20_000));
    assert_eq!(seconds(10_000), None, "another host may have it");
    floating.hold(ADDRESS, Lead { id: 1, to: TO }, 9);
    assert_eq!(seconds(10_000), Some(10));
    floating.give_up(ADDRESS, 2);
    assert_eq!(seconds(10_000), Some(10), "another with this address, which a store that went back knows no more");
    floating.give_up(ADDRESS, 1);
    assert_eq!(seconds(10_000), None);
}

#[tokio::test]
async fn a_deadline_that_moves_is_no_change_of_what_is_led() {
    let floating = Floating::default();
    let mut changes = floating.changes();
    floating.hold(ADDRESS, Lead { id: 1, to: TO }, 7);
    changes.next().await;
    floating.until(until(7, 9_000));
    let more = tokio::time::timeout(Duration::from_millis(20), changes.next()).await;
    assert!(more.is_err());
    floating.0.there.send_replace(Some(BTreeSet::new()));
    changes.next().await;
    assert_eq!(floating.plan().there, BTreeSet::new(), "nobody leaves under what is not there");
    floating.hold(ADDRESS, Lead { id: 1, to: Ipv4Addr::new(10, 42, 7, 10) }, 7);
    changes.next().await;
}

/// A kernel that has what it was given, and changes nothing before it may.
#[derive(Debug)]
struct Slow {
    has: StdMutex<BTreeSet<Ipv4Addr>>,
    turns: Semaphore,
    /// Asks what is wanted only when it may.
    asks_late: bool,
}

impl Slow {
    fn new(has: &[Ipv4Addr], turns: usize, asks_late: bool) -> Arc<Self> {
        let has = StdMutex::new(has.iter().copied().collect());
        Arc::new(Self { has, turns: Semaphore::new(turns), asks_late })
    }

    async fn turn(&self) {
        self.turns.acquire().await.unwrap().forget();
    }
}

const BRIDGE: u32 = 3;

#[async_trait::async_trait]
impl Datapath for Slow {
    async fn addresses(&self) -> Result<Vec<Address>, Error> {
        let has = self.has.lock().unwrap();
        let found = |address: &Ipv4Addr| Address {
            link: BRIDGE,
            spec: AddressSpec::new(IpAddr::V4(*address), 32),
            link_local: false,
        };
        Ok(has.iter().map(found).collect())
    }
    async fn bridge(&self) -> Result<Option<u32>, Error> {
        Ok(Some(BRIDGE))
    }
    async fn ensure_addresses(&self, _: u32, wanted: Wanted<'_>) -> Result<(), Error> {
        let specs = if self.asks_late {
            self.turn().await;
            wanted()
        } else {
            let specs = wanted();
            self.turn().await;
            specs
        };
        let addresses = specs.iter().filter_map(|spec| match spec.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        });
        self.has.lock().unwrap().extend(addresses);
        Ok(())
    }
    async fn remove_address(&self, _: u32, spec: &AddressSpec) -> Result<(), Error> {
        self.turn().await;
        self.has.lock().unwrap().retain(|address| IpAddr::V4(*address) != spec.address);
        Ok(())
    }
    async fn announce(&self, _: Ipv4Addr, _: Option<IpAddr>) {}
    async fn ensure_table(&self, _: &Table) -> Result<TableOutcome, Error> {
        unreachable!("no rules here")
    }
    async fn flows(&self) -> Result<Vec<Flow>, Error> {
        Ok(Vec::new())
    }
    async fn forget_flows(&self, _: &[Flow]) -> Result<usize, Error> {
        Ok(0)
    }
    fn nudge(&self, _: &[Flow], _: u32) -> Result<io::Result<usize>, Error> {
        Ok(Ok(0))
    }
}

const LIMIT: Duration = Duration::from_secs(5);

/// Sees to it over `kernel`, and has the address held for a minute.
fn keep(floating: &Floating, kernel: &Arc<Slow>) -> AbortOnDropHandle<()> {
    let environment = Environment::system().unwrap();
    let deadline = environment.clock.boottime() + Duration::from_secs(60);
    floating.hold(ADDRESS, Lead { id: 1, to: TO }, 7);
    floating.until(Some(Fence { life: 7, deadline }));
    let keeper = Keeper {
        floating: floating.clone(),
        datapath: kernel.clone(),
        environment,
        subnet: SubnetSpec::default(),
        status: watch::Sender::new(NetworkStatus::default()).subscribe(),
    };
    AbortOnDropHandle::new(tokio::spawn(keeper.run()))
}

/// It is given up while somebody is at it.
async fn given_up_meanwhile(floating: &Floating) -> std::pin::Pin<Box<impl Future<Output = ()>>> {
    let busy = async {
        while floating.0.writing.try_lock().is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LIMIT, busy).await.unwrap();
    floating.give_up(ADDRESS, 1);
    let mut gone = Box::pin({
        let floating = floating.clone();
        async move { floating.gone(ADDRESS).await }
    });
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut gone).await.is_err(), "somebody is at it");
    gone
}

#[tokio::test]
async fn what_is_given_up_while_it_comes_is_not_gone_before_it_came() {
    let (floating, kernel) = (Floating::default(), Slow::new(&[], 0, false));
    let _keeping = keep(&floating, &kernel);
    let gone = given_up_meanwhile(&floating).await;
    kernel.turns.add_permits(9);
    tokio::time::timeout(LIMIT, gone).await.unwrap();
    assert_eq!(*kernel.has.lock().unwrap(), BTreeSet::new());
}

#[tokio::test]
async fn what_is_given_up_while_it_is_renewed_is_not_gone_before_it_went() {
    let (floating, kernel) = (Floating::default(), Slow::new(&[ADDRESS], 0, true));
    let _keeping = keep(&floating, &kernel);
    let mut gone = given_up_meanwhile(&floating).await;
    // It is not renewed any more, and the kernel has it yet.
    kernel.turns.add_permits(1);
    assert!(tokio::time::timeout(Duration::from_millis(20), &mut gone).await.is_err(), "the kernel has it");
    kernel.turns.add_permits(9);
    tokio::time::timeout(LIMIT, gone).await.unwrap();
    assert_eq!(*kernel.has.lock().unwrap(), BTreeSet::new());
}

#[test]
fn only_what_is_there_already_is_put_back_by_others() {
    let floating = Floating::default();
    floating.hold(ADDRESS, Lead { id: 1, to: TO }, 7);
    floating.until(until(7, 9_000));
    let kept = || floating.kept(Duration::from_secs(1)).len();
    assert_eq!(kept(), 1, "nobody has looked yet: nothing is taken away");
    floating.0.there.send_replace(Some(BTreeSet::new()));
    assert_eq!(kept(), 0, "it is to come, by one alone");
    floating.0.there.send_replace(Some(BTreeSet::from([ADDRESS])));
    assert_eq!(kept(), 1);
}
