//! What an instance writes to: its own disk, a container's layer over its image; and data volumes of virtual machines.

use super::columns::{COMMON, IDENTITY, OWNER, STATE, action};
use super::parts;
use crate::resource::declaration::{Action, Derived, Field, Link, LinkPath, Type};
use crate::resource::validation::{Invalid, InvalidCode};
use crate::resource::volume;
use serde_json::{Map, Value};

const OWN: &[Field] = &[
    Field::string(volume::ALLOCATION_STATE).filtered(),
    Field::string(volume::ATTACHED_STATE).filtered(),
    Field::int(volume::SLOT).filtered(),
    Field::string(volume::FORMAT).filtered(),
    Field::reference("hostId", "host").filtered(),
    Field::reference("imageId", "image").create().update().filtered(),
    Field::reference(volume::INSTANCE, "instance").create().update().filtered(),
    Field::int(volume::SIZE_MB).create().update().range(1, volume::LARGEST_MB).filtered(),
    Field::reference("zoneId", "zone").create().update().filtered(),
];

const ACTIONS: &[Action] = &[action("purge", "volume"), action("remove", "volume"), action("restore", "volume")];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    collection_methods: &["GET", "POST"],
    resource_methods: &["GET", "PUT", "DELETE"],
    actions: ACTIONS,
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link { name: "image", target: "image", path: LinkPath::One("imageId"), create_default: None },
        Link { name: "instance", target: "instance", path: LinkPath::One("instanceId"), create_default: None },
        Link {
            name: "volumeStoragePoolMaps",
            target: "volumeStoragePoolMap",
            path: LinkPath::Many("volumeId"),
            create_default: None,
        },
    ],
    listable: true,
    check: Some(check),
    derived: Some(Derived { from: &["instance", "dataVolume"], rows: parts::volume }),
    ..Type::bare("volume", "volumes")
};

fn check(input: &Map<String, Value>) -> Result<(), Invalid> {
    if input.contains_key("imageId") {
        let message =
            "a volume begins empty; for one with an image on it make a virtual machine, whose disk it then is";
        return Err(Invalid::new(InvalidCode::InvalidOption, "imageId", message));
    }
    if !input.contains_key(volume::SIZE_MB) {
        let message = "say how large it is to be, in mebibytes: 10240 is 10 GB";
        return Err(Invalid::new(InvalidCode::MissingRequired, volume::SIZE_MB, message));
    }
    Ok(())
}
