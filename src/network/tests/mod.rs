//! The room's parts together, over the real embedded store and, in network namespaces of their own, the real kernel.

mod addresses;
mod apart;
mod docker;
mod encrypted;
mod etcd;
mod eyes;
pub(super) mod hosts;
mod links;
mod ports;
mod senders;
pub(super) mod support;
mod traffic;
mod wire;
