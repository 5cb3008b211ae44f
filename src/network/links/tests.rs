use super::*;
use crate::network::SubnetSpec;
use crate::resource::assignment::PublicPort;
use proptest::prelude::*;
use serde_json::Map;

fn assignment(id: &str, revision: i64, last: u8, links: &[(&str, Option<&str>)]) -> Assignment {
    let port = PublicPort { protocol: Protocol::Tcp, public: 20_000, private: 80 };
    let link = |(at, (name, target)): (u16, &(&str, Option<&str>))| AssignedLink {
        name: (*name).to_owned(),
        target: target.map(str::to_owned),
        ports: vec![PublicPort { public: 20_000 + at, ..port }],
    };
    Assignment {
        token: Token { generation: 1, revision },
        network: Some(SubnetSpec::default().managed(Ipv4Addr::new(10, 42, 7, last), 1380)),
        links: (0..).zip(links).map(link).collect(),
        ..Assignment::example(id)
    }
}

fn endpoint(host: &str, last: u8, ports: &[&str]) -> Endpoint {
    Endpoint {
        address: Ipv4Addr::new(10, 42, 7, last),
        host: host.to_owned(),
        ports: ports.iter().map(|port| (*port).to_owned()).collect(),
        rest: Map::new(),
    }
}

fn leads(links: &Links, last: u8, public: u16) -> Option<Option<String>> {
    let key = (Ipv4Addr::new(10, 42, 7, last), Protocol::Tcp, public);
    links.plan("h1").ways.get(&key).map(|to| to.map(|to| to.to_string()))
}

#[test]
fn a_link_leads_where_its_target_is_and_nowhere_without_one() {
    let links = Links::new(&[assignment("1i1", 5, 9, &[("db", Some("1i2")), ("web", None)])], None);
    assert_eq!((leads(&links, 9, 20_000), leads(&links, 9, 20_001)), (Some(None), Some(None)));
    links.found("1i2", Some(endpoint("h1", 20, &[])));
    assert_eq!(leads(&links, 9, 20_000), Some(Some("10.42.7.20:80".to_owned())));
    assert_eq!(links.plan("h1").here.len(), 1);
    assert_eq!(links.plan("h2").here.len(), 0, "another host's is reached straight");
    links.put(&assignment("1i1", 5, 9, &[("db", None), ("web", Some("1i1"))]));
    links.found("1i1", Some(endpoint("h1", 9, &[])));
    assert_eq!(leads(&links, 9, 20_000), Some(None));
    assert_eq!(leads(&links, 9, 20_001), Some(Some("10.42.7.9:80".to_owned())), "itself");
    assert_eq!(links.plan("h1").itself.len(), 1);
    links.put(&Assignment { desired: Desired::Stopped, ..assignment("1i1", 5, 9, &[("db", None)]) });
    assert_eq!(links.plan("h1"), Linked::default());
}

#[test]
fn its_name_leads_its_own_instance_to_the_target_itself() {
    let links = Links::new(&[assignment("1i1", 5, 9, &[("Db", Some("1i2")), ("web", None)])], None);
    links.found("1i2", Some(endpoint("h2", 20, &[])));
    assert_eq!(links.addresses("1i1", "db"), Some(vec![Ipv4Addr::new(10, 42, 7, 20)]));
    assert_eq!(links.addresses("1i1", "web"), Some(Vec::new()), "it leads to nobody now");
    assert_eq!(links.addresses("1i1", "cache"), None);
    assert_eq!(links.addresses("1i2", "db"), None, "nobody else's");
    links.found("1i2", None);
    assert_eq!(links.addresses("1i1", "db"), Some(Vec::new()));
}

#[test]
fn until_it_is_known_where_its_new_target_is_a_link_leads_to_the_old_one() {
    let aimed = |target| assignment("1i1", 5, 9, &[("db", target)]);
    let links = Links::new(&[aimed(Some("1i2"))], None);
    links.found("1i2", Some(endpoint("h1", 20, &[])));
    assert_eq!(leads(&links, 9, 20_000), Some(Some("10.42.7.20:80".to_owned())));
    links.put(&aimed(Some("1i3")));
    for _ in 0..2 {
        assert_eq!(leads(&links, 9, 20_000), Some(Some("10.42.7.20:80".to_owned())));
        assert_eq!(links.plan("h1").here, BTreeSet::from([Ipv4Addr::new(10, 42, 7, 20)]), "and by the same way");
    }
    links.found("1i3", Some(endpoint("h2", 30, &[])));
    assert_eq!(leads(&links, 9, 20_000), Some(Some("10.42.7.30:80".to_owned())));
    assert!(links.plan("h1").here.is_empty());
    links.put(&aimed(Some("1i4")));
    links.found("1i4", None);
    assert_eq!(leads(&links, 9, 20_000), Some(None), "it is known to be nowhere");
    links.found("1i3", Some(endpoint("h2", 30, &[])));
    links.put(&aimed(Some("1i3")));
    assert_eq!(leads(&links, 9, 20_000), Some(Some("10.42.7.30:80".to_owned())));
    links.put(&aimed(None));
    assert_eq!(leads(&links, 9, 20_000), Some(None), "to nobody at once");
}

#[test]
fn the_same_again_is_no_news() {
    let links = Links::new(&[assignment("1i1", 5, 9, &[("db", Some("1i2"))])], None);
    links.found("1i2", Some(endpoint("h1", 20, &[])));
    links.found("1i3", None);
    let changes = links.changes();
    links.put(&assignment("1i1", 5, 9, &[("db", Some("1i2"))]));
    links.found("1i2", Some(endpoint("h1", 20, &[])));
    links.found("1i3", None);
    links.forget("1i4");
    assert!(!changes.0.has_changed().unwrap());
}

#[test]
fn ports_that_a_target_has_and_the_link_has_not_are_lacking() {
    let links = Links::new(&[assignment("1i1", 5, 9, &[("db", Some("1i2"))])], None);
    links.found("1i2", Some(endpoint("h1", 20, &["80/tcp"])));
    assert!(links.lacking().is_empty());
    links.found("1i2", Some(endpoint("h1", 20, &["80/tcp", "53/udp", "later"])));
    let lacking: Vec<Lacking> = links.lacking().into_iter().collect();
    assert_eq!(lacking[0].ports, [(53, Protocol::Udp)]);
    assert_eq!(links.token("1i1"), Some(Token { generation: 1, revision: 5 }));
}

#[test]
fn of_two_with_one_address_the_later_claim_is_led() {
    let known = [assignment("1i1", 7, 9, &[("db", Some("1i5"))]), assignment("1i2", 5, 9, &[("db", Some("1i6"))])];
    for order in [[0, 1], [1, 0]] {
        let links = Links::new(&order.map(|at| known[at].clone()), None);
        links.found("1i5", Some(endpoint("h1", 25, &[])));
        links.found("1i6", Some(endpoint("h1", 26, &[])));
        assert_eq!(leads(&links, 9, 20_000), Some(Some("10.42.7.25:80".to_owned())));
    }
}

#[test]
fn where_links_led_is_known_at_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("links.json");
    let known = [assignment("1i1", 5, 9, &[("db", Some("1i2"))])];
    save(&path, &BTreeMap::from([("1i2".to_owned(), endpoint("h2", 20, &["80/tcp"]))])).unwrap();
    assert_eq!(leads(&Links::new(&known, Some(&path)), 9, 20_000), Some(Some("10.42.7.20:80".to_owned())));
    std::fs::write(&path, "{").unwrap();
    assert_eq!(leads(&Links::new(&known, Some(&path)), 9, 20_000), Some(None), "what is lost is found again");
}

proptest! {
    #[test]
    fn each_port_of_each_link_is_led_or_refused(
        wishes in prop::collection::vec((0..6_u8, 0..9_i64, prop::collection::vec(prop::option::of(0..6_u8), 0..4)), 0..8),
        up in prop::collection::btree_set(0..6_u8, 0..6),
    ) {
        let name = |id: u8| format!("1i{id}");
        let mut wanted = BTreeMap::new();
        let links = Links::new(&[], None);
        for (id, revision, targets) in &wishes {
            let targets: Vec<Option<String>> = targets.iter().map(|target| target.map(name)).collect();
            let of: Vec<(&str, Option<&str>)> = targets.iter().map(|target| ("db", target.as_deref())).collect();
            links.put(&assignment(&name(*id), *revision, *id, &of));
            wanted.insert(*id, targets);
        }
        up.iter().for_each(|id| links.found(&name(*id), Some(endpoint("h1", *id, &[]))));
        let plan = links.plan("h1");
        prop_assert_eq!(plan.ways.len(), wanted.values().map(Vec::len).sum::<usize>());
        for (id, targets) in wanted {
            for (at, target) in (0..).zip(targets) {
                let to = plan.ways[&(Ipv4Addr::new(10, 42, 7, id), Protocol::Tcp, 20_000 + at)];
                let there = target.and_then(|target| up.iter().copied().find(|id| name(*id) == target));
                prop_assert_eq!(to.map(|to| to.ip().octets()[3]), there);
                prop_assert!(to.is_none_or(|to| plan.here.contains(to.ip())));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_it_leads_to_last_is_followed_however_soon_after_another() {
    let environment = Environment::system().unwrap();
    let store: Arc<dyn Store> = Arc::new(crate::store::embedded::Embedded::in_memory(&environment).unwrap());
    for (target, last) in [("1i2", 20), ("1i3", 30), ("1i4", 40)] {
        let (key, there) = (key::endpoint(target), endpoint("h1", last, &[]));
        let put = crate::store::Operation::put(&key, crate::store::encode(&key, &there).unwrap());
        store.commit(crate::store::Transaction::new().then(put)).await.unwrap();
    }
    let aimed = |target| assignment("1i1", 5, 9, &[("db", Some(target))]);
    let links = Links::new(&[aimed("1i2")], None);
    let following = tokio::spawn(links.clone().follow(store, environment, None));
    let leads_to = async |last: u8| {
        let there = Some(Some(format!("10.42.7.{last}:80")));
        let found = async {
            while leads(&links, 9, 20_000) != there {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), found).await.unwrap_or_else(|_| panic!("never {there:?}"));
    };
    for round in 0..1_000_u32 {
        links.put(&aimed("1i2"));
        leads_to(20).await;
        links.put(&aimed("1i3"));
        // Each time at another moment of what that sets going.
        (0..round % 200 * 40).for_each(|_| std::hint::spin_loop());
        links.put(&aimed("1i4"));
        leads_to(40).await;
    }
    following.abort();
}
