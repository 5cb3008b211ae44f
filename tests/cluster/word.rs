//! What a host's agent says of its exclusive work binds it: what it may have called ended is not started before the claim was
//! read again.

use crate::{environment, join, until};
use serde_json::json;
use stampede::compute::supervisor::cgroup::Cgroups;
use stampede::host::answer::answer;
use stampede::host::exclusive::Exclusives;
use stampede::membership::Membership;
use stampede::placement::record::token;
use stampede::resource::Resource;
use stampede::resource::assignment::{Assignment, Container, Desired, Exclusive, OnEnd, Workload};
use stampede::store::embedded::Embedded;
use stampede::store::ledger::Ledger;
use stampede::store::{Operation, Store, Transaction, key};
use stampede::systemd::fallback::Tasks;
use std::sync::Arc;

#[tokio::test]
async fn what_may_have_been_called_ended_is_asked_for_again() {
    let directory = tempfile::tempdir().unwrap();
    let environment = environment();
    let store: Arc<dyn Store> = Arc::new(Embedded::in_memory(&environment).unwrap());
    let joining = join(&store, &environment, "h1", directory.path());
    let run = joining.run_dir.clone();
    let membership = Membership::join(joining).await.unwrap();
    let exclusives = Exclusives::new(membership.clone(), Arc::new(Cgroups::default()), false);
    let claim = key::on("h1", "1i7");
    let put = Operation::put(&claim, r#"{"id":7,"uuid":"u","generation":1}"#.into());
    let token = token(1, store.commit(Transaction::new().then(put)).await.unwrap().revision);
    let row: Resource = serde_json::from_value(json!({
        "id": 7, "kind": "container", "uuid": "u", "created": 5, "state": "running", "generation": 1, "hostName": "h1",
        "hostId": 1, "desired": "running", "onHostLoss": "move",
    }))
    .unwrap();
    let mut cleared = None;
    until("its clearance", async || {
        cleared = exclusives.allowed("1i7", &row, token, None, true).await.unwrap().flatten();
        cleared.is_some()
    })
    .await;
    let known = assignment(token, cleared);
    let ledger = Ledger::open(&directory.path().join("ledger")).unwrap();
    ledger.put_assignment(&known).unwrap();

    // Somebody else has it by now; in the same life, that is not looked at.
    store.commit(Transaction::new().then(Operation::delete(&claim))).await.unwrap();
    let allowed = async || exclusives.allowed("1i7", &row, token, Some(&known), true).await.unwrap();
    assert_eq!(allowed().await, Some(cleared));
    assert!(!exclusives.is_given_up(&known));

    let nothing = Tasks::new(&environment, Arc::new(|_, _, _| Box::pin(std::future::pending())));
    answer(&membership, &environment, &run, &ledger, &nothing).await;
    assert!(exclusives.is_given_up(&known), "nor may it be started by what was allowed before");
    assert_eq!(allowed().await, None);
    assert_eq!(allowed().await, None, "as often as it is asked");
}

fn assignment(token: stampede::resource::assignment::Token, exclusive: Option<Exclusive>) -> Assignment {
    Assignment {
        id: "1i7".into(),
        uuid: "u".into(),
        token,
        generation: 1,
        restarts: 0,
        desired: Desired::Running,
        on_end: OnEnd::Stop,
        native: None,
        exclusive,
        workload: Workload::Container(Container { image: "busybox".into(), ..Container::default() }),
        account: None,
        network: None,
        ports: Vec::new(),
        floating: Vec::new(),
        links: Vec::new(),
    }
}
