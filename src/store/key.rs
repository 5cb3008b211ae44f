//! The layout under `/stampede/v1/`: the one place that spells keys.
//!
//! `<host>` is a host's name: what people look for with `etcdctl get --prefix /stampede`.

use std::net::Ipv4Addr;

/// Everything of ours is below.
pub const ROOT: &str = "/stampede/v1/";
/// Number of shards of `todo/`.
pub const SHARDS: u32 = 64;

pub fn cluster() -> String {
    format!("{ROOT}cluster")
}
/// There while a backup is being read in, and after one that broke off: no agent makes a cluster meanwhile.
pub fn importing() -> String {
    format!("{ROOT}importing")
}
/// The cluster's certificate authority: certificates, and their keys sealed.
pub fn authority() -> String {
    format!("{ROOT}authority")
}
/// A join token, by its id.
pub fn token(id: &str) -> String {
    format!("{ROOT}token/{id}")
}
pub fn tokens() -> String {
    format!("{ROOT}token/")
}
/// A browser's session, by the hash of its token.
pub fn session(hash: &str) -> String {
    format!("{ROOT}session/{hash}")
}
/// `kind` is the base type: `instance`, `image`, `account`, `credential`, `network`, `subnet`.
pub fn resource(kind: &str, id: u64) -> String {
    format!("{ROOT}resource/{kind}/{id}")
}
pub fn resources(kind: &str) -> String {
    format!("{ROOT}resource/{kind}/")
}
/// Those of every type.
pub fn all_resources() -> String {
    format!("{ROOT}resource/")
}
pub fn host(name: &str) -> String {
    format!("{ROOT}host/{name}")
}
pub fn hosts() -> String {
    format!("{ROOT}host/")
}
pub fn alive(host: &str) -> String {
    format!("{ROOT}alive/{host}")
}
pub fn all_alive() -> String {
    format!("{ROOT}alive/")
}
/// That `host` was seen gone, by whom takes over from it; goes with its next `alive/`.
pub fn lost(host: &str) -> String {
    format!("{ROOT}lost/{host}")
}
pub fn all_lost() -> String {
    format!("{ROOT}lost/")
}
/// How long who takes over from `host` has to wait.
pub fn fence(host: &str) -> String {
    format!("{ROOT}fence/{host}")
}
pub fn mesh(host: &str) -> String {
    format!("{ROOT}mesh/{host}")
}
pub fn all_mesh() -> String {
    format!("{ROOT}mesh/")
}
pub fn alloc(host: &str) -> String {
    format!("{ROOT}alloc/{host}")
}
pub fn allocs() -> String {
    format!("{ROOT}alloc/")
}
/// The claim of `instance` (as on the wire: `1i54`) on `host`.
pub fn on(host: &str, instance: &str) -> String {
    format!("{ROOT}on/{host}/{instance}")
}
pub fn all_on(host: &str) -> String {
    format!("{ROOT}on/{host}/")
}
pub fn todo(shard: u32, kind: &str, id: u64) -> String {
    format!("{ROOT}todo/{shard:02}/{kind}/{id}")
}
pub fn todo_shard(shard: u32) -> String {
    format!("{ROOT}todo/{shard:02}/")
}
/// The shard in which the things of `kind` and `id` wait.
pub fn shard(kind: &str, id: u64) -> u32 {
    let mixed = kind.bytes().fold(id, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
    (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as u32 % SHARDS
}
/// That `host` has `volume` (as on the wire: `1v55`), or has to see to an instance's own disk (`1i54`): written whenever something else
/// is wanted of it.
pub fn disk(host: &str, volume: &str) -> String {
    format!("{ROOT}disk/{host}/{volume}")
}
pub fn disks(host: &str) -> String {
    format!("{ROOT}disk/{host}/")
}
/// Where `instance` is reached; it ends so that it can be followed as a prefix.
pub fn endpoint(instance: &str) -> String {
    format!("{ROOT}endpoint/{instance}/")
}
/// A name of `instance` (as on the wire: `1i54`) on the managed network; one for each of its names, while it runs.
pub fn dns(account: u64, name: &str, instance: &str) -> String {
    format!("{}{instance}", dns_name(account, name))
}
/// All of an account's instances that have the name.
pub fn dns_name(account: u64, name: &str) -> String {
    format!("{ROOT}dns/{account}/{name}/")
}
/// An external handler's event that waits for its answer.
pub fn event(id: &str) -> String {
    format!("{ROOT}event/{id}")
}
pub fn events() -> String {
    format!("{ROOT}event/")
}
/// `subnet` and `block` by their network addresses: `10.42.0.0` and `10.42.1.64`.
pub fn block(subnet: Ipv4Addr, block: Ipv4Addr) -> String {
    format!("{ROOT}block/{subnet}/{block}")
}
pub fn all_blocks() -> String {
    format!("{ROOT}block/")
}
pub fn blocks(subnet: Ipv4Addr) -> String {
    format!("{ROOT}block/{subnet}/")
}
pub fn address(subnet: Ipv4Addr, address: Ipv4Addr) -> String {
    format!("{ROOT}address/{subnet}/{address}")
}
pub fn all_addresses() -> String {
    format!("{ROOT}address/")
}
pub fn addresses(subnet: Ipv4Addr) -> String {
    format!("{ROOT}address/{subnet}/")
}
/// Which address of a pool was acquired: the number of its row.
pub fn floating(pool: u64, address: Ipv4Addr) -> String {
    format!("{ROOT}floating/{pool}/{address}")
}
pub fn floatings(pool: u64) -> String {
    format!("{ROOT}floating/{pool}/")
}
/// Which networks pools have.
pub fn pools() -> String {
    format!("{ROOT}pools")
}
/// Which host has a floating address, by its number; while there is none nobody may. It ends so that it can be followed as a prefix.
pub fn holder(address: u64) -> String {
    format!("{ROOT}holder/{address}/")
}
pub fn holders() -> String {
    format!("{ROOT}holder/")
}
/// A name that only one may have: `name/<space>/<name>`.
pub fn name(space: &str, name: &str) -> String {
    format!("{ROOT}name/{space}/{name}")
}
/// Which resource has this uuid: `<kind>/<id>`.
pub fn uuid(uuid: &str) -> String {
    format!("{ROOT}uuid/{uuid}")
}
pub fn counter(name: &str) -> String {
    format!("{ROOT}counter/{name}")
}
pub fn counters() -> String {
    format!("{ROOT}counter/")
}
/// What is about to be made for an account that has a quota.
pub fn quota(account: u64) -> String {
    format!("{ROOT}quota/{account}")
}
/// The tombstone of what was purged; kept 7 days.
pub fn gone(uuid: &str) -> String {
    format!("{ROOT}gone/{uuid}")
}
pub fn all_gone() -> String {
    format!("{ROOT}gone/")
}

/// What comes behind `prefix`: `last(&all_on("h1"), key)` is the instance.
pub fn last<'a>(prefix: &str, key: &'a str) -> &'a str {
    key.strip_prefix(prefix).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_all_used_and_within_bounds() {
        let mut seen = [0; SHARDS as usize];
        for id in 0..6400 {
            seen[shard("instance", id) as usize] += 1;
        }
        assert!(seen.iter().all(|&count| (50..=200).contains(&count)), "{seen:?}");
    }

    #[test]
    fn names_that_start_alike_do_not_share_a_prefix() {
        assert!(!on("h10", "1i1").starts_with(&all_on("h1")));
        assert!(!endpoint("1i10").starts_with(&endpoint("1i1")));
    }
}
