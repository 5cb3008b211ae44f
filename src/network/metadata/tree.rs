//! A tree of names, as it is asked for over HTTP: directories list their names, one a line.

use bytes::Bytes;
use serde_json::Value;

/// What kind of text it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Json,
    /// As it was given, whatever it is.
    Bytes,
}

#[derive(Clone, Debug)]
pub enum Node {
    Leaf(Kind, Bytes),
    Directory(Directory),
}

/// Some names; a directory that is not whole may have others that are not known now.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    entries: Vec<Entry>,
    partial: bool,
}

#[derive(Clone, Debug)]
struct Entry {
    name: String,
    /// How the list has it.
    shown: String,
    node: Node,
}

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Leaf(Kind, Bytes),
    Listing(String),
    Nothing,
    /// There may be something, and it is not known what.
    Unknown,
}

impl Directory {
    /// Of which only a part is known.
    pub fn partial() -> Self {
        Self { partial: true, ..Self::default() }
    }

    #[must_use]
    pub fn text(self, name: &str, value: impl Into<String>) -> Self {
        self.leaf(name, Kind::Text, value.into())
    }

    #[must_use]
    pub fn leaf(mut self, name: &str, kind: Kind, value: impl Into<Bytes>) -> Self {
        let (name, node) = (name.to_owned(), Node::Leaf(kind, value.into()));
        self.entries.push(Entry { shown: name.clone(), name, node });
        self
    }

    #[must_use]
    pub fn directory(self, name: &str, directory: Self) -> Self {
        self.directory_as(name, format!("{name}/"), directory)
    }

    /// A directory that the list has as `shown`; it is found by both.
    #[must_use]
    pub fn directory_as(mut self, name: &str, shown: String, directory: Self) -> Self {
        self.entries.push(Entry { name: name.to_owned(), shown, node: Node::Directory(directory) });
        self
    }

    /// What `path` leads to from here.
    /// All documents, by their paths below `root`.
    pub fn documents(&self, root: &str) -> Vec<(String, Bytes)> {
        let below = |entry: &Entry| {
            let path = format!("{root}/{}", entry.name);
            match &entry.node {
                Node::Leaf(_, content) => vec![(path, content.clone())],
                Node::Directory(directory) => directory.documents(&path),
            }
        };
        self.entries.iter().flat_map(below).collect()
    }

    /// One JSON document with the tree in it: a directory is an object.
    pub fn json(&self) -> Value {
        let value = |node: &Node| match node {
            Node::Leaf(_, content) => String::from_utf8_lossy(content).into_owned().into(),
            Node::Directory(directory) => directory.json(),
        };
        Value::Object(self.entries.iter().map(|entry| (entry.name.clone(), value(&entry.node))).collect())
    }

    pub fn find(&self, path: &Path) -> Found {
        let mut here = self;
        let mut names = path.names.iter();
        while let Some(name) = names.next() {
            let entry = here.entries.iter().find(|entry| entry.name == *name || entry.shown == *name);
            match entry.map(|entry| &entry.node) {
                None if here.partial => return Found::Unknown,
                None => return Found::Nothing,
                Some(Node::Directory(directory)) => here = directory,
                Some(Node::Leaf(kind, value)) => {
                    let is_end = names.next().is_none() && !path.directory;
                    return if is_end { Found::Leaf(*kind, value.clone()) } else { Found::Nothing };
                }
            }
        }
        if here.partial {
            return Found::Unknown;
        }
        let names: Vec<&str> = here.entries.iter().map(|entry| entry.shown.as_str()).collect();
        Found::Listing(names.join("\n"))
    }
}

/// A path as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    pub names: Vec<String>,
    /// It ends in a slash: a directory is asked for.
    pub directory: bool,
}

impl Path {
    pub fn of(path: &str) -> Self {
        let names = path.split('/').filter(|name| !name.is_empty()).map(decoded).collect();
        Self { names, directory: path.ends_with('/') }
    }

    /// The same below its first names.
    pub fn below(&self, names: usize) -> Self {
        Self { names: self.names.iter().skip(names).cloned().collect(), directory: self.directory }
    }

    pub fn is(&self, names: &[&str]) -> bool {
        !self.directory && self.names.iter().map(String::as_str).eq(names.iter().copied())
    }
}

/// `%3A` is a colon; what is no such thing stays.
fn decoded(name: &str) -> String {
    let bytes = name.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|digit| char::from(*digit).to_digit(16));
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.extend(u8::try_from(high << 4 | low));
                at += 3;
            }
            _ => {
                plain.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tree() -> Directory {
        let key = Directory::default().text("openssh-key", "ssh-ed25519 AAAA");
        let keys = Directory::default().directory_as("0", "0=me".to_owned(), key);
        Directory::default().text("mac", "02:00:01:00:07:09").directory("public-keys", keys)
    }

    fn find(path: &str) -> Found {
        tree().find(&Path::of(path))
    }

    #[test]
    fn names_are_found_and_listed() {
        let text = |text: &'static str| Found::Leaf(Kind::Text, Bytes::from(text));
        assert_eq!(find("/"), Found::Listing("mac\npublic-keys/".into()));
        assert_eq!(find(""), Found::Listing("mac\npublic-keys/".into()));
        assert_eq!(find("/mac"), text("02:00:01:00:07:09"));
        assert_eq!(find("//mac"), text("02:00:01:00:07:09"));
        assert_eq!(find("/mac/"), Found::Nothing, "it is no directory");
        assert_eq!(find("/mac/x"), Found::Nothing);
        assert_eq!(find("/public-keys"), Found::Listing("0=me".into()));
        for path in ["/public-keys/0/openssh-key", "/public-keys/0=me/openssh-key", "/public-keys/0%3Dme/openssh%2dkey"]
        {
            assert_eq!(find(path), text("ssh-ed25519 AAAA"), "{path}");
        }
        assert_eq!(find("/public-keys/1/openssh-key"), Found::Nothing);
        assert_eq!(find("/public-keys/.."), Found::Nothing);
    }

    #[test]
    fn of_what_is_not_whole_nothing_is_denied() {
        let tree = Directory::partial().text("mac", "02:00:01:00:07:09");
        assert_eq!(tree.find(&Path::of("/mac")), Found::Leaf(Kind::Text, Bytes::from("02:00:01:00:07:09")));
        assert_eq!(tree.find(&Path::of("/user-data")), Found::Unknown);
        assert_eq!(tree.find(&Path::of("/")), Found::Unknown);
    }

    proptest! {
        #[test]
        fn any_path_can_be_asked_for(path in "(/|%|[0-9a-f]|=|\\PC|public-keys|mac){0,20}") {
            let found = find(&path);
            prop_assert_ne!(found, Found::Unknown);
        }
    }
}
