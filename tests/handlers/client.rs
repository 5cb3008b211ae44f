//! HTTP as a client speaks it: requests, and the stream of events.

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

#[derive(Clone, Debug)]
pub struct Client {
    pub to: SocketAddr,
    pub key: String,
}

async fn send(client: &Client, method: &str, path: &str, body: String) -> hyper::Response<Incoming> {
    use base64::Engine;
    let stream = TcpStream::connect(client.to).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let key = base64::engine::general_purpose::STANDARD.encode(&client.key);
    let request = Request::builder().method(method).uri(path).header("host", "h:9080");
    let request = request.header("authorization", format!("Basic {key}"));
    let response = sender.send_request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    // The connection lives as long as its body.
    tokio::spawn(async move { sender.ready().await });
    response
}

impl Client {
    pub async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let asked = async {
            let response = send(self, method, path, body).await;
            let status = response.status().as_u16();
            let bytes = response.into_body().collect().await.unwrap().to_bytes();
            (status, serde_json::from_slice(&bytes).unwrap_or_default())
        };
        tokio::time::timeout(Duration::from_secs(30), asked)
            .await
            .unwrap_or_else(|_| panic!("{method} {path}: no answer"))
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask("GET", path, Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    pub async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.ask("POST", path, body).await;
        assert!((200..300).contains(&status), "{path}: {answer}");
        answer
    }

    pub async fn act(&self, id: &str, action: &str) -> Value {
        self.post(&format!("/v1/instances/{id}?action={action}"), json!({})).await
    }

    /// A handler, which is there at once.
    pub async fn handler(&self, name: &str, processes: Value, more: Value) -> String {
        let mut body = json!({"name": name, "processNames": processes, "timeoutMillis": 20_000});
        more.as_object().unwrap().iter().for_each(|(field, value)| body[field] = value.clone());
        self.post("/v1/externalhandlers", body).await["id"].as_str().unwrap().to_owned()
    }

    pub async fn container(&self, body: Value) -> String {
        let mut asked = json!({"imageUuid": "docker:busybox", "networkIds": ["1n1"]});
        body.as_object().unwrap().iter().for_each(|(field, value)| asked[field] = value.clone());
        self.post("/v1/containers", asked).await["id"].as_str().unwrap().to_owned()
    }

    pub async fn row(&self, id: &str) -> Value {
        self.get(&format!("/v1/containers/{id}")).await
    }

    /// Waits until it is in that state, at rest or in error.
    pub async fn wait(&self, id: &str, state: &str) -> Value {
        let row = self.get(&format!("/v1/containers/{id}?wait={state}&timeout=20")).await;
        assert_eq!(row["state"], state, "{row}");
        row
    }

    pub async fn events(&self, names: &str) -> Events {
        let response = send(self, "POST", &format!("/v1/subscribe?eventNames={names}"), String::new()).await;
        assert_eq!(response.status(), 201);
        Events { body: response.into_body(), rest: String::new() }
    }

    pub async fn publish(&self, event: &Value, said: Value) -> bool {
        let mut body = json!({"name": event["replyTo"], "previousIds": [event["id"]]});
        said.as_object().unwrap().iter().for_each(|(field, value)| body[field] = value.clone());
        self.post("/v1/publish", body).await["taken"].as_bool().unwrap()
    }
}

pub struct Events {
    body: Incoming,
    rest: String,
}

impl Events {
    /// The next that asks for an answer.
    pub async fn next(&mut self) -> Value {
        let next = async {
            loop {
                while let Some((line, rest)) = self.rest.split_once('\n') {
                    let event: Value = serde_json::from_str(line).unwrap();
                    self.rest = rest.to_owned();
                    if event["replyTo"].is_string() {
                        return event;
                    }
                }
                let frame = self.body.frame().await.unwrap().unwrap();
                self.rest.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
            }
        };
        tokio::time::timeout(Duration::from_secs(20), next).await.expect("an event")
    }

    /// The next one, which must be this.
    pub async fn expect(&mut self, name: &str, resource: &str) -> Value {
        let event = self.next().await;
        assert_eq!((&event["name"], &event["resourceId"]), (&json!(name), &json!(resource)), "{event}");
        event
    }
}
