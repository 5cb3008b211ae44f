//! The original's own Python library drives the API: PyPI `cattle` 0.5.4 on `gdapi-python`, in a place of their own that
//! scripts/test makes (`target/clients`, or where `STAMPEDE_CLIENTS` says). Without it nothing can be tried, and that is said.

use crate::flow::in_memory;
use crate::world::World;
use std::path::PathBuf;
use tokio::process::Command;

/// A program of those that were installed; `None` where none was.
pub fn program(name: &str) -> Option<PathBuf> {
    let usual = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/clients");
    let path = std::env::var_os("STAMPEDE_CLIENTS").map_or(usual, PathBuf::from).join("bin").join(name);
    if path.exists() {
        return Some(path);
    }
    eprintln!("NOT TRIED: {} is not there; scripts/test installs it", path.display());
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn the_original_s_library_drives_it() {
    let Some(python) = program("python") else { return };
    let world = World::new(in_memory()).await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/handlers/library.py");
    let (access, secret) = world.client.key.split_once(':').unwrap();
    let mut command = Command::new(python);
    command.arg(script).env("API", format!("http://{}/v1", world.client.to)).kill_on_drop(true);
    command.env("ACCESS", access).env("SECRET", secret);
    let ran = tokio::time::timeout(crate::LIMIT, command.output()).await.expect("an end").unwrap();
    let (said, failed) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && said.trim_end() == "driven", "{said}\n{failed}");
    world.ends();
}
