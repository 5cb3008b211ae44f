//! Who gets in, and what they see.

use crate::world::{World, basic, resource};
use serde_json::{Value, json};
use stampede::api::Settings;
use stampede::resource::State;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn keys_open_and_are_told_once() {
    let world = World::new().await;
    let reply = world.post("/v1/apikeys", json!({"name": "mine"})).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    let made = reply.json();
    let (public, secret) = (made["publicValue"].as_str().unwrap(), made["secretValue"].as_str().unwrap());
    assert_eq!((&made["type"], made["accountId"].as_str()), (&json!("apiKey"), Some("1a1")));
    assert!(!reply.text.contains("secretHash"));
    let path = format!("/v1/credentials/{}", made["id"].as_str().unwrap());
    let shown = world.get(&path).await;
    assert_eq!((&shown["type"], &shown["secretValue"]), (&json!("apiKey"), &Value::Null));
    assert!(!world.ask("GET", "/v1/credentials", "").await.text.contains("Hash"));

    let good = basic(public, secret);
    for _ in 0..3 {
        assert_eq!(world.tcp("GET", "/v1/containers", "", &[("authorization", &good)]).await.status, 200);
    }
    // What was right a moment ago is wrong as soon as the key is not active any more.
    let deactivated = world.post(&format!("{path}/?action=deactivate"), json!({})).await;
    assert_eq!(deactivated.status, 202, "{}", deactivated.text);
    let limit = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
    while world.tcp("GET", "/v1/containers", "", &[("authorization", &good)]).await.status == 200 {
        assert!(tokio::time::Instant::now() < limit, "a key that is not active opens");
    }
    let refused = world.tcp("GET", "/v1/containers", "", &[("authorization", &good)]).await;
    assert_eq!(refused.error().0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_nobody_gets_in() {
    let world = World::new().await;
    for header in
        [None, Some(basic("None", "None")), Some("Basic !".into()), Some(basic("nobody", "x")), Some("Bearer x".into())]
    {
        let headers: Vec<(&str, &str)> = header.iter().map(|header| ("authorization", header.as_str())).collect();
        for path in ["/v1/containers", "/v1", "/", "/v1/schemas", "/nothing"] {
            let reply = world.tcp("GET", path, "", &headers).await;
            assert_eq!(reply.error().0, 401, "{path} {header:?}");
            assert!(reply.headers["www-authenticate"].to_str().unwrap().starts_with("Basic"));
            assert_eq!(reply.headers["x-api-schemas"], "http://h:9080/v1/schemas");
        }
    }
    // By the socket, root needs none, whatever a client without keys says.
    let none = basic("None", "None");
    assert_eq!(world.ask_with("GET", "/v1", "", &[("authorization", &none)]).await.status, 200);
    let wrong = basic("nobody", "x");
    assert_eq!(world.ask_with("GET", "/v1", "", &[("authorization", &wrong)]).await.error().0, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn guessing_gets_slow() {
    let world = World::new().await;
    let made = world.post("/v1/apikeys", json!({})).await.json();
    let public = made["publicValue"].as_str().unwrap();
    let wrong = basic(public, "wrong");
    let begin = tokio::time::Instant::now();
    let mut asked = 0;
    while begin.elapsed() < std::time::Duration::from_secs(3) {
        assert_eq!(world.tcp("GET", "/v1", "", &[("authorization", &wrong)]).await.status, 401);
        asked += 1;
    }
    assert!(asked <= 6, "{asked} guesses in 3 s");
    // Another key from the same address is not held up.
    let other = world.key(1).await;
    assert_eq!(world.tcp("GET", "/v1", "", &[("authorization", &other)]).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_see_their_own_and_what_is_public() {
    let world = World::new().await;
    world.put("instance", &resource(1, "container", Some(1), State::Running, json!({}))).await;
    world.put("instance", &resource(2, "container", Some(3), State::Running, json!({}))).await;
    let user = world.key(3).await;
    let user = [("authorization", user.as_str())];
    let list = world.tcp("GET", "/v1/containers", "", &user).await;
    assert_eq!(list.ids(), ["1i2"]);
    assert!(list.json()["data"][0].get("data").is_none());
    assert_eq!(world.tcp("GET", "/v1/containers/1i1", "", &user).await.error().0, 404);
    assert_eq!(world.tcp("GET", "/v1/networks", "", &user).await.ids(), ["1n1", "1n2"]);
    assert_eq!(world.tcp("GET", "/v1/accounts", "", &user).await.ids(), ["1a3"]);
    assert_eq!(world.tcp("GET", "/v1/images/7?_plainId=true", "", &user).await.error().0, 404);
    // Another's account is not for it to choose, nor are networks for it to change.
    let made = world.tcp("POST", "/v1/containers", r#"{"imageUuid":"docker:x","accountId":"1a1"}"#, &user).await;
    assert_eq!((made.status, made.json()["accountId"].as_str()), (201, Some("1a3")));
    assert_eq!(world.tcp("PUT", "/v1/networks/1n1", r#"{"name":"x"}"#, &user).await.error().0, 403);
    assert_eq!(world.tcp("POST", "/v1/accounts", "{}", &user).await.error().0, 403);
    let key = world.tcp("POST", "/v1/apikeys", r#"{"accountId":"1a1"}"#, &user).await.json();
    assert_eq!(key["accountId"], "1a3");
    let schema = world.tcp("GET", "/v1/schemas/container", "", &user).await.json();
    assert!(schema["resourceFields"].get("data").is_none());
    assert_eq!(schema["resourceFields"]["accountId"]["create"], false);
    let schema = world.tcp("GET", "/v1/schemas/account", "", &user).await.json();
    assert_eq!(schema["collectionMethods"], json!(["GET"]));

    let reader = world.key(4).await;
    let reader = [("authorization", reader.as_str())];
    assert!(world.tcp("GET", "/v1/containers", "", &reader).await.ids().len() >= 2);
    assert_eq!(world.tcp("POST", "/v1/containers", r#"{"imageUuid":"docker:x"}"#, &reader).await.error().0, 403);
    assert_eq!(world.tcp("DELETE", "/v1/containers/1i1", "", &reader).await.error().0, 403);
    assert_eq!(world.tcp("POST", "/v1/containers/1i1/?action=stop", "", &reader).await.error().0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_need_their_token() {
    let world = World::new().await;
    let key = world.key(1).await;
    let agent = ("user-agent", "Mozilla/5.0");
    let authorization = ("authorization", key.as_str());
    let first = world.tcp("GET", "/v1", "", &[agent, authorization]).await;
    let cookie = first.headers["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
    let token = cookie.strip_prefix("CSRF=").unwrap().to_owned();
    let image = r#"{"name":"x"}"#;
    let reply = world.tcp("POST", "/v1/images", image, &[agent, authorization, ("cookie", &cookie)]).await;
    assert_eq!(reply.error(), (403, "InvalidCSRFToken".into(), None));
    let headers = [agent, authorization, ("cookie", cookie.as_str()), ("x-api-csrf", token.as_str())];
    let reply = world.tcp("POST", "/v1/images", image, &headers).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    assert!(reply.headers.get("set-cookie").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_told_that_there_is_none() {
    let world = World::with(Settings { allow_plain_text: true, ..Settings::default() }, |store| store).await;
    let mut stream = tokio::net::TcpStream::connect(world.tcp).await.unwrap();
    stream.write_all(&[0x16, 3, 1, 0, 5, 1, 0, 0, 1, 0]).await.unwrap();
    let mut answer = Vec::new();
    // The rest of the handshake is not read, so that the end may come as a reset.
    let _end = stream.read_to_end(&mut answer).await;
    assert_eq!(answer.first(), Some(&0x15));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_authentication_this_machine_alone_is_let_in_by_its_own_names() {
    let world = World::with(Settings { no_auth: true, ..Settings::default() }, |store| store).await;
    for own in ["localhost:9080", "127.0.0.1:9080", "[::1]:9080", "localhost"] {
        assert_eq!(world.tcp("GET", "/v1/accounts", "", &[("host", own)]).await.status, 200, "{own}");
    }
    // The name of another site that was made to lead here.
    for foreign in ["rebound.example:9080", "10.0.0.1:9080", "localhost.example"] {
        assert_eq!(world.tcp("GET", "/v1/accounts", "", &[("host", foreign)]).await.error().0, 403, "{foreign}");
    }
    let wrong = basic("nobody", "x");
    let headers = [("host", "localhost"), ("authorization", wrong.as_str())];
    assert_eq!(world.tcp("GET", "/v1", "", &headers).await.error().0, 401, "a key that is shown is looked at");
    let key = world.key(3).await;
    let headers = [("host", "localhost"), ("authorization", key.as_str())];
    let schemas = world.tcp("GET", "/v1/accounts", "", &headers).await.json();
    assert!(schemas["data"].as_array().unwrap().iter().all(|account| account["id"] == "1a3"), "{schemas}");
    let browser = [("host", "localhost"), ("user-agent", "Mozilla/5.0")];
    let reply = world.tcp("POST", "/v1/images", r#"{"uuid": "docker:x"}"#, &browser).await;
    assert_eq!(reply.error().1, "InvalidCSRFToken");
}
