//! Every type, one file each.

mod account;
mod agent;
mod api_key;
mod api_version;
mod collection;
mod columns;
mod container;
mod credential;
mod credential_instance_map;
mod dhcp_service;
mod dns_service;
mod error;
mod extension_point;
pub mod external_handler;
mod external_handler_external_handler_process_map;
mod external_handler_process;
mod gateway_service;
mod host;
pub mod host_drain;
mod host_ip_address_map;
mod host_nat_gateway_service;
mod host_only_network;
mod host_remove;
mod image;
mod image_storage_pool_map;
mod instance;
mod instance_console;
mod instance_console_input;
mod instance_host_map;
pub mod instance_link;
mod instance_stop;
mod ip_address;
mod ip_address_associate_input;
mod ip_address_nic_map;
mod ip_association;
mod ip_pool;
mod ipsec_tunnel_service;
mod link_service;
mod metadata_service;
mod network;
mod network_service;
mod network_service_provider;
mod nic;
mod parts;
mod physical_host;
pub mod port;
mod port_service;
mod process_definition;
mod process_execution;
mod process_instance;
pub mod publish;
mod register;
mod registration_token;
mod resource;
mod schema;
mod setting;
mod snapshot;
mod ssh_key;
mod storage_pool;
mod storage_pool_host_map;
mod subnet;
mod subnet_ip_pool;
pub mod subscribe;
pub mod virtual_machine;
mod volume;
mod volume_storage_pool_map;
mod zone;

pub use parts::{ip_address as ip_addresses, volume as volumes};
pub use snapshot::rows as snapshots;

use super::Resource;
use super::declaration::Type;

/// All types, in the order in which `/v1/schemas` lists them.
pub const ALL: &[&Type] = &[
    &account::TYPE,
    &agent::TYPE,
    &api_key::TYPE,
    &api_version::TYPE,
    &collection::TYPE,
    &container::TYPE,
    &credential::TYPE,
    &credential_instance_map::TYPE,
    &dhcp_service::TYPE,
    &dns_service::TYPE,
    &error::TYPE,
    &extension_point::TYPE,
    &external_handler::TYPE,
    &external_handler_external_handler_process_map::TYPE,
    &external_handler_process::TYPE,
    &gateway_service::TYPE,
    &host::TYPE,
    &host_drain::TYPE,
    &host_ip_address_map::TYPE,
    &host_nat_gateway_service::TYPE,
    &host_only_network::TYPE,
    &host_remove::TYPE,
    &image::TYPE,
    &image_storage_pool_map::TYPE,
    &instance::TYPE,
    &instance_console::TYPE,
    &instance_console_input::TYPE,
    &instance_host_map::TYPE,
    &instance_link::TYPE,
    &instance_stop::TYPE,
    &ip_address::TYPE,
    &ip_address_associate_input::TYPE,
    &ip_address_nic_map::TYPE,
    &ip_association::TYPE,
    &ip_pool::TYPE,
    &ipsec_tunnel_service::TYPE,
    &link_service::TYPE,
    &metadata_service::TYPE,
    &network::TYPE,
    &network_service::TYPE,
    &network_service_provider::TYPE,
    &nic::TYPE,
    &physical_host::TYPE,
    &port::TYPE,
    &port_service::TYPE,
    &process_definition::TYPE,
    &process_execution::TYPE,
    &process_instance::TYPE,
    &publish::TYPE,
    &register::TYPE,
    &registration_token::TYPE,
    &resource::TYPE,
    &schema::TYPE,
    &setting::TYPE,
    &snapshot::TYPE,
    &ssh_key::TYPE,
    &storage_pool::TYPE,
    &storage_pool_host_map::TYPE,
    &subnet::TYPE,
    &subnet_ip_pool::TYPE,
    &subscribe::TYPE,
    &virtual_machine::TYPE,
    &volume::TYPE,
    &volume_storage_pool_map::TYPE,
    &zone::TYPE,
];

/// A type by its name.
pub fn find(name: &str) -> Option<&'static Type> {
    ALL.iter().copied().find(|declared| declared.name == name)
}

/// A type by its name or plural in any case, as addresses have it.
pub fn find_address(text: &str) -> Option<&'static Type> {
    ALL.iter()
        .copied()
        .find(|declared| declared.plural.eq_ignore_ascii_case(text) || declared.name.eq_ignore_ascii_case(text))
}

/// The base of a type that is referred to; the name itself where it is not (yet) one of ours.
pub fn base_of(name: &'static str) -> &'static str {
    find(name).map_or(name, |declared| declared.base)
}

/// The types stored under `base` beside it.
pub fn subtypes(base: &str) -> impl Iterator<Item = &'static Type> {
    ALL.iter().copied().filter(move |declared| declared.base == base && declared.is_subtype())
}

/// The type of a stored resource: its kind's where that is one of `base`, else the base's.
pub fn of(base: &'static Type, resource: &Resource) -> &'static Type {
    match find(&resource.kind) {
        Some(declared) if declared.base == base.base => declared,
        _ => find(base.base).unwrap_or(base),
    }
}

#[cfg(test)]
mod tests {
    use super::super::declaration::{Form, LinkPath};
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn declarations_hold_together() {
        let mut names = BTreeSet::new();
        for declared in ALL {
            assert!(names.insert(declared.name), "{} is declared twice", declared.name);
            assert!(find(declared.base).is_some(), "{}: its base {} is no type", declared.name, declared.base);
            let mut fields = BTreeSet::new();
            for field in declared.fields() {
                assert!(fields.insert(field.name), "{}.{} is declared twice", declared.name, field.name);
                assert!(
                    field.form == Form::Enum || field.options.is_empty(),
                    "{}.{}: options, but no enum",
                    declared.name,
                    field.name
                );
            }
            for action in declared.actions {
                assert!(action.input.is_none_or(|input| find(input).is_some()), "{}.{}", declared.name, action.name);
                assert!(find(action.output).is_some(), "{}.{}", declared.name, action.name);
            }
            for link in declared.links {
                let target = find(link.target).unwrap_or_else(|| panic!("{}.{}", declared.name, link.name));
                let holder = if let LinkPath::Many(_) = link.path { target } else { declared };
                let (LinkPath::One(field) | LinkPath::OneAsMany(field) | LinkPath::Many(field)) = link.path;
                let form = holder.field(field).map(|field| field.form);
                assert!(matches!(form, Some(Form::Reference(_))), "{}.{}: {field}", declared.name, link.name);
                // What is only written is not shown beside it.
                let hidden = declared.field(link.name).is_some_and(|field| !field.write_only);
                assert!(!hidden, "{}.{} hides a field", declared.name, link.name);
            }
        }
    }
}
