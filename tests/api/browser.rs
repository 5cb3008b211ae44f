//! What browsers are shown, and their sessions.

use crate::world::{Reply, World, basic, resource};
use serde_json::{Value, json};
use stampede::api::{Context, Settings, create_api_key, serve};
use stampede::environment::Timestamp;
use stampede::resource::State;
use stampede::store::{Entry, decode, key};
use std::net::SocketAddr;
use tokio::net::TcpListener;

const AGENT: (&str, &str) = ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0");
const ACCEPT: (&str, &str) = ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8");
const TOKEN: &str = "0123456789abcdef";

/// What stands in the page's script behind `var <name> = `.
fn variable(page: &Reply, name: &str) -> Value {
    let begin = format!("var {name} = ");
    let line = page.text.lines().find_map(|line| line.strip_prefix(&begin)).unwrap();
    serde_json::from_str(line.trim_end_matches(';')).unwrap()
}

fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    reply.headers.get(name).map_or("", |value| value.to_str().unwrap())
}

/// A browser that was given a CSRF cookie.
async fn sign_in(world: &World, public: &str, secret: &str) -> Reply {
    let body = json!({ "publicValue": public, "secretValue": secret }).to_string();
    let cookie = format!("CSRF={TOKEN}");
    world.tcp("POST", "/session", body, &[AGENT, ("cookie", &cookie), ("x-api-csrf", TOKEN)]).await
}

/// The cookie of a new session of an account.
pub async fn session(world: &World, account: u64) -> String {
    let key = create_api_key(&world.environment, world.service.as_ref(), account).await.unwrap();
    let reply = sign_in(world, &key.public, &key.secret).await;
    assert_eq!(reply.status, 201, "{}", reply.text);
    assert_eq!(reply.json()["accountId"], format!("1a{account}"));
    cookie(&reply)
}

fn cookie(reply: &Reply) -> String {
    header(reply, "set-cookie").split(';').next().unwrap().to_owned()
}

async fn status(world: &World, cookie: &str) -> u16 {
    world.tcp("GET", "/v1/containers", "", &[("cookie", cookie)]).await.status
}

/// Sessions as they are stored.
async fn stored(world: &World) -> Vec<Entry> {
    world.store.range(&key::session("")).await.unwrap().entries
}

/// Another agent on the same store.
async fn second_agent(world: &World) -> SocketAddr {
    let context = Context::new(&world.environment, world.store.clone(), world.service.clone(), Settings::default());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(listener, context, world.stop.clone()));
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn browsers_are_shown_a_page_with_the_same_json() {
    let world = World::new().await;
    world.put("instance", &resource(1, "container", Some(1), State::Running, json!({}))).await;
    let key = world.key(1).await;
    let authorization = ("authorization", key.as_str());
    for path in ["/v1", "/v1/containers", "/v1/containers/1i1", "/v1/schemas/container", "/v1/containers/1i1/hosts"] {
        let page = world.tcp("GET", path, "", &[AGENT, ACCEPT, authorization]).await;
        let plain = world.tcp("GET", path, "", &[AGENT, ("accept", "application/json"), authorization]).await;
        assert_eq!((page.status, header(&page, "content-type")), (200, "text/html; charset=utf-8"), "{path}");
        assert_eq!(variable(&page, "data"), plain.json(), "{path}");
        assert_eq!(variable(&page, "schemas"), "http://h:9080/v1/schemas");
        assert_eq!(variable(&page, "user"), "1a1");
        assert!(variable(&page, "curlUser").as_str().unwrap().contains(':'));
        assert!(header(&page, "vary").contains("Accept"));
        assert_eq!(header(&page, "cache-control"), "no-store");
        assert!(page.headers.get("etag").is_none());
    }
    // Its version is the JSON's: a page is never "as it was".
    let tag = world.ask("GET", "/v1/containers/1i1", "").await.headers["etag"].to_str().unwrap().to_owned();
    let page =
        world.tcp("GET", "/v1/containers/1i1", "", &[AGENT, ACCEPT, authorization, ("if-none-match", &tag)]).await;
    assert_eq!(page.status, 200);
    // By its own word, whoever asks; an error too.
    let page = world.tcp("GET", "/v1/containers/1i99?_format=html", "", &[authorization]).await;
    assert_eq!((page.status, &variable(&page, "data")["code"]), (404, &json!("Not Found")));
    let json = world.tcp("GET", "/v1/containers?_format=json", "", &[AGENT, ACCEPT, authorization]).await;
    assert!(header(&json, "content-type").starts_with("application/json"));
    let json = world.tcp("GET", "/v1/containers", "", &[("accept", "*/*"), authorization]).await;
    assert!(header(&json, "content-type").starts_with("application/json"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_markup_does_nothing() {
    let world = World::new().await;
    let name = "</script><script>alert(1)</script><!--<script>{nonce}{variables}";
    world.container(json!({ "name": name, "environment": {"</script>": "<img src=x onerror=alert(1)>"} })).await;
    let key = world.key(1).await;
    let page = world.tcp("GET", "/v1/containers", "", &[AGENT, ACCEPT, ("authorization", &key)]).await;
    assert_eq!(variable(&page, "data")["data"][0]["name"], name);
    assert_eq!(page.text.matches("<script").count(), 2);
    assert_eq!(page.text.matches("</script").count(), 2);
    for text in ["<img", "alert(1)</", "<!--<"] {
        assert!(!page.text.contains(text), "{text}");
    }
    // Nor does an address that is echoed in an error.
    let page = world.tcp("GET", "/v1/%3C/script%3E", "", &[AGENT, ACCEPT, ("authorization", &key)]).await;
    assert_eq!((page.status, page.text.matches("</script").count()), (404, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_pages_own_scripts_run() {
    let world = World::new().await;
    let key = world.key(1).await;
    let mut nonces = Vec::new();
    for _ in 0..2 {
        let page = world.tcp("GET", "/v1", "", &[AGENT, ACCEPT, ("authorization", &key)]).await;
        let policy = header(&page, "content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'nonce-"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap().to_owned();
        assert_eq!(page.text.matches(&format!("<script nonce=\"{nonce}\"")).count(), 2);
        assert_eq!(header(&page, "x-content-type-options"), "nosniff");
        // All it asks for is here, for everyone, in its own form.
        for address in page.text.split('"').filter(|part| part.starts_with("/browser/")) {
            let file = world.tcp("GET", address, "", &[AGENT]).await;
            let form = if address.ends_with(".css") { "text/css" } else { "text/javascript" };
            assert_eq!((file.status, header(&file, "content-type").starts_with(form)), (200, true), "{address}");
            assert!(file.text.len() > 100, "{address}");
        }
        nonces.push(nonce);
    }
    assert_ne!(nonces[0], nonces[1]);
    assert_eq!(world.tcp("GET", "/browser/nothing.js", "", &[AGENT]).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_signed_in_is_shown_where_to() {
    let world = World::new().await;
    let root = world.tcp("GET", "/", "", &[AGENT, ACCEPT]).await;
    assert_eq!((root.status, header(&root, "location")), (302, "/ui/"));
    let page = world.tcp("GET", "/v1/containers", "", &[AGENT, ACCEPT]).await;
    assert_eq!((page.status, header(&page, "content-type")), (401, "text/html; charset=utf-8"));
    assert_eq!((variable(&page, "data")["status"].as_u64(), variable(&page, "user")), (Some(401), Value::Null));
    assert!(header(&page, "set-cookie").starts_with("CSRF="));
    // The browser's own question would come before the page, and before its scripts hear of an answer.
    assert!(page.headers.get("www-authenticate").is_none());
    let json = [AGENT, ("accept", "application/json")];
    let asked = world.tcp("GET", "/v1", "", &[json[0], json[1], ("x-api-no-challenge", "true")]).await;
    assert_eq!((asked.error().0, asked.headers.get("www-authenticate")), (401, None));
    assert_eq!(header(&world.tcp("GET", "/v1", "", &json).await, "www-authenticate"), "Basic realm=\"Stampede\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_good_at_every_agent_until_it_is_ended_at_one() {
    let world = World::new().await;
    let (first, second) = (world.tcp, second_agent(&world).await);
    let at = async |agent: SocketAddr, cookie: &str| {
        world.tcp_at(agent, "GET", "/v1/containers", "", &[("cookie", cookie)]).await.status
    };
    let cookie = session(&world, 1).await;
    let (name, token) = cookie.split_once('=').unwrap();
    assert_eq!((name, token.len()), ("stampede", 64));
    assert_eq!((at(first, &cookie).await, at(second, &cookie).await), (200, 200));
    // Who reads the store learns no token; it goes by itself, and is in no backup.
    let found = stored(&world).await;
    assert_eq!(found.len(), 1);
    assert!(found[0].lease.is_some());
    assert!(!format!("{found:?}").contains(token));

    let both = format!("{cookie}; CSRF={TOKEN}");
    let refused = world.tcp_at(first, "DELETE", "/session", "", &[("cookie", &both)]).await;
    assert_eq!(refused.error().1, "InvalidCSRFToken");
    let ended = world.tcp_at(first, "DELETE", "/session", "", &[("cookie", &both), ("x-api-csrf", TOKEN)]).await;
    assert_eq!((ended.status, header(&ended, "set-cookie").contains("Max-Age=0")), (204, true));
    assert_eq!((at(first, &cookie).await, at(second, &cookie).await), (401, 401));
    assert!(stored(&world).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn by_tls_the_cookie_is_for_tls_alone() {
    let world = World::new().await;
    let key = create_api_key(&world.environment, world.service.as_ref(), 1).await.unwrap();
    let body = json!({ "publicValue": key.public, "secretValue": key.secret }).to_string();
    let (tls, csrf) = (("x-forwarded-proto", "https"), ("x-api-csrf", TOKEN));
    let sent = format!("CSRF={TOKEN}");
    let reply = world.tcp("POST", "/session", body, &[tls, csrf, ("cookie", &sent)]).await;
    let set = header(&reply, "set-cookie");
    assert!(set.starts_with("__Host-stampede=") && set.ends_with("; HttpOnly; SameSite=Strict; Secure"), "{set}");
    let cookie = cookie(&reply);
    assert_eq!(world.tcp("GET", "/v1", "", &[tls, ("cookie", &cookie)]).await.status, 200);
    // What came another way could have been set by somebody in between.
    let planted = cookie.replace("__Host-", "");
    assert_eq!(world.tcp("GET", "/v1", "", &[tls, ("cookie", &planted)]).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_its_accounts_rights() {
    let world = World::new().await;
    world.put("instance", &resource(1, "container", Some(1), State::Running, json!({}))).await;
    let cookie = session(&world, 3).await;
    let list = world.tcp("GET", "/v1/containers", "", &[("cookie", &cookie)]).await;
    assert!(list.ids().is_empty());
    let page = world.tcp("GET", "/v1/accounts", "", &[AGENT, ACCEPT, ("cookie", &cookie)]).await;
    assert_eq!(variable(&page, "user"), "1a3");
    // A key that is given counts, not the cookie.
    let key = world.key(1).await;
    let list = world.tcp("GET", "/v1/containers", "", &[("cookie", &cookie), ("authorization", &key)]).await;
    assert_eq!(list.ids(), ["1i1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_time_and_is_never_guessed() {
    let world = World::new().await;
    let cookie = session(&world, 1).await;
    assert_eq!(status(&world, &cookie).await, 200);
    let entry = stored(&world).await.remove(0);
    let mut record: Value = decode(&entry).unwrap();
    let left = record["expires"].as_i64().unwrap() - world.environment.clock.now().0;
    assert!((11..=12).contains(&(left / 3_600_000)), "{left}");
    record["expires"] = json!(Timestamp(world.environment.clock.now().0 - 1));
    world.write(&entry.key, &record).await;
    assert_eq!(status(&world, &cookie).await, 401);
    for wrong in ["stampede=", "stampede=../cluster", &format!("stampede={}", "0".repeat(64)), "__Host-stampede=x"] {
        assert_eq!(status(&world, wrong).await, 401, "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_with_its_key_and_its_account() {
    let world = World::new().await;
    for change in ["deactivate", "remove", "secret", "account"] {
        let made = world.post("/v1/apikeys", json!({"accountId": "1a3"})).await.json();
        let value = |name: &str| made[name].as_str().unwrap().to_owned();
        let cookie = cookie(&sign_in(&world, &value("publicValue"), &value("secretValue")).await);
        assert_eq!(status(&world, &cookie).await, 200, "{change}");
        let path = format!("/v1/credentials/{}", value("id"));
        match change {
            "account" => {
                world.put("account", &resource(3, "user", None, State::Inactive, json!({}))).await;
            }
            "secret" => {
                let changed = world.ask("PUT", &path, json!({"secretValue": "another"}).to_string()).await;
                assert_eq!(changed.status, 200, "{}", changed.text);
            }
            action => {
                let reply = match action {
                    "remove" => world.ask("DELETE", &path, "").await,
                    action => world.post(&format!("{path}/?action={action}"), json!({})).await,
                };
                assert!(reply.status < 300, "{}", reply.text);
            }
        }
        // At once: nothing is remembered.
        assert_eq!(status(&world, &cookie).await, 401, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_writes_with_the_token_only_whatever_its_user_agent() {
    let world = World::new().await;
    let cookie = session(&world, 1).await;
    let both = format!("{cookie}; CSRF={TOKEN}");
    let image = r#"{"name":"x"}"#;
    for agent in ["curl/8", "Mozilla/5.0"] {
        let agent = ("user-agent", agent);
        let refused = world.tcp("POST", "/v1/images", image, &[agent, ("cookie", &both)]).await;
        assert_eq!(refused.error(), (403, "InvalidCSRFToken".into(), None));
        let made = world.tcp("POST", "/v1/images", image, &[agent, ("cookie", &both), ("x-api-csrf", TOKEN)]).await;
        assert_eq!(made.status, 201, "{}", made.text);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_needs_the_token_and_the_right_secret() {
    let world = World::new().await;
    let key = create_api_key(&world.environment, world.service.as_ref(), 1).await.unwrap();
    let body = json!({ "publicValue": key.public, "secretValue": key.secret }).to_string();
    // Else another site could sign somebody in under a key of its own.
    for headers in [vec![], vec![AGENT], vec![AGENT, ("cookie", "CSRF=a"), ("x-api-csrf", "b")]] {
        assert_eq!(world.tcp("POST", "/session", body.clone(), &headers).await.error().1, "InvalidCSRFToken");
    }
    for (public, secret) in [(key.public.as_str(), "wrong"), ("nobody", "x"), ("a/../b", "x"), ("", "")] {
        let reply = sign_in(&world, public, secret).await;
        assert_eq!(reply.error().0, 401, "{public}");
        assert!(reply.headers.get("set-cookie").is_none());
    }
    let cookie = ("cookie", "CSRF=x");
    let rubbish = world.tcp("POST", "/session", "publicValue=x", &[cookie, ("x-api-csrf", "x")]).await;
    assert_eq!(rubbish.error().1, "InvalidBodyContent");
    assert_eq!(world.tcp("PUT", "/session", "", &[AGENT]).await.error().0, 405);
    assert!(stored(&world).await.is_empty());
    // The failed ones count together with those by Basic authentication, and slow down.
    let begin = tokio::time::Instant::now();
    let mut asked = 0;
    while begin.elapsed() < std::time::Duration::from_secs(2) {
        let wrong = basic(&key.public, "wrong");
        let by_basic = world.tcp("GET", "/v1", "", &[("authorization", &wrong)]).await;
        assert_eq!((sign_in(&world, &key.public, "wrong").await.status, by_basic.status), (401, 401));
        asked += 2;
    }
    assert!(asked <= 6, "{asked} guesses in 2 s");
}
