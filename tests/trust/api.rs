//! The API's port: TLS beside plain text.

use crate::world::{World, send};
use rustls::pki_types::ServerName;
use serde_json::Value;
use stampede::membership::trust::tls;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_plain_text_on_one_port() {
    let world = World::new();
    let one = world.agent("h1", None).await.ready().await;
    let (_, shown) = one.root("GET", "/cluster/authority", Value::Null).await;
    let authority = shown["authorities"][0]["certificate"].as_str().unwrap().to_owned();
    let der = rustls::pki_types::CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
    let trusting = Arc::new(tls::visitor(tls::roots([der]).unwrap(), &world.environment).unwrap());
    for name in ["127.0.0.1", "h1", "localhost"] {
        let stream = TcpStream::connect(one.address).await.unwrap();
        let stream =
            TlsConnector::from(trusting.clone()).connect(ServerName::try_from(name).unwrap(), stream).await.unwrap();
        assert_eq!(send(stream, "GET", "/ping", Value::Null).await.unwrap().0, 200, "{name}");
    }
    let stream = TcpStream::connect(one.address).await.unwrap();
    let refused = TlsConnector::from(trusting).connect(ServerName::try_from("h2").unwrap(), stream).await;
    assert!(refused.is_err(), "it is no h2");
    // Plain text, on the loopback: a key is asked for.
    let stream = TcpStream::connect(one.address).await.unwrap();
    assert_eq!(send(stream, "GET", "/v1", Value::Null).await.unwrap().0, 401);
    // A stranger's authority is not believed.
    let other = World::new();
    let two = other.agent("h1", None).await.ready().await;
    let stream = TcpStream::connect(two.address).await.unwrap();
    let der = rustls::pki_types::CertificateDer::from_pem_slice(authority.as_bytes()).unwrap();
    let trusting = Arc::new(tls::visitor(tls::roots([der]).unwrap(), &world.environment).unwrap());
    assert!(TlsConnector::from(trusting).connect(ServerName::try_from("h1").unwrap(), stream).await.is_err());
}

use rustls::pki_types::pem::PemObject;
