//! The handle through which associations and policies are asked for and made.

use std::{os::fd::BorrowedFd, sync::Arc};

use netlink_sys::protocols::NETLINK_XFRM;

use super::{
    Association, AssociationChange, AssociationId, AssociationSpec, AssociationTable, Policy, PolicyChange, PolicyId,
    PolicySpec, Understood,
    message::{
        self, DELETE_ASSOCIATION, DELETE_POLICY, GET_ASSOCIATION, GET_POLICY, NEW_ASSOCIATION, NEW_POLICY,
        UPDATE_ASSOCIATION, UPDATE_POLICY, understand,
    },
    plan_associations, plan_policies, table,
};
use crate::{
    Error, Outcome, handle,
    socket::{Channel, Message},
};

/// A socket into one network namespace's XFRM. Cheap to clone; all clones share it. Changes, and reading keys, need CAP_NET_ADMIN.
#[derive(Debug, Clone)]
pub struct Xfrm {
    pub(super) channel: Arc<Channel>,
}

impl Xfrm {
    /// Opens it in the calling thread's network namespace. Must be called within a tokio runtime with I/O.
    ///
    /// # Errors
    /// [`Error::Open`]: also where the kernel has no xfrm_user.
    pub fn open() -> Result<Self, Error> {
        Self::open_maybe_in(None)
    }

    /// Opens it in another network namespace, see [`crate::Netlink::open_in`].
    pub fn open_in(namespace: BorrowedFd<'_>) -> Result<Self, Error> {
        Self::open_maybe_in(Some(namespace))
    }

    fn open_maybe_in(namespace: Option<BorrowedFd<'_>>) -> Result<Self, Error> {
        Ok(Self { channel: Arc::new(handle::open_channel(namespace, NETLINK_XFRM)?) })
    }

    async fn dump<T>(&self, action: &str, kind: u16, read: impl Fn(Understood) -> Option<T>) -> Result<Vec<T>, Error> {
        let frames = self.channel.dump(&message::list(kind)).await.map_err(|source| Error::request(action, source))?;
        Ok(frames.iter().filter_map(|frame| understand(frame.kind, &frame.payload)).filter_map(read).collect())
    }

    /// One answer, or nothing where the kernel knows no such thing.
    async fn get(&self, action: String, request: Message) -> Result<Option<Understood>, Error> {
        let answers =
            self.channel.request(&[request]).await.map_err(|source| Error::request(action.clone(), source))?;
        match answers.into_iter().next().transpose().map_err(|source| Error::request(action, source)) {
            Ok(frames) => Ok(frames.iter().flatten().find_map(|frame| understand(frame.kind, &frame.payload))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All associations of the namespace, also those of others.
    pub async fn associations(&self) -> Result<Vec<Association>, Error> {
        self.dump("list associations", GET_ASSOCIATION, |understood| match understood {
            Understood::Association(association) => Some(*association),
            _ => None,
        })
        .await
    }

    /// One association.
    pub async fn association(&self, id: &AssociationId) -> Result<Option<Association>, Error> {
        let request = message::name_association(GET_ASSOCIATION, id)?;
        Ok(match self.get(format!("get {id}"), request).await? {
            Some(Understood::Association(association)) => Some(*association),
            _ => None,
        })
    }

    /// How large the kernel's table of associations is; zeros from a kernel that does not say.
    pub async fn association_table(&self) -> Result<AssociationTable, Error> {
        let action = "ask how large the table of associations is".to_owned();
        Ok(match self.get(action, table::ask()).await? {
            Some(Understood::Table(table)) => table,
            _ => AssociationTable::default(),
        })
    }

    /// All policies of the namespace, also those of others.
    pub async fn policies(&self) -> Result<Vec<Policy>, Error> {
        self.dump("list policies", GET_POLICY, |understood| match understood {
            Understood::Policy(policy) => Some(*policy),
            _ => None,
        })
        .await
    }

    /// One policy.
    pub async fn policy(&self, id: &PolicyId) -> Result<Option<Policy>, Error> {
        let request = message::name_policy(GET_POLICY, id)?;
        Ok(match self.get(format!("get {id}"), request).await? {
            Some(Understood::Policy(policy)) => Some(*policy),
            _ => None,
        })
    }

    /// Makes our associations those desired; see [`plan_associations`] for what it refuses.
    pub async fn reconcile_associations(
        &self,
        desired: &[AssociationSpec],
    ) -> Result<Outcome<AssociationChange>, Error> {
        let plan = plan_associations(&self.associations().await?, desired);
        let mut outcome = self.change_associations(plan.changes).await?;
        for refused in plan.refused {
            let error = Error::KeyInUse { association: refused.id.to_string() };
            outcome.record(AssociationChange::Add(refused), Err(error));
        }
        Ok(outcome)
    }

    /// Makes these changes, in order. For those who know what is there: adding what was there before uses its key again.
    pub async fn change_associations(
        &self,
        changes: Vec<AssociationChange>,
    ) -> Result<Outcome<AssociationChange>, Error> {
        handle::make(&self.channel, changes, |change| {
            Ok(match change {
                AssociationChange::Add(spec) => (message::write_association(NEW_ASSOCIATION, spec)?, false),
                AssociationChange::Update(spec) => (message::write_association(UPDATE_ASSOCIATION, spec)?, false),
                AssociationChange::Remove(id) => (message::name_association(DELETE_ASSOCIATION, id)?, true),
            })
        })
        .await
    }

    /// Makes our policies those desired.
    pub async fn reconcile_policies(&self, desired: &[PolicySpec]) -> Result<Outcome<PolicyChange>, Error> {
        self.change_policies(plan_policies(&self.policies().await?, desired)).await
    }

    /// Makes these changes, in order.
    pub async fn change_policies(&self, changes: Vec<PolicyChange>) -> Result<Outcome<PolicyChange>, Error> {
        handle::make(&self.channel, changes, |change| {
            Ok(match change {
                PolicyChange::Add(spec) => (message::write_policy(NEW_POLICY, spec)?, false),
                PolicyChange::Replace(spec) => (message::write_policy(UPDATE_POLICY, spec)?, false),
                PolicyChange::Remove(id) => (message::name_policy(DELETE_POLICY, id)?, true),
            })
        })
        .await
    }
}
