//! The tree as EC2 has it.

use super::facts::{Facts, Row};
use super::tree::{Directory, Kind};
use crate::resource::dns_name::DOMAIN;
use crate::resource::{identifier, instance};

/// All that the contract has; each shows the same.
pub const VERSIONS: &[&str] = &[
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "latest",
];
/// What EC2's software calls what is not known, and what is nothing.
const UNKNOWN: &str = "(unknown)";
const NONE: &str = "none";

/// One version.
pub fn version(facts: &Facts) -> Directory {
    let Some(row) = &facts.row else { return Directory::partial().directory("meta-data", meta_data(facts)) };
    let version = Directory::default().directory("meta-data", meta_data(facts));
    match &row.userdata {
        Some(userdata) => version.leaf("user-data", Kind::Bytes, userdata.clone()),
        None => version,
    }
}

pub fn meta_data(facts: &Facts) -> Directory {
    let Some(row) = &facts.row else { return of_host(Directory::partial(), facts, None) };
    let directory = Directory::default()
        .text("ami-id", row.image.as_deref().unwrap_or(UNKNOWN))
        .text("ami-launch-index", "0")
        .text("ami-manifest-path", UNKNOWN)
        .directory("block-device-mapping", Directory::default());
    let directory = of_host(directory, facts, Some(row))
        .text("instance-action", NONE)
        .text("instance-type", row.kind.as_str())
        .directory("placement", Directory::default().text("availability-zone", row.zone.as_str()))
        .text("profile", "default")
        .text("reservation-id", format!("r-{}", facts.id))
        .directory("services", Directory::default().text("domain", DOMAIN));
    let directory = match row.public {
        Some(public) => {
            directory.text("public-hostname", facts.hostname.as_str()).text("public-ipv4", public.to_string())
        }
        None => directory,
    };
    if row.keys.is_empty() { directory } else { directory.directory("public-keys", keys(row)) }
}

/// What the host knows by itself.
fn of_host(directory: Directory, facts: &Facts, row: Option<&Row>) -> Directory {
    let interface = interface(facts, row);
    let macs = Directory::default().directory(&facts.place.mac, interface);
    let interfaces = Directory::default().directory("macs", macs);
    directory
        .text("hostname", facts.hostname.as_str())
        .text("instance-id", facts.id.as_str())
        .text("local-hostname", facts.hostname.as_str())
        .text("local-ipv4", facts.place.address.to_string())
        .text("mac", facts.place.mac.as_str())
        .directory("network", Directory::default().directory("interfaces", interfaces))
}

fn interface(facts: &Facts, row: Option<&Row>) -> Directory {
    let place = &facts.place;
    let directory = if row.is_some() { Directory::default() } else { Directory::partial() };
    let directory = directory
        .text("device-number", "0")
        .text("local-hostname", facts.hostname.as_str())
        .text("local-ipv4s", place.address.to_string())
        .text("mac", place.mac.as_str())
        .text("subnet-id", identifier::format("subnet", instance::MANAGED_SUBNET))
        .text("subnet-ipv4-cidr-block", format!("{}/{}", place.network, place.prefix));
    let Some(row) = row else { return directory };
    let directory = match &row.account {
        Some(account) => directory.text("owner-id", account.as_str()),
        None => directory,
    };
    match row.public {
        Some(public) => {
            directory.text("public-hostname", facts.hostname.as_str()).text("public-ipv4s", public.to_string())
        }
        None => directory,
    }
}

fn keys(row: &Row) -> Directory {
    row.keys.iter().enumerate().fold(Directory::default(), |keys, (at, key)| {
        let one = Directory::default().text("openssh-key", key.value.as_str());
        keys.directory_as(&at.to_string(), format!("{at}={}", key.name), one)
    })
}
