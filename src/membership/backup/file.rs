//! A backup as a file: JSON lines, which people can read and which show when they were cut or altered.
//!
//! ```text
//! {"stampede":"backup","version":1,"cluster":"<id>","generation":1,"revision":812,"created":1790000000000,"keys":2}
//! {"key":"/stampede/v1/cluster","value":{"id":"<id>",…}}
//! {"key":"/stampede/v1/counter/host","value":101}
//! {"end":"<sha-256 of all lines before, in hexadecimal>"}
//! ```
//! Keys are in the order in which they came into being: some of it (whose block was first) means something. A value that is
//! not JSON as Stampede writes it is kept to the byte as `"base64"`.

use super::Error;
use crate::environment::Timestamp;
use crate::store::Entry;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fmt::Write as _;

/// Grows when an older version could not read it any more.
const VERSION: u64 = 1;
/// What kind of file it is.
const KIND: &str = "backup";

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    stampede: String,
    version: u64,
    /// The cluster's id.
    pub cluster: String,
    pub generation: u64,
    /// The store's revision of which it is the picture.
    pub revision: i64,
    pub created: Timestamp,
    pub keys: usize,
}

impl Header {
    pub(super) fn new(cluster: String, generation: u64, revision: i64, created: Timestamp, keys: usize) -> Self {
        Self { stampede: KIND.into(), version: VERSION, cluster, generation, revision, created, keys }
    }
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub key: String,
    pub value: Bytes,
}

impl From<Entry> for Item {
    fn from(entry: Entry) -> Self {
        Self { key: entry.key, value: entry.value }
    }
}

/// A line between the first and the last.
#[derive(Serialize, Deserialize)]
struct Line {
    key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct End {
    end: String,
}

/// All of the file.
///
/// # Errors
/// None in practice: all of it can be JSON.
pub(super) fn write(header: &Header, items: &[Item]) -> Result<String, Error> {
    let mut text = line(header)?;
    for item in items {
        text.push_str(&line(&Line::of(item))?);
    }
    let end = line(&End { end: sum(&text) })?;
    text.push_str(&end);
    Ok(text)
}

impl Line {
    fn of(item: &Item) -> Self {
        // What would come back otherwise than it is (spaces, a number too long) is kept as bytes; null would come back as nothing.
        let value = serde_json::from_slice::<Value>(&item.value).ok().filter(|value| {
            !value.is_null() && serde_json::to_vec(value).is_ok_and(|again| again == item.value.as_ref())
        });
        let base64 = value.is_none().then(|| STANDARD.encode(&item.value));
        Self { key: item.key.clone(), value, base64 }
    }

    fn item(self) -> Option<Item> {
        let value = match (self.value, self.base64) {
            (Some(value), None) => serde_json::to_vec(&value).ok()?,
            (None, Some(text)) => STANDARD.decode(text).ok()?,
            _ => return None,
        };
        Some(Item { key: self.key, value: value.into() })
    }
}

fn line<T: Serialize>(value: &T) -> Result<String, Error> {
    let mut text = serde_json::to_string(value).map_err(|source| Error::Encoding { source })?;
    text.push('\n');
    Ok(text)
}

fn sum(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut sum, byte| {
        // Writing to a string does not fail.
        let _ = write!(sum, "{byte:02x}");
        sum
    })
}

/// What `bytes` hold; nothing is taken from a file that is not whole.
///
/// # Errors
/// What is wrong with it, in words for who wants it read.
pub fn read(bytes: &[u8]) -> Result<(Header, Vec<Item>), Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::NoBackup)?;
    let first = text.lines().next().unwrap_or_default();
    // By its kind and version first: a newer one may differ in all the rest.
    let kind: Value = serde_json::from_str(first).map_err(|_| Error::NoBackup)?;
    if kind.get("stampede").and_then(Value::as_str) != Some(KIND) {
        return Err(Error::NoBackup);
    }
    match kind.get("version").and_then(Value::as_u64) {
        Some(VERSION) => {}
        Some(version) if version > VERSION => return Err(Error::Newer { version, known: VERSION }),
        _ => return Err(Error::NoBackup),
    }
    let Some((body, last)) = text.strip_suffix('\n').and_then(|text| text.rsplit_once('\n')) else {
        return Err(Error::Cut);
    };
    let body = &text[..=body.len()];
    let end: End = serde_json::from_str(last).map_err(|_| Error::Cut)?;
    if end.end != sum(body) {
        return Err(Error::Altered);
    }
    let header: Header = serde_json::from_str(first).map_err(|_| Error::Altered)?;
    let mut seen = HashSet::new();
    let mut items = Vec::with_capacity(header.keys);
    for (number, line) in body.lines().enumerate().skip(1) {
        let wrong = |_| Error::Line { number: number + 1 };
        let line: Line = serde_json::from_str(line).map_err(wrong)?;
        let item = line.item().ok_or(Error::Line { number: number + 1 })?;
        if !item.key.starts_with(crate::store::key::ROOT) || !seen.insert(item.key.clone()) {
            return Err(Error::Line { number: number + 1 });
        }
        items.push(item);
    }
    if items.len() != header.keys {
        return Err(Error::Altered);
    }
    Ok((header, items))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items() -> Vec<Item> {
        let item =
            |key: &str, value: &[u8]| Item { key: format!("/stampede/v1/{key}"), value: Bytes::copy_from_slice(value) };
        vec![
            item("cluster", br#"{"id":"c"}"#),
            item("json", br#"{"b":1.5,"a":["x",null,18446744073709551615]}"#),
            item("spaces", br#"{ "a": 1 }"#),
            item("null", b"null"),
            item("long number", b"123456789012345678901234567890"),
            item("text", b"plain"),
            item("bytes", &[0xff, 0, 10]),
            item("empty", b""),
        ]
    }

    fn written() -> String {
        let items = items();
        write(&Header::new("c".into(), 3, 812, Timestamp(5), items.len()), &items).unwrap()
    }

    #[test]
    fn every_value_comes_back_to_the_byte() {
        let (header, read) = read(written().as_bytes()).unwrap();
        assert_eq!((header.generation, header.revision), (3, 812));
        assert_eq!(read, items());
        assert!(written().contains(r#""value":{"id":"c"}"#), "what is JSON can be read");
    }

    #[test]
    fn a_file_that_was_cut_anywhere_is_refused() {
        let text = written();
        for length in 0..text.len() {
            assert!(read(&text.as_bytes()[..length]).is_err(), "cut after {length} bytes");
        }
    }

    #[test]
    fn a_file_with_any_byte_altered_is_refused() {
        let text = written();
        for place in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[place] ^= 1;
            assert!(read(&bytes).is_err(), "byte {place} altered");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let text = written();
        let newer = text.replacen(r#""version":1"#, r#""version":2"#, 1);
        assert!(matches!(read(newer.as_bytes()), Err(Error::Newer { version: 2, known: 1 })));
        for other in ["", "{}", "hello\n", "[1]\n{}\n"] {
            assert!(matches!(read(other.as_bytes()), Err(Error::NoBackup)), "{other}");
        }
        let lines: Vec<&str> = text.lines().collect();
        let without_end = lines[..lines.len() - 1].join("\n") + "\n";
        assert!(matches!(read(without_end.as_bytes()), Err(Error::Cut)));
        let without_one = [&lines[..2], &lines[3..]].concat().join("\n") + "\n";
        assert!(matches!(read(without_one.as_bytes()), Err(Error::Altered)));
    }

    #[test]
    fn a_whole_file_with_keys_that_are_not_ours_or_come_twice_is_refused() {
        let item = |key: &str| Item { key: key.into(), value: "1".into() };
        for items in [vec![item("/other/a")], vec![item("/stampede/v1/a"), item("/stampede/v1/a")]] {
            let text = write(&Header::new("c".into(), 1, 1, Timestamp(1), items.len()), &items).unwrap();
            assert!(matches!(read(text.as_bytes()), Err(Error::Line { .. })), "{text}");
        }
    }
}
