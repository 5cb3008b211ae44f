//! What a volume was at a moment.

use super::columns::{COMMON, IDENTITY, OWNER, STATE, action};
use crate::resource::declaration::{Action, Derived, Field, Link, LinkPath, Type};
use crate::resource::derived::part;
use crate::resource::snapshot::{self, Layers};
use crate::resource::{Resource, State, volume};

const OWN: &[Field] = &[
    Field::int(volume::SIZE_MB).filtered(),
    Field::reference(snapshot::VOLUME, volume::SHOWN).create().required().filtered(),
];

const ACTIONS: &[Action] = &[action("remove", snapshot::BASE), action(snapshot::REVERT, snapshot::BASE)];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    collection_methods: &["GET", "POST"],
    resource_methods: &["GET", "DELETE"],
    actions: ACTIONS,
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link { name: "volume", target: volume::SHOWN, path: LinkPath::One(snapshot::VOLUME), create_default: None },
    ],
    listable: true,
    derived: Some(Derived { from: &["instance", volume::BASE], rows }),
    ..Type::bare(snapshot::BASE, "snapshots")
};

/// The snapshots of a volume, or of an instance's own disk.
pub fn rows(_: &str, whole: &Resource) -> Vec<Resource> {
    let layers = Layers::of(whole);
    let one = |snapshot: &snapshot::Snapshot| {
        let mut row = part(whole, snapshot::BASE, snapshot::id(whole.id, snapshot.number));
        row.uuid = format!("{}-snapshot-{}", whole.uuid, snapshot.number);
        row.created = snapshot.created;
        (row.name, row.description) = (snapshot.name.clone(), snapshot.description.clone());
        row.data.clone_from(&snapshot.data);
        match (&layers.failure, whole.state) {
            (_, state @ (State::Removed | State::Purging | State::Purged)) => row.enter(state),
            (Some(failure), _) if !snapshot.made => row.fail(State::Activating, failure.as_str()),
            _ => row.enter(if snapshot.made { State::Active } else { State::Activating }),
        }
        row.set(snapshot::VOLUME, whole.id);
        row.set(volume::SIZE_MB, snapshot.size_mb);
        row
    };
    layers.snapshots.iter().map(one).collect()
}
