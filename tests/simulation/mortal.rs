//! What an agent reaches on its own host, as long as it lives and is not held up: a dead agent's calls never come back.

use crate::datapath;
use crate::esp::Bent;
use futures::StreamExt;
use futures::stream::BoxStream;
use stampede::compute::simulated::Simulated;
use stampede::compute::{Created, Driver, DriverInfo, End, Error, Event, Health, LogLine, Observed};
use stampede::network::datapath::{Datapath, Wanted};
use stampede::network::ipsec::encryptor::{Encryptor, Events};
use stampede::network::kernel;
use stampede::resource::assignment::Assignment;
use stampede::store::etcd::EtcdStore;
use stampede::store::simulated::{Link, Way};
use stampede::store::{
    self, Difference, LeaseId, Lookup, Outcome, Revision, Snapshot, Store, StoreId, Transaction, Watch,
};
use stampede::systemd::fallback::Tasks;
use stampede::systemd::{self, Change, Supervision, UnitState};
use stampede_netlink::address::{Address, AddressSpec};
use stampede_netlink::conntrack::Flow;
use stampede_netlink::nftables::{Table, TableOutcome};
use stampede_netlink::xfrm::{
    AeadKey, Association, AssociationChange, AssociationTable, Policy, PolicyChange, PolicySpec,
};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Mortal<T> {
    pub inner: T,
    pub link: Link,
}

impl<T> Mortal<T> {
    async fn call<R>(&self, call: impl Future<Output = R>) -> R {
        self.link.awake().await;
        let result = call.await;
        self.link.awake().await;
        result
    }
}

#[async_trait::async_trait]
impl Driver for Mortal<Simulated> {
    async fn probe(&self) -> Result<DriverInfo, Error> {
        self.call(self.inner.probe()).await
    }
    async fn ensure_created(&self, assignment: &Assignment) -> Result<Created, Error> {
        self.call(self.inner.ensure_created(assignment)).await
    }
    async fn start(&self, external_id: &str) -> Result<(), Error> {
        self.call(self.inner.start(external_id)).await
    }
    async fn wait(&self, external_id: &str) -> Result<End, Error> {
        self.call(self.inner.wait(external_id)).await
    }
    async fn stop(&self, external_id: &str, grace: Duration) -> Result<(), Error> {
        self.call(self.inner.stop(external_id, grace)).await
    }
    async fn remove(&self, external_id: &str) -> Result<(), Error> {
        self.call(self.inner.remove(external_id)).await
    }
    async fn observe(&self, id: &str) -> Result<Option<Observed>, Error> {
        self.call(self.inner.observe(id)).await
    }
    async fn look(&self, external_id: &str) -> Result<Option<Observed>, Error> {
        self.call(self.inner.look(external_id)).await
    }
    async fn list(&self) -> Result<Vec<Observed>, Error> {
        self.call(self.inner.list()).await
    }
    async fn pull(
        &self,
        assignment: &Assignment,
        progress: &(dyn for<'a> Fn(&'a str) + Send + Sync),
    ) -> Result<(), Error> {
        self.call(self.inner.pull(assignment, progress)).await
    }
    fn logs(&self, external_id: &str, since: &str) -> BoxStream<'static, Result<LogLine, Error>> {
        self.inner.logs(external_id, since)
    }
    fn events(&self) -> BoxStream<'static, Event> {
        self.inner.events()
    }
    async fn health(&self) -> Health {
        self.call(self.inner.health()).await
    }
    fn in_slices(&self) -> bool {
        self.inner.in_slices()
    }
    async fn outlived(&self, observed: &Observed) -> Result<Option<bool>, Error> {
        self.call(self.inner.outlived(observed)).await
    }
}

/// A client that knows nothing of the link that its host's agent is held by.
#[async_trait::async_trait]
impl Store for Mortal<EtcdStore> {
    async fn get(&self, key: &str) -> Result<Lookup, store::Error> {
        self.call(self.inner.get(key)).await
    }
    async fn range(&self, prefix: &str) -> Result<Snapshot, store::Error> {
        self.call(self.inner.range(prefix)).await
    }
    async fn changed_since(&self, prefix: &str, after: Revision) -> Result<Difference, store::Error> {
        self.call(self.inner.changed_since(prefix, after)).await
    }
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, store::Error> {
        self.call(self.inner.commit(transaction)).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, store::Error> {
        let watch = self.call(self.inner.watch(prefix, from)).await?;
        let link = self.link.clone();
        let heard = watch.then(move |message| {
            let link = link.clone();
            async move {
                link.awake().await;
                message
            }
        });
        Ok(heard.boxed())
    }
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, store::Error> {
        self.call(self.inner.grant_lease(ttl)).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, store::Error> {
        self.call(self.inner.keep_alive(lease)).await
    }
    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, store::Error> {
        self.call(self.inner.time_to_live(lease)).await
    }
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), store::Error> {
        self.call(self.inner.revoke_lease(lease)).await
    }
    async fn compact(&self, revision: Revision) -> Result<(), store::Error> {
        self.call(self.inner.compact(revision)).await
    }
    fn identity(&self) -> Option<StoreId> {
        self.inner.identity()
    }
    fn single_host(&self) -> bool {
        self.inner.single_host()
    }
    fn describe(&self) -> String {
        self.inner.describe()
    }
}

#[async_trait::async_trait]
impl Supervision for Mortal<Arc<Tasks>> {
    async fn start(&self, id: &str, limit: Duration) -> Result<UnitState, systemd::Error> {
        self.call(self.inner.start(id, limit)).await
    }
    async fn stop(&self, id: &str, limit: Duration) -> Result<UnitState, systemd::Error> {
        self.call(self.inner.stop(id, limit)).await
    }
    async fn state(&self, id: &str) -> Result<UnitState, systemd::Error> {
        self.call(self.inner.state(id)).await
    }
    async fn list(&self) -> Result<BTreeMap<String, UnitState>, systemd::Error> {
        self.call(self.inner.list()).await
    }
    async fn forget(&self, id: &str) -> Result<(), systemd::Error> {
        self.call(self.inner.forget(id)).await
    }
    fn changes(&self) -> BoxStream<'static, Change> {
        self.inner.changes()
    }
}

#[async_trait::async_trait]
impl Encryptor for Mortal<Bent> {
    fn has_ipv6(&self) -> bool {
        self.inner.has_ipv6()
    }
    async fn policies(&self) -> Result<Vec<Policy>, kernel::Error> {
        self.call(self.inner.policies()).await
    }
    async fn reconcile_policies(
        &self,
        desired: &[PolicySpec],
    ) -> Result<stampede_netlink::Outcome<PolicyChange>, kernel::Error> {
        self.call(self.inner.reconcile_policies(desired)).await
    }
    async fn associations(&self) -> Result<Vec<Association>, kernel::Error> {
        self.call(self.inner.associations()).await
    }
    async fn change_associations(
        &self,
        changes: Vec<AssociationChange>,
    ) -> Result<stampede_netlink::Outcome<AssociationChange>, kernel::Error> {
        self.call(self.inner.change_associations(changes)).await
    }
    async fn make_room(&self, buckets: u32, spi: u32, key: &AeadKey) -> Result<AssociationTable, kernel::Error> {
        self.call(self.inner.make_room(buckets, spi, key)).await
    }
    fn events(&self) -> Result<Events, kernel::Error> {
        self.inner.events()
    }
    fn probe(&self, own: IpAddr, peer: IpAddr) -> io::Result<()> {
        match self.link.way() {
            Way::Open | Way::Cut => self.inner.probe(own, peer),
            Way::Held | Way::Dead => Ok(()),
        }
    }
}

#[async_trait::async_trait]
impl Datapath for Mortal<datapath::Bent> {
    async fn addresses(&self) -> Result<Vec<Address>, kernel::Error> {
        self.call(self.inner.addresses()).await
    }
    async fn bridge(&self) -> Result<Option<u32>, kernel::Error> {
        self.call(self.inner.bridge()).await
    }
    async fn ensure_addresses(&self, link: u32, wanted: Wanted<'_>) -> Result<(), kernel::Error> {
        self.call(self.inner.ensure_addresses(link, wanted)).await
    }
    async fn remove_address(&self, link: u32, spec: &AddressSpec) -> Result<(), kernel::Error> {
        self.call(self.inner.remove_address(link, spec)).await
    }
    async fn announce(&self, address: Ipv4Addr, underlay: Option<IpAddr>) {
        self.call(self.inner.announce(address, underlay)).await;
    }
    async fn ensure_table(&self, table: &Table) -> Result<TableOutcome, kernel::Error> {
        self.call(self.inner.ensure_table(table)).await
    }
    async fn flows(&self) -> Result<Vec<Flow>, kernel::Error> {
        self.call(self.inner.flows()).await
    }
    async fn forget_flows(&self, flows: &[Flow]) -> Result<usize, kernel::Error> {
        self.call(self.inner.forget_flows(flows)).await
    }
    fn nudge(&self, flows: &[Flow], mark: u32) -> Result<io::Result<usize>, kernel::Error> {
        self.inner.nudge(flows, mark)
    }
}
