//! The driver, asked as Docker asks: its calls in their order, with its bodies, over its socket.

use super::support::{Namespace, environment, eventually};
use crate::network::SubnetSpec;
use crate::network::driver::{Driver, Options, bind, serve};
use crate::network::overlay::BRIDGE;
use crate::resource::assignment::{Assignment, Container, Desired, ManagedAddress, OnEnd, Token, Workload};
use crate::store::ledger::Ledger;
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// As long as Docker's.
const ENDPOINT: &str = "f1d2d2f924e986ac86fdf7b36c94bcdf32beec15a38359cb5e1b6b0a6f2c6a3b";
const SECOND: &str = "e242ed3bffccdf271b7fbaf34ed72d089537b42f9d24c6b0a6f2c6a3b0000001";

fn assignment(id: &str, address: Ipv4Addr) -> Assignment {
    Assignment {
        id: id.to_owned(),
        uuid: "u".to_owned(),
        token: Token { generation: 1, revision: 7 },
        generation: 1,
        restarts: 0,
        desired: Desired::Running,
        on_end: OnEnd::Stop,
        native: None,
        exclusive: None,
        workload: Workload::Container(Container { image: "busybox".to_owned(), ..Container::default() }),
        ports: Vec::new(),
        floating: Vec::new(),
        links: Vec::new(),
        account: None,
        network: Some(ManagedAddress {
            address,
            prefix: 16,
            gateway: Ipv4Addr::new(10, 42, 0, 1),
            mac: SubnetSpec::default().mac(address).to_string(),
            mtu: 1380,
        }),
    }
}

struct Rig {
    host: Namespace,
    ledger: Ledger,
    directory: tempfile::TempDir,
    server: tokio::task::JoinHandle<()>,
}

impl Rig {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = Namespace::new().await;
        let ledger = Ledger::open(directory.path()).unwrap();
        let server = Self::serve(&host, directory.path());
        Self { host, ledger, directory, server }
    }

    fn serve(host: &Namespace, directory: &Path) -> tokio::task::JoinHandle<()> {
        let options = Options { ledger: directory.to_owned(), ..Options::default() };
        let driver = Arc::new(Driver::new(host.kernel(), &options, environment()));
        tokio::spawn(serve(bind(&directory.join("plugin.sock")).unwrap(), driver))
    }

    /// The driver ends and another begins, which knows nothing but what lies around.
    async fn restart(&mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
        self.server = Self::serve(&self.host, self.directory.path());
    }

    /// A call with its body in chunks, as Docker sends them; the status and the answer.
    async fn call(&self, call: &str, body: &Value) -> (u16, Value) {
        let mut stream = UnixStream::connect(self.directory.path().join("plugin.sock")).await.unwrap();
        let body = body.to_string();
        let (one, two) = body.split_at(body.len() / 2);
        let request = format!(
            "POST /{call} HTTP/1.1\r\nHost: %2Frun%2Fdocker%2Fplugins%2Fstampede.sock\r\nUser-Agent: Go-http-client/1.1\r\n\
             Transfer-Encoding: chunked\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\nConnection: close\r\n\r\n\
             {:x}\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\n\r\n",
            one.len(),
            two.len(),
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    async fn ask(&self, call: &str, body: Value) -> Value {
        let (status, answer) = self.call(call, &body).await;
        assert_eq!(status, 200, "{call}: {answer}");
        answer
    }

    async fn refused(&self, call: &str, body: Value) -> String {
        let (status, answer) = self.call(call, &body).await;
        assert_ne!(status, 200, "{call}: {answer}");
        answer["Err"].as_str().unwrap().to_owned()
    }

    async fn create(&self, endpoint: &str, address: &str) -> Value {
        let interface = json!({"Address": format!("{address}/16"), "AddressIPv6": "", "MacAddress": ""});
        let options = json!({"com.docker.network.endpoint.exposedports": [], "com.docker.network.portmap": null});
        let body = json!({"NetworkID": "n", "EndpointID": endpoint, "Interface": interface, "Options": options});
        self.ask("NetworkDriver.CreateEndpoint", body).await
    }

    async fn link(&self, name: &str) -> Option<stampede_netlink::link::Link> {
        self.host.netlink.link_by_name(name).await.unwrap()
    }
}

#[tokio::test]
async fn a_container_comes_and_goes_as_docker_has_it() {
    let rig = Rig::new().await;
    rig.ledger.put_assignment(&assignment("1i54", Ipv4Addr::new(10, 42, 7, 9))).unwrap();
    assert_eq!(rig.ask("Plugin.Activate", json!({})).await["Implements"], json!(["NetworkDriver", "IpamDriver"]));
    assert_eq!(rig.ask("NetworkDriver.GetCapabilities", Value::Null).await["Scope"], "local");
    assert_eq!(rig.ask("IpamDriver.GetCapabilities", Value::Null).await["RequiresMACAddress"], false);
    rig.ask("IpamDriver.GetDefaultAddressSpaces", Value::Null).await;

    // docker network create
    let pool =
        json!({"AddressSpace": "StampedeLocal", "Pool": "10.42.0.0/16", "SubPool": "", "Options": null, "V6": false});
    let pool = rig.ask("IpamDriver.RequestPool", pool).await;
    assert_eq!(pool["Pool"], "10.42.0.0/16");
    let gateway = json!({"PoolID": pool["PoolID"], "Address": "10.42.0.1",
        "Options": {"RequestAddressType": "com.docker.network.gateway"}});
    assert_eq!(rig.ask("IpamDriver.RequestAddress", gateway).await["Address"], "10.42.0.1/16");
    let network = json!({"NetworkID": "n", "Options": {"com.docker.network.enable_ipv6": false},
        "IPv4Data": [{"AddressSpace": "StampedeLocal", "Gateway": "10.42.0.1/16", "Pool": "10.42.0.0/16"}], "IPv6Data": []});
    rig.ask("NetworkDriver.CreateNetwork", network).await;

    // docker run --ip
    let address = json!({"PoolID": "stampede", "Address": "10.42.7.9", "Options": null});
    assert_eq!(rig.ask("IpamDriver.RequestAddress", address.clone()).await["Address"], "10.42.7.9/16");
    let created = rig.create(ENDPOINT, "10.42.7.9").await;
    assert_eq!(created, json!({"Interface": {"MacAddress": "02:00:01:00:07:09"}}));
    let of =
        json!({"NetworkID": "n", "EndpointID": ENDPOINT, "SandboxKey": "/var/run/docker/netns/x", "Options": null});
    rig.ask("NetworkDriver.EndpointOperInfo", of.clone()).await;
    let joined = rig.ask("NetworkDriver.Join", of.clone()).await;
    assert_eq!(joined["InterfaceName"], json!({"SrcName": "sp-1i54", "DstPrefix": "eth"}));
    assert_eq!(joined["Gateway"], "10.42.0.1");
    rig.ask("NetworkDriver.ProgramExternalConnectivity", of.clone()).await;

    // The bridge is there though no agent ever ran, and the port is isolated.
    let bridge = rig.link(BRIDGE).await.unwrap();
    let (near, far) = (rig.link("st-1i54").await.unwrap(), rig.link("sp-1i54").await.unwrap());
    assert_eq!((near.master, near.port.isolated, near.up, near.mtu), (Some(bridge.index), Some(true), true, 1380));
    assert_eq!((far.mac.unwrap().to_string(), far.mtu), ("02:00:01:00:07:09".to_owned(), 1380));
    let read = |path: &str| rig.host.run(|| std::fs::read_to_string(format!("/proc/sys/net/{path}")).unwrap());
    assert_eq!(read("ipv4/conf/stampede0/proxy_arp_pvlan").trim(), "1");
    assert_eq!(read("ipv6/conf/st-1i54/disable_ipv6").trim(), "1");
    assert_eq!(read("ipv4/ip_forward").trim(), "1");

    // docker stop, and once more for what is gone already
    for _ in 0..2 {
        rig.ask("NetworkDriver.RevokeExternalConnectivity", of.clone()).await;
        rig.ask("NetworkDriver.Leave", of.clone()).await;
        rig.ask("NetworkDriver.DeleteEndpoint", of.clone()).await;
        rig.ask("IpamDriver.ReleaseAddress", json!({"PoolID": "stampede", "Address": "10.42.7.9"})).await;
    }
    assert_eq!(rig.link("st-1i54").await, None);
    rig.ask("NetworkDriver.DeleteNetwork", json!({"NetworkID": "n"})).await;
    rig.ask("IpamDriver.ReleasePool", json!({"PoolID": "stampede"})).await;
}

#[tokio::test]
async fn a_restarted_driver_knows_its_endpoints_and_a_leftover_is_replaced() {
    let mut rig = Rig::new().await;
    rig.ledger.put_assignment(&assignment("1i54", Ipv4Addr::new(10, 42, 7, 9))).unwrap();
    rig.create(ENDPOINT, "10.42.7.9").await;
    rig.restart().await;
    let of = |endpoint| json!({"NetworkID": "n", "EndpointID": endpoint});
    assert_eq!(rig.ask("NetworkDriver.Join", of(ENDPOINT)).await["InterfaceName"]["SrcName"], "sp-1i54");
    // Power went, the container comes again under another endpoint; what Docker then clears up is the old one.
    rig.restart().await;
    rig.create(SECOND, "10.42.7.9").await;
    rig.ask("NetworkDriver.DeleteEndpoint", of(ENDPOINT)).await;
    assert!(rig.link("st-1i54").await.unwrap().alias.unwrap().ends_with(SECOND));
    rig.restart().await;
    rig.ask("NetworkDriver.DeleteEndpoint", of(ENDPOINT)).await;
    assert!(rig.link("st-1i54").await.is_some());
    rig.ask("NetworkDriver.DeleteEndpoint", of(SECOND)).await;
    assert_eq!(rig.link("st-1i54").await, None);
    assert!(rig.refused("NetworkDriver.Join", of(SECOND)).await.contains("is not there"));
    // The bridge went under a driver that knows its index.
    rig.host.tool(&["ip", "link", "del", BRIDGE]);
    rig.create(ENDPOINT, "10.42.7.9").await;
    let (bridge, near) = (rig.link(BRIDGE).await.unwrap(), rig.link("st-1i54").await.unwrap());
    assert_eq!((near.master, near.port.isolated), (Some(bridge.index), Some(true)));
}

#[tokio::test]
async fn what_cannot_be_is_refused_in_words_that_help() {
    let rig = Rig::new().await;
    let address = |address: &str| json!({"PoolID": "stampede", "Address": address, "Options": null});
    let refused = rig.refused("IpamDriver.RequestAddress", address("")).await;
    assert!(refused.contains("started through Stampede"), "{refused}");
    let refused = rig.refused("IpamDriver.RequestAddress", address("10.42.3.3")).await;
    assert!(refused.contains("no instance on this host has the address 10.42.3.3"), "{refused}");
    let refused = rig.refused("IpamDriver.RequestPool", json!({"Pool": "172.31.0.0/16"})).await;
    assert!(refused.contains("--subnet 10.42.0.0/16 --gateway 10.42.0.1"), "{refused}");
    rig.refused("IpamDriver.RequestPool", json!({"Pool": "", "V6": true})).await;
    assert_eq!(rig.call("NetworkDriver.Nonsense", &json!({})).await.0, 404);
    rig.refused("NetworkDriver.CreateEndpoint", json!({"EndpointID": 7})).await;
    // A broken file hides no other, and a new one is seen at once.
    std::fs::write(rig.directory.path().join("instance/1i1.json"), "{").unwrap();
    rig.ledger.put_assignment(&assignment("1i2", Ipv4Addr::new(10, 42, 3, 3))).unwrap();
    rig.ask("IpamDriver.RequestAddress", address("10.42.3.3")).await;
    // Its address changed, as after a move.
    rig.ledger.put_assignment(&assignment("1i2", Ipv4Addr::new(10, 42, 3, 4))).unwrap();
    rig.refused("IpamDriver.RequestAddress", address("10.42.3.3")).await;
    rig.ask("IpamDriver.RequestAddress", address("10.42.3.4")).await;
    rig.ledger.forget("1i2").unwrap();
    rig.refused("IpamDriver.RequestAddress", address("10.42.3.4")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_at_once_are_each_whole() {
    let rig = Arc::new(Rig::new().await);
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..30u8 {
        let rig = rig.clone();
        tasks.spawn(async move {
            let address = Ipv4Addr::new(10, 42, 9, number + 1);
            rig.ledger.put_assignment(&assignment(&format!("1i{number}"), address)).unwrap();
            rig.create(&format!("{ENDPOINT}{number}"), &address.to_string()).await;
            let near = rig.link(&format!("st-1i{number}")).await.unwrap();
            assert_eq!(near.port.isolated, Some(true));
        });
    }
    tasks.join_all().await;
    for number in 0..30 {
        let of = json!({"NetworkID": "n", "EndpointID": format!("{ENDPOINT}{number}")});
        rig.ask("NetworkDriver.DeleteEndpoint", of).await;
    }
    eventually("only the bridge and lo are left", async || rig.host.netlink.links().await.unwrap().len() <= 2).await;
}

/// What the agent writes down.
fn keep(rig: &Rig, addresses: &[&str]) {
    let kept = json!({"mtu": 1380, "addresses": addresses});
    std::fs::write(rig.directory.path().join("docker.json"), kept.to_string()).unwrap();
}

#[tokio::test]
async fn what_docker_starts_by_itself_gets_an_address_and_gives_it_back() {
    let mut rig = Rig::new().await;
    keep(&rig, &["10.42.7.20", "10.42.7.21"]);
    let ask = |address: &str| json!({"PoolID": "stampede", "Address": address, "Options": {}});
    let given = rig.ask("IpamDriver.RequestAddress", ask("")).await;
    assert_eq!(given["Address"], "10.42.7.20/16");
    assert_eq!(rig.create(ENDPOINT, "10.42.7.20").await["Interface"]["MacAddress"], "02:00:01:00:07:14");
    let of = |endpoint: &str| json!({"NetworkID": "n", "EndpointID": endpoint});
    assert_eq!(rig.ask("NetworkDriver.Join", of(ENDPOINT)).await["InterfaceName"]["SrcName"], "sp-0a2a0714");
    let near = rig.link("st-0a2a0714").await.unwrap();
    assert_eq!((near.mtu, near.port.isolated), (1380, Some(true)));

    // Whatever is lost with the driver's process, the link tells.
    rig.restart().await;
    assert_eq!(rig.ask("IpamDriver.RequestAddress", ask("")).await["Address"], "10.42.7.21/16");
    assert!(rig.refused("IpamDriver.RequestAddress", ask("10.42.7.20")).await.contains("is in use"));
    assert!(rig.refused("IpamDriver.RequestAddress", ask("10.42.7.99")).await.contains("no instance on this host"));
    let refused = rig.refused("IpamDriver.RequestAddress", ask("")).await;
    assert!(refused.contains("all addresses that this host keeps for Docker are in use"), "{refused}");
    // Docker gave up on that one; and the agent takes more while somebody waits.
    rig.ask("IpamDriver.ReleaseAddress", json!({"PoolID": "stampede", "Address": "10.42.7.21"})).await;
    assert_eq!(rig.ask("IpamDriver.RequestAddress", ask("10.42.7.21")).await["Address"], "10.42.7.21/16");
    let more = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        keep(&rig, &["10.42.7.20", "10.42.7.21", "10.42.7.22"]);
    };
    let (waited, ()) = tokio::join!(rig.ask("IpamDriver.RequestAddress", ask("")), more);
    assert_eq!(waited["Address"], "10.42.7.22/16");

    let create = |address: &str, mac: &str, ports: Value| {
        let interface = json!({"Address": format!("{address}/16"), "MacAddress": mac});
        json!({"EndpointID": SECOND, "Interface": interface, "Options": {"com.docker.network.portmap": ports}})
    };
    let call = "NetworkDriver.CreateEndpoint";
    assert!(rig.refused(call, create("10.42.7.20", "", Value::Null)).await.contains("is in use"), "by the first");
    assert!(rig.refused(call, create("10.42.7.99", "", Value::Null)).await.contains("no instance on this host"));
    assert!(rig.refused(call, create("10.42.7.21", "02:42:00:00:00:07", Value::Null)).await.contains("--mac-address"));
    let ports = json!([{"Proto": 6, "Port": 80, "HostPort": 8080}]);
    assert!(
        rig.refused(call, create("10.42.7.21", "", ports)).await.contains("publish nothing on the managed network")
    );

    rig.ask("NetworkDriver.DeleteEndpoint", of(ENDPOINT)).await;
    assert_eq!(rig.link("st-0a2a0714").await, None);
    assert_eq!(rig.ask("IpamDriver.RequestAddress", ask("")).await["Address"], "10.42.7.20/16");
}
