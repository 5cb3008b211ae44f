//! What the original's older library (PyPI `cattle` 0.3.0 on `gdapi-python` 0.3.0 and `requests` 2.2.1, which need Python 2) and its
//! command line put on the wire, byte for byte: its headers and no Content-Type, JSON as Python writes it, sorted; options of the
//! command line among the fields; text where numbers and booleans belong; whole resources on update.

use crate::flow::in_memory;
use crate::world::World;
use base64::Engine;
use serde_json::{Value, json};
use std::io::Read;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const HEADERS: &str = "Accept-Encoding: gzip, deflate, compress\r\nAccept: application/json\r\n\
                       User-Agent: python-requests/2.2.1 CPython/2.7.6 Linux/3.13.0-24-generic\r\n";
/// `requests` with `(None, None)` for a name and a password.
const NO_KEYS: &str = "Tm9uZTpOb25l";

/// A session of `requests`: one connection for all.
struct Session {
    stream: TcpStream,
    to: SocketAddr,
    authorization: String,
}

struct Reply {
    status: u16,
    head: String,
    body: Value,
}

impl Session {
    async fn new(to: SocketAddr, key: Option<&str>) -> Self {
        let authorization = key.map_or(NO_KEYS.to_owned(), |key| base64::engine::general_purpose::STANDARD.encode(key));
        Self { stream: TcpStream::connect(to).await.unwrap(), to, authorization }
    }

    /// `body` as `_marshall` gives it; `None` where it gives nothing.
    async fn ask(&mut self, method: &str, target: &str, body: Option<&str>) -> Reply {
        let length = match (method, body) {
            (_, Some(body)) => format!("Content-Length: {}\r\n", body.len()),
            ("GET", None) => String::new(),
            (_, None) => "Content-Length: 0\r\n".to_owned(),
        };
        let request = format!(
            "{method} {target} HTTP/1.1\r\nHost: {}\r\n{length}{HEADERS}Authorization: Basic {}\r\n\r\n{}",
            self.to,
            self.authorization,
            body.unwrap_or_default()
        );
        self.stream.write_all(request.as_bytes()).await.unwrap();
        tokio::time::timeout(crate::LIMIT, self.reply()).await.expect("an answer")
    }

    async fn reply(&mut self) -> Reply {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            head.push(char::from(self.stream.read_u8().await.unwrap()));
        }
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut bytes = Vec::new();
        match header(&head, "content-length") {
            Some(length) => {
                bytes = vec![0; length.parse().unwrap()];
                self.stream.read_exact(&mut bytes).await.unwrap();
            }
            None if header(&head, "transfer-encoding") == Some("chunked") => {
                while let Some(mut chunk) = self.chunk().await {
                    bytes.append(&mut chunk);
                }
            }
            None => panic!("a client of HTTP/1.1 cannot tell where it ends: {head}"),
        }
        if header(&head, "content-encoding") == Some("gzip") {
            let mut text = Vec::new();
            flate2::read::GzDecoder::new(bytes.as_slice()).read_to_end(&mut text).unwrap();
            bytes = text;
        }
        Reply { status, body: serde_json::from_slice(&bytes).unwrap_or_default(), head }
    }

    async fn chunk(&mut self) -> Option<Vec<u8>> {
        let mut size = String::new();
        while !size.ends_with("\r\n") {
            size.push(char::from(self.stream.read_u8().await.unwrap()));
        }
        let mut chunk = vec![0; usize::from_str_radix(size.trim(), 16).unwrap() + 2];
        self.stream.read_exact(&mut chunk).await.unwrap();
        chunk.truncate(chunk.len() - 2);
        Some(chunk).filter(|chunk| !chunk.is_empty())
    }

    /// `reload`, until it is at rest, as `wait_success` does.
    async fn settled(&mut self, target: &str) -> Value {
        let limit = tokio::time::Instant::now() + crate::LIMIT;
        loop {
            let row = self.ask("GET", target, None).await.body;
            match row["transitioning"].as_str() {
                Some("no") => return row,
                Some("yes") => assert!(tokio::time::Instant::now() < limit, "{row}"),
                _ => panic!("{row}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let of = |line: &'a str| line.split_once(": ").filter(|(given, _)| given.eq_ignore_ascii_case(name));
    head.lines().find_map(of).map(|(_, value)| value)
}

/// Its path and query, as `requests` puts it on the wire.
fn target(address: &Value) -> String {
    let address = address.as_str().unwrap_or_else(|| panic!("no address: {address}"));
    address.splitn(4, '/').nth(3).map(|path| format!("/{path}")).unwrap()
}

/// As `json.dumps(…, sort_keys=True)` of Python 2 writes it.
fn marshalled(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let mut pairs: Vec<_> = map.iter().collect();
            pairs.sort_by_key(|(name, _)| *name);
            let pair = |(name, value): (&String, &Value)| format!("{}: {}", json!(name), marshalled(value));
            format!("{{{}}}", pairs.into_iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(marshalled).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_older_library_sends_is_taken() {
    let world = World::new(in_memory()).await;
    let mut session = Session::new(world.client.to, Some(&world.client.key)).await;

    // Client(): where the schemas are, then the schemas.
    let root = session.ask("GET", "/v1", None).await;
    assert_eq!(root.status, 200, "{}", root.head);
    let schemas = header(&root.head, "x-api-schemas").expect("where the schemas are").to_owned();
    let schemas = session.ask("GET", &target(&json!(schemas)), None).await.body;
    let find = |id: &str| schemas["data"].as_array().unwrap().iter().find(|schema| schema["id"] == id).unwrap().clone();
    let containers = target(&find("container")["links"]["collection"]);
    assert!(find("container")["collectionMethods"].as_array().unwrap().contains(&json!("POST")));

    // cattle create-container --imageUuid … --startOnCreate true: the options of the program are among the fields.
    let body = "{\"_cache\": true, \"_format\": \"table\", \"_trim\": true, \"command\": \"httpd\", \"commandArgs\": [\"-f\", \"80\"], \
                \"count\": \"1\", \"environment\": {\"COLOUR\": \"gr\\u00fcn\"}, \"imageUuid\": \"docker:busybox\", \"name\": \"web\", \
                \"networkIds\": \"1n1\", \"startOnCreate\": \"true\"}";
    let made = session.ask("POST", &containers, Some(body)).await;
    assert_eq!((made.status, &made.body["type"]), (201, &json!("container")), "{}", made.body);
    let own = target(&made.body["links"]["self"]);
    let web = session.settled(&own).await;
    assert_eq!((&web["state"], &web["environment"]["COLOUR"]), (&json!("running"), &json!("grün")), "{web}");
    assert_eq!(web["commandArgs"], json!(["-f", "80"]));

    // create_container(id=None, …): null and numbers where the library had them.
    let body = "{\"commandArgs\": [1, 2.5], \"description\": null, \"id\": null, \"imageUuid\": \"docker:busybox\", \
                \"networkIds\": [\"1n1\"], \"privileged\": \"false\", \"requestedHostId\": null, \"startOnCreate\": false}";
    let second = session.ask("POST", &containers, Some(body)).await;
    assert_eq!(second.status, 201, "{}", second.body);
    assert_eq!((&second.body["privileged"], &second.body["commandArgs"]), (&json!(false), &json!(["1", "2.5"])));

    // cattle list-container --name web: the program's options are in the query.
    let list = session.ask("GET", &format!("{containers}?_trim=True&_format=table&_cache=True&name=web"), None).await;
    let names: Vec<_> = list.body["data"].as_array().unwrap().iter().map(|row| row["name"].clone()).collect();
    assert_eq!((list.status, names), (200, vec![json!("web")]), "{}", list.body);

    // client.update(web, web, name='shop'): all of it goes back, without what leads elsewhere.
    let mut whole = web.as_object().unwrap().clone();
    whole.insert("name".into(), json!("shop"));
    let updated = session.ask("PUT", &own, Some(&marshalled(&Value::Object(whole)))).await;
    assert_eq!((updated.status, &updated.body["name"]), (200, &json!("shop")), "{}", updated.body);
    // cattle update-container --id … --description …
    let id = web["id"].as_str().unwrap();
    let body = format!(
        "{{\"_cache\": true, \"_format\": \"table\", \"_trim\": true, \"description\": \"a shop\", \"id\": \"{id}\"}}"
    );
    let updated = session.ask("PUT", &own, Some(&body)).await;
    assert_eq!((updated.status, &updated.body["description"]), (200, &json!("a shop")), "{}", updated.body);

    // cattle container-stop --id … --remove false: the id is in the action's body; then restart(), which says nothing at all.
    let stop = target(&session.settled(&own).await["actions"]["stop"]);
    let body = format!(
        "{{\"_cache\": true, \"_format\": \"table\", \"_trim\": true, \"id\": \"{id}\", \"remove\": \"false\"}}"
    );
    let stopped = session.ask("POST", &stop, Some(&body)).await;
    assert!(matches!(stopped.status, 200..=202), "{} {}", stopped.status, stopped.body);
    let row = session.settled(&own).await;
    assert_eq!(row["state"], "stopped", "{row}");
    let start = target(&row["actions"]["start"]);
    let started = session.ask("POST", &start, Some("{}")).await;
    assert!(matches!(started.status, 200..=202), "{} {}", started.status, started.body);
    assert_eq!(session.settled(&own).await["state"], "running");
    let restart = target(&session.settled(&own).await["actions"]["restart"]);
    let restarted = session.ask("POST", &restart, None).await;
    assert!(matches!(restarted.status, 200..=202), "{} {}", restarted.status, restarted.body);
    assert_eq!(session.settled(&own).await["state"], "running");

    // delete(), which stops what runs, and purge().
    let deleted = session.ask("DELETE", &own, None).await;
    assert!(matches!(deleted.status, 200..=202), "{} {}", deleted.status, deleted.body);
    let row = session.settled(&own).await;
    assert_eq!(row["state"], "removed", "{row}");
    let purged = session.ask("POST", &target(&row["actions"]["purge"]), Some("{}")).await;
    assert!(matches!(purged.status, 200..=202), "{} {}", purged.status, purged.body);
    assert_eq!(session.settled(&own).await["state"], "purged");

    // What is wrong is told in the form that the library reads: code, message, status as a number.
    let wrong = session.ask("POST", &containers, Some("{\"name\": \"x\"}")).await;
    assert_eq!(
        (wrong.status, &wrong.body["code"], &wrong.body["status"]),
        (422, &json!("MissingRequired"), &json!(422))
    );
    let gone = session.ask("GET", &format!("{containers}/1i999999"), None).await;
    assert_eq!((gone.status, &gone.body["type"]), (404, &json!("error")));

    // Without keys it sends `None:None`, which is nobody.
    let nobody = Session::new(world.client.to, None).await.ask("GET", "/v1", None).await;
    assert_eq!((nobody.status, &nobody.body["type"]), (401, &json!("error")), "{}", nobody.head);
    world.ends();
}
