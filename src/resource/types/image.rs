//! What instances are made from: a Docker image or a disk.

use super::columns::{COMMON, IDENTITY, OWNER, PUBLIC, STATE, actions};
use crate::resource::declaration::{Field, Link, LinkPath, Type};
use crate::resource::validation::{Invalid, InvalidCode};
use serde_json::{Map, Value};

const OWN: &[Field] = &[
    Field::string("checksum").create().filtered(),
    Field::string("format").filtered(),
    Field::one_of("instanceKind", &["container", "virtualMachine"]).create().update().filtered_as_text(),
    Field::int("physicalSizeMb").filtered(),
    Field::string("url").create().filtered(),
    Field::int("virtualSizeMb").filtered(),
];

/// A disk's image is an address; a container's is its uuid, and comes by itself when it is first named.
fn check(input: &Map<String, Value>) -> Result<(), Invalid> {
    let text = |field: &str| input.get(field).and_then(Value::as_str);
    let invalid = |field: &str, message: &str| Err(Invalid::new(InvalidCode::InvalidFormat, field, message));
    if text("url").is_some_and(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
        return invalid("url", "an image is fetched from an address that begins with http:// or https://");
    }
    if text("checksum").is_some_and(|checksum| !is_checksum(checksum)) {
        let message = "a checksum is 32 (md5), 40 (sha1), 64 (sha256) or 128 (sha512) hexadecimal digits, with or without `sha256:` before them";
        return invalid("checksum", message);
    }
    Ok(())
}

/// By its form; which it is decides who reckons it (`src/storage/checksum.rs`).
fn is_checksum(text: &str) -> bool {
    let digits = text.trim().rsplit(':').next().unwrap_or_default().trim();
    matches!(digits.len(), 32 | 40 | 64 | 128) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub const TYPE: Type = Type {
    fields: &[COMMON, OWNER, IDENTITY, STATE, PUBLIC, OWN],
    collection_methods: &["GET", "POST"],
    resource_methods: &["GET", "PUT"],
    actions: actions!("image"),
    links: &[
        Link { name: "account", target: "account", path: LinkPath::One("accountId"), create_default: None },
        Link {
            name: "instances",
            target: "instance",
            path: LinkPath::Many("imageId"),
            create_default: Some("imageId"),
        },
    ],
    listable: true,
    check: Some(check),
    ..Type::bare("image", "images")
};
