//! `schemathesis` throws what it makes of our OpenAPI document at the API: no 500, no hang, no answer that the document does
//! not promise. Half a minute, or as long as `STAMPEDE_RUBBISH_SECONDS` says (scripts/test --long: ten minutes).

use crate::flow::in_memory;
use crate::library::program;
use crate::world::World;
use std::time::Duration;
use tokio::process::Command;

/// That sloppy input is refused is not checked: the contract wants it understood.
const CHECKS: &str = "not_a_server_error,status_code_conformance,content_type_conformance,\
                      response_headers_conformance,response_schema_conformance,unsupported_method";
/// No answer may take longer, whatever was asked; what is waited for is limited by itself.
const ANSWER: &str = "20";

#[tokio::test(flavor = "multi_thread")]
async fn rubbish_is_answered_as_the_document_says() {
    let Some(schemathesis) = program("schemathesis") else { return };
    let seconds: u64 = std::env::var("STAMPEDE_RUBBISH_SECONDS").map_or(30, |told| told.parse().unwrap());
    let world = World::new(in_memory()).await;
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::new(schemathesis);
    command.arg("run").arg(format!("http://{}/v1/openapi.json", world.client.to));
    command.args(["--auth", &world.client.key, "--checks", CHECKS, "--request-timeout", ANSWER, "--no-color"]);
    command.args(["--exclude-operation-id", "subscribe", "--suppress-health-check", "all", "--warnings", "off"]);
    // A wrong key is slowed down; it is ours that are to be let in.
    command.args(["--generation-with-security-parameters", "false"]);
    command.args(["--report", "ndjson", "--report-ndjson-path", "report.ndjson"]);
    // An administrator that changes its own account and keys locks itself out.
    command.args(["--exclude-path-regex", r"^/v1/(accounts|credentials|apikeys)/\{id\}$"]);
    command.args(["--max-time", &seconds.to_string(), "--workers", "1", "--phases", "examples,coverage,fuzzing"]);
    // One worker: threads that parse Python at once end in a SystemError of CPython before 3.11.9 (gh-106905).
    command.current_dir(directory.path()).kill_on_drop(true);
    let limit = Duration::from_secs(seconds * 2 + 60);
    let ran = tokio::time::timeout(limit, command.output()).await.expect("an end").unwrap();
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    let report = std::fs::read_to_string(directory.path().join("report.ndjson")).unwrap();
    let answers = |status: u16| report.matches(&format!("\"status_code\":{status}")).count();
    println!("{:?}", [200, 201, 401, 404, 405, 409, 412, 422, 500].map(|status| (status, answers(status))));
    assert!(answers(200) > 100 && answers(422) > 50 && answers(401) == 0, "it was let in, and heard:\n{said}");
    assert_eq!(world.client.get("/v1/hosts").await["data"].as_array().map(Vec::len), Some(1), "others do not notice");
    world.ends();
}
