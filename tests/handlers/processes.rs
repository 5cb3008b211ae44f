//! What ran, how long, and what failed: `processInstance`, `processExecution`, `processDefinition`.

use crate::flow::in_memory;
use crate::world::World;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn what_ran_and_what_failed_is_shown() {
    let world = World::new(in_memory()).await;
    let client = &world.client;
    let id = client.container(json!({})).await;
    client.wait(&id, "running").await;
    let before = world.store.get("x").await.unwrap().revision;
    let instances = async |more: &str| -> Vec<Value> {
        let path = format!("/v1/processinstances?resourceId={id}&sort=id{more}");
        client.get(&path).await["data"].as_array().unwrap().clone()
    };
    let ran = instances("").await;
    let names: Vec<&str> = ran.iter().map(|it| it["processName"].as_str().unwrap()).collect();
    // A host so fast that it never says `starting`.
    assert_eq!(names, ["instance.create"], "{ran:?}");
    assert_eq!(
        (&ran[0]["phase"], &ran[0]["result"], &ran[0]["resourceType"]),
        (&json!("DONE"), &json!("SUCCESS"), &json!("instance"))
    );
    assert!(ran[0]["endTimeTS"].as_i64() >= ran[0]["startTimeTS"].as_i64(), "{ran:?}");
    assert_eq!(world.store.get("x").await.unwrap().revision, before, "looking writes nothing");

    client.handler("veto", json!(["pre.instance.stop"]), json!({})).await;
    let mut events = client.events("*;handler=veto").await;
    client.act(&id, "stop").await;
    let event = events.expect("pre.instance.stop;handler=veto", &id).await;
    let open = instances("&endTime_null").await;
    assert_eq!(
        (open.len(), &open[0]["processName"], &open[0]["phase"]),
        (1, &json!("instance.stop"), &json!("STARTED"))
    );
    client.publish(&event, json!({"transitioning": "error", "transitioningInternalMessage": "no"})).await;
    let failed = instances("&result=FAILURE").await;
    assert_eq!((failed.len(), &failed[0]["exitReason"]), (1, &json!("FAILED")));
    let executions = failed[0]["links"]["processExecutions"].as_str().unwrap().strip_prefix("http://h:9080").unwrap();
    let execution = &client.get(executions).await["data"][0];
    assert_eq!(execution["log"]["message"], "veto: no", "{execution}");
    assert_eq!(execution["processInstanceId"], failed[0]["id"]);
    let one = format!("/v1/processinstances/{}", failed[0]["id"].as_str().unwrap());
    assert_eq!(client.get(&one).await["processName"], "instance.stop");
    assert_eq!(client.ask("DELETE", &one, Value::Null).await.0, 405);

    let definition = client.get("/v1/processdefinitions/instance.stop").await;
    assert_eq!(definition["preProcessListeners"]["implementations"], json!([{"name": "veto"}]));
    let from = |it: &Value| it["fromState"] == "running" && it["toState"] == "stopping";
    assert!(definition["stateTransitions"].as_array().unwrap().iter().any(from), "{definition}");
    assert!(client.get("/v1/processdefinitions").await["data"].as_array().unwrap().len() > 30);
    let point = client.get("/v1/extensionpoints/pre.instance.stop").await;
    assert_eq!(point["implementations"], json!([{"name": "veto"}]));
    assert_eq!(client.ask("GET", "/v1/extensionpoints/instance.fly", Value::Null).await.0, 404);
    world.ends();
}
