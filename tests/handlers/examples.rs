//! The examples of docs/extend.md, run as they stand there.

use crate::flow::in_memory;
use crate::world::World;
use serde_json::json;
use std::process::Stdio;
use tokio::process::{Child, Command};

/// The block of the document that begins with `# name`.
fn example(name: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/extend.md");
    let document = std::fs::read_to_string(path).unwrap();
    let mut blocks = document.split("\n```").skip(1).step_by(2).filter_map(|block| block.split_once('\n'));
    let block = blocks.find(|(_, code)| code.starts_with(&format!("# {name}:")));
    block.unwrap_or_else(|| panic!("docs/extend.md has no {name}")).1.to_owned()
}

fn run(program: &str, world: &World, text: &str) -> Child {
    let mut command = Command::new(program);
    command.args(["-c", text]).kill_on_drop(true).process_group(0).stdin(Stdio::null());
    command.env("KEY", &world.client.key).env("API", format!("http://{}/v1", world.client.to));
    command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// With all that it started.
async fn end(mut child: Child) {
    let group = rustix::process::Pid::from_raw(i32::try_from(child.id().unwrap()).unwrap()).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    child.wait().await.unwrap();
}

async fn handler_is_there(world: &World, name: &str) {
    crate::until(name, async || {
        let found = world.client.get(&format!("/v1/externalhandlers?name={name}")).await;
        found["data"].as_array().is_some_and(|rows| rows.len() == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_in_shell() {
    let world = World::new(in_memory()).await;
    let child = run("sh", &world, &example("extend.sh"));
    handler_is_there(&world, "checker").await;
    let id = world.client.container(json!({"name": "web"})).await;
    assert_eq!(world.client.wait(&id, "running").await["data"], json!({"checked": true}));
    let id = world.client.container(json!({"name": "forbidden fruit"})).await;
    crate::until("the veto", async || world.client.row(&id).await["state"] == "stopped").await;
    assert_eq!(world.client.row(&id).await["transitioningMessage"], "checker: not with that name");
    world.nothing_waits().await;
    end(child).await;
    world.ends();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_one_in_python() {
    let world = World::new(in_memory()).await;
    let child = run("python3", &world, &example("extend.py"));
    handler_is_there(&world, "recorder").await;
    let id = world.client.container(json!({"name": "web"})).await;
    assert_eq!(world.client.wait(&id, "running").await["description"], "runs with c1");
    world.nothing_waits().await;
    end(child).await;
    world.ends();
}
