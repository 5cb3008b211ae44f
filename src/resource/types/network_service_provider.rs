//! Who does the services of a network: the agents.

use super::columns::{COMMON, IDENTITY, OWNER, STATE};
use super::parts;
use crate::resource::declaration::{Derived, Field, Link, LinkPath, Type};

const OWN: &[Field] = &[Field::reference("networkId", "network").create().update().required().not_null().filtered()];

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, OWN],
    collection_methods: &["GET"],
    resource_methods: &["GET"],
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link { name: "network", target: "network", path: LinkPath::One("networkId"), create_default: None },
        Link {
            name: "networkServices",
            target: "networkService",
            path: LinkPath::Many("networkServiceProviderId"),
            create_default: None,
        },
    ],
    listable: true,
    admin_writes: true,
    derived: Some(Derived { from: &["network"], rows: parts::provider }),
    ..Type::bare("networkServiceProvider", "networkServiceProviders")
};
