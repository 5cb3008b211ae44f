//! Holds the order of the rooms: each imports only from those above it in `src/lib.rs`, and `src/environment.rs` from none.

// All of this is test code, also what stands outside of test functions.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

const ROOMS: &[&str] = &[
    "environment",
    "resource",
    "store",
    "membership",
    "placement",
    "orchestration",
    "systemd",
    "storage",
    "network",
    "compute",
    "host",
    "api",
    "cli",
];

fn rust_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every room that `text` names behind `crate::`, also in `use crate::{…}`.
fn imports(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for part in text.split("crate::").skip(1) {
        if let Some(list) = part.strip_prefix('{') {
            let mut depth = 0;
            let mut name = String::new();
            for letter in list.chars() {
                match letter {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => found.push(std::mem::take(&mut name)),
                    letter if depth == 0 && !letter.is_whitespace() => name.push(letter),
                    _ => {}
                }
            }
            found.push(name);
        } else {
            found.push(part.to_owned());
        }
    }
    let word = |text: &String| text.chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect();
    found.iter().map(word).collect()
}

#[test]
fn rooms_import_only_from_above() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&source, &mut files);
    assert!(files.len() > 20, "the house has rooms");
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&source).unwrap().with_extension("");
        let room = inside.components().next().unwrap().as_os_str().to_str().unwrap().to_owned();
        if matches!(room.as_str(), "lib" | "main") {
            continue;
        }
        let place = ROOMS.iter().position(|name| *name == room);
        let Some(place) = place else {
            wrong.push(format!("{}: no such room in the house", file.display()));
            continue;
        };
        for import in imports(&std::fs::read_to_string(&file).unwrap()) {
            if let Some(other) = ROOMS.iter().position(|name| *name == import)
                && other > place
            {
                wrong.push(format!("{}: {room} must not import {import}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn grouped_imports_are_seen() {
    assert_eq!(imports("use crate::{api::{a, b}, store};"), ["api", "store"]);
    assert_eq!(imports("crate::host::x(crate::cli::y)"), ["host", "cli"]);
}
