use proptest::prelude::*;

use super::*;

fn flag() -> impl Strategy<Value = Option<bool>> {
    any::<Option<bool>>()
}

fn vxlan() -> impl Strategy<Value = Vxlan> {
    (1..4u32, 4790..4792u16, 1..3u8, any::<[bool; 2]>()).prop_map(|(vni, port, host, [learning, group_policy])| Vxlan {
        vni,
        port,
        local: IpAddr::from([198, 18, 0, host]),
        learning,
        group_policy,
    })
}

fn spec() -> impl Strategy<Value = (LinkSpec, Option<u32>)> {
    let kind = prop_oneof![Just(LinkKind::Bridge), vxlan().prop_map(LinkKind::Vxlan)];
    let port = (flag(), flag(), flag());
    let mac = prop::option::of(0..3u8);
    let settings = (prop::option::of(1280..1283u32), mac, prop::option::of("[ab]"), any::<bool>());
    (kind, settings, prop::option::of(5..7u32), port).prop_map(|(kind, (mtu, mac, alias, up), master, port)| {
        let port = PortFlags { isolated: port.0, learning: port.1, unicast_flood: port.2 };
        let spec = LinkSpec {
            mtu,
            mac: mac.map(|last| Mac([2, 0, 0, 0, 0, last])),
            alias,
            up,
            master: master.map(|master| format!("br{master}")),
            port: if master.is_some() { port } else { PortFlags::default() },
            ..LinkSpec::new("x", kind)
        };
        (spec, master)
    })
}

fn fresh(desired: &LinkSpec, index: u32) -> Link {
    Link {
        index,
        name: desired.name.clone(),
        kind: desired.kind.name().to_owned(),
        vxlan: match desired.kind {
            LinkKind::Vxlan(vxlan) => Some(vxlan),
            _ => None,
        },
        mtu: 1500,
        mac: Some(Mac([0xfe; 6])),
        alias: None,
        up: false,
        carrier: false,
        master: None,
        port: PortFlags::default(),
        lower: None,
    }
}

/// What the kernel would make of the changes.
fn apply(current: Option<Link>, desired: &LinkSpec, changes: &[Change]) -> Option<Link> {
    changes.iter().fold(current, |link, change| match change {
        Change::Delete { index } => {
            assert_eq!(link.map(|link| link.index), Some(*index));
            None
        }
        Change::Create => {
            assert_eq!(link, None, "created over one that is there");
            Some(fresh(desired, 100))
        }
        Change::Set(settings) => {
            let mut link = link.expect("set on a link that is there");
            link.mtu = settings.mtu.unwrap_or(link.mtu);
            link.mac = settings.mac.or(link.mac);
            link.alias = settings.alias.clone().or(link.alias);
            if settings.master.is_some() && settings.master != link.master {
                link.master = settings.master;
                link.port = PortFlags { isolated: Some(false), learning: Some(true), unicast_flood: Some(true) };
            }
            link.port.isolated = settings.port.isolated.or(link.port.isolated);
            link.port.learning = settings.port.learning.or(link.port.learning);
            link.port.unicast_flood = settings.port.unicast_flood.or(link.port.unicast_flood);
            link.up = settings.up.unwrap_or(link.up);
            Some(link)
        }
    })
}

proptest! {
    /// From nothing or from any earlier wish of the same kind, one plan is enough and a second one is empty.
    #[test]
    fn a_plan_reaches_what_is_desired_in_one_go((before, before_master) in spec(), (after, after_master) in spec()) {
        let first = plan(None, &before, before_master).unwrap();
        let made = apply(None, &before, &first).unwrap();
        prop_assert_eq!(plan(Some(&made), &before, before_master).unwrap(), vec![]);
        match plan(Some(&made), &after, after_master) {
            Ok(second) => {
                let made = apply(Some(made), &after, &second).unwrap();
                prop_assert_eq!(plan(Some(&made), &after, after_master).unwrap(), vec![]);
            }
            Err(error) => {
                prop_assert!(matches!(error, Error::KindDiffers { .. }), "{error}");
                prop_assert_ne!(before.kind.name(), after.kind.name());
            }
        }
    }
}

#[test]
fn a_vxlan_device_is_made_anew_only_for_what_cannot_be_changed() {
    let vxlan =
        Vxlan { vni: 42, port: 4790, local: IpAddr::from([198, 18, 0, 1]), learning: false, group_policy: false };
    let desired = LinkSpec { mtu: Some(1380), ..LinkSpec::new("v", LinkKind::Vxlan(vxlan)) };
    let mut current = Link { up: true, ..fresh(&desired, 7) };
    let mtu = Settings { mtu: Some(1380), ..Settings::default() };
    assert_eq!(plan(Some(&current), &desired, None).unwrap(), vec![Change::Set(mtu)]);
    current.vxlan = Some(Vxlan { port: 4789, ..vxlan });
    let changes = plan(Some(&current), &desired, None).unwrap();
    assert_eq!(changes[..2], [Change::Delete { index: 7 }, Change::Create]);
}

#[test]
fn names_the_kernel_refuses_are_refused_here() {
    for bad in ["", ".", "..", "a/b", "a b", "a:b", "sixteen-bytes-xx"] {
        assert!(matches!(check_name(bad), Err(Error::InvalidName { .. })), "{bad:?}");
    }
    assert!(check_name("fifteen-bytes-x").is_ok());
}
