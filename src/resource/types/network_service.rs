//! What a network does for its instances, of whatever kind.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};

/// What every kind has.
pub const SERVICE: &[Field] = &[
    Field::reference("networkId", "network").create().update().required().not_null().filtered(),
    Field::reference("networkServiceProviderId", "networkServiceProvider").create().update().filtered(),
];

/// A kind of its own.
pub const fn kind(name: &'static str, plural: &'static str) -> Type {
    Type {
        fields: &[COMMON, OWNER, IDENTITY, STATE, SERVICE],
        collection_methods: &["GET"],
        resource_methods: &["GET"],
        links: &[
            Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
            Link { name: "network", target: "network", path: LinkPath::One("networkId"), create_default: None },
            Link {
                name: "networkServiceProvider",
                target: "networkServiceProvider",
                path: LinkPath::One("networkServiceProviderId"),
                create_default: None,
            },
        ],
        listable: true,
        admin_writes: true,
        base: "networkService",
        ..Type::bare(name, plural)
    }
}

pub const TYPE: Type = Type {
    derived: Some(Derived { from: &["network"], rows: parts::services }),
    ..kind("networkService", "networkServices")
};
