//! Addresses and blocks over the embedded store.

use super::support::{alike, environment, store};
use crate::environment::Environment;
use crate::network::address::Error;
use crate::network::{Allocator, SubnetSpec, hold};
use crate::placement::Reserved;
use crate::store::{Store, Transaction, key};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;

const NETWORK: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 0);

fn allocator(store: &Arc<dyn Store>, environment: &Environment, subnet: SubnetSpec) -> Allocator {
    Allocator::new(store.clone(), environment, subnet, Arc::new(1380.into()))
}

async fn commit(store: &Arc<dyn Store>, reserved: &Reserved) -> bool {
    let transaction =
        Transaction { compares: reserved.compares.clone(), success: reserved.operations.clone(), failure: Vec::new() };
    store.commit(transaction).await.unwrap().succeeded
}

async fn count(store: &Arc<dyn Store>, prefix: String) -> usize {
    store.range(&prefix).await.unwrap().entries.len()
}

#[tokio::test]
async fn an_instance_gets_an_address_of_its_hosts_block_with_all_that_follows_from_it() {
    let store = store();
    let allocator = allocator(&store, &environment(), SubnetSpec::default());
    let reserved = allocator.reserve("h1", "1i54").await.unwrap();
    assert!(commit(&store, &reserved).await);
    let address = reserved.address.clone();
    let [_, _, c, d] = address.address.octets();
    assert_eq!(address.mac, format!("02:00:01:00:{c:02x}:{d:02x}"));
    assert_eq!((address.prefix, address.mtu, address.gateway), (16, 1380, Ipv4Addr::new(10, 42, 0, 1)));
    let holder = store.get(&key::address(NETWORK, address.address)).await.unwrap().entry.unwrap();
    assert_eq!(&holder.value[..], br#"{"instance":"1i54","host":"h1"}"#);
    let block = store.get(&key::block(NETWORK, SubnetSpec::default().block_of(address.address))).await.unwrap();
    assert_eq!(&block.entry.unwrap().value[..], br#"{"host":"h1"}"#);
    assert!(!commit(&store, &reserved).await, "the second time somebody has it");
}

#[tokio::test]
async fn many_at_once_over_many_agents_share_one_block_a_host_and_no_address() {
    let store = store();
    let agents: Vec<_> = (0..3).map(|_| Arc::new(allocator(&store, &environment(), SubnetSpec::default()))).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for instance in 0..90 {
        let (store, agent) = (store.clone(), agents[instance % 3].clone());
        let host = format!("h{}", instance / 3 % 3);
        tasks.spawn(async move {
            for _ in 0..50 {
                let reserved = agent.reserve(&host, &format!("1i{instance}")).await.unwrap();
                if commit(&store, &reserved).await {
                    return (reserved.address.address, host);
                }
                agent.conflicted(&host);
            }
            panic!("50 conflicts in a row");
        });
    }
    let got: BTreeMap<_, _> = tasks.join_all().await.into_iter().collect();
    assert_eq!(got.len(), 90);
    assert_eq!(count(&store, key::addresses(NETWORK)).await, 90);
    assert_eq!(count(&store, key::blocks(NETWORK)).await, 3, "one block a host");
    let mut hosts: BTreeMap<Ipv4Addr, BTreeSet<String>> = BTreeMap::new();
    for (address, host) in got {
        hosts.entry(SubnetSpec::default().block_of(address)).or_default().insert(host);
    }
    assert!(hosts.values().all(|hosts| hosts.len() == 1), "{hosts:?}");
}

#[tokio::test]
async fn a_full_subnet_says_so_and_a_released_address_is_found_again() {
    let store = store();
    // Two blocks of /29 with addresses that may be given away: .2 (the router) to .7 and .8 (router) to .15.
    let last = Ipv4Addr::new(10, 42, 0, 15);
    let subnet = SubnetSpec { prefix: 28, block_prefix: 29, last, ..SubnetSpec::default() }.checked().unwrap();
    let (first, second) = (allocator(&store, &environment(), subnet), allocator(&store, &environment(), subnet));
    let mut held = BTreeSet::new();
    for instance in 0..12 {
        let reserved = first.reserve("h1", &format!("1i{instance}")).await.unwrap();
        assert!(commit(&store, &reserved).await);
        assert!(held.insert(reserved.address.address));
    }
    let error = first.reserve("h1", "1i99").await.unwrap_err();
    assert!(matches!(error, Error::Exhausted { blocks: 2, .. }), "{error}");
    let error = second.reserve("h2", "1i99").await.unwrap_err();
    assert!(matches!(error, Error::Exhausted { .. }), "{error}");
    // Released through another agent: the first one looks again before it gives up.
    let freed = *held.first().unwrap();
    store.commit(Transaction::new().then(second.release(freed))).await.unwrap();
    assert_eq!(first.reserve("h1", "1i99").await.unwrap().address.address, freed);
    // What was given up may be given again at once.
    first.abandoned(freed);
    assert_eq!(first.reserve("h1", "1i98").await.unwrap().address.address, freed);
}

#[tokio::test]
async fn two_agents_that_would_pick_the_same_do_not_both_get_it() {
    let store = store();
    let (one, other) =
        (allocator(&store, &alike(), SubnetSpec::default()), allocator(&store, &alike(), SubnetSpec::default()));
    let (a, b) = (one.reserve("h1", "1i1").await.unwrap(), other.reserve("h1", "1i2").await.unwrap());
    assert_eq!(a.address.address, b.address.address, "or this shows nothing");
    assert!(commit(&store, &a).await);
    assert!(!commit(&store, &b).await);
    other.conflicted("h1");
    let b = other.reserve("h1", "1i2").await.unwrap();
    assert_ne!(a.address.address, b.address.address);
    assert!(commit(&store, &b).await);
}

#[tokio::test]
async fn a_block_that_went_to_another_host_gives_no_address() {
    let store = store();
    let allocator = allocator(&store, &environment(), SubnetSpec::default());
    let reserved = allocator.reserve("h1", "1i1").await.unwrap();
    let block = key::block(NETWORK, SubnetSpec::default().block_of(reserved.address.address));
    store.commit(Transaction::new().then(crate::store::Operation::delete(&block))).await.unwrap();
    let value = bytes::Bytes::from_static(br#"{"host":"h2"}"#);
    store.commit(Transaction::new().then(crate::store::Operation::put(&block, value))).await.unwrap();
    assert!(!commit(&store, &reserved).await);
}

/// A store that went back knows neither the address nor the block of what was made since.
#[tokio::test]
async fn what_an_instance_has_already_is_held_for_it() {
    let (store, subnet) = (store(), SubnetSpec::default());
    let address = Ipv4Addr::new(10, 42, 9, 7);
    let held = async |host: &str, instance: &str| hold(store.as_ref(), &subnet, host, instance, address).await;
    held("h1", "1i54").await.unwrap();
    let at = store.get("x").await.unwrap().revision;
    held("h1", "1i54").await.unwrap();
    assert_eq!(store.get("x").await.unwrap().revision, at, "the second time nothing is written");
    held("h2", "1i55").await.unwrap();
    let value = async |key: String| store.get(&key).await.unwrap().entry.map(|entry| entry.value);
    assert_eq!(
        value(key::address(NETWORK, address)).await.as_deref(),
        Some(&br#"{"instance":"1i54","host":"h1"}"#[..])
    );
    let block = value(key::block(NETWORK, subnet.block_of(address))).await;
    assert_eq!(block.as_deref(), Some(&br#"{"host":"h1"}"#[..]));
    let allocator = allocator(&store, &environment(), subnet);
    for _ in 0..61 {
        let reserved = allocator.reserve("h1", "1i60").await.unwrap();
        assert_ne!(reserved.address.address, address);
        assert!(commit(&store, &reserved).await);
    }
}
