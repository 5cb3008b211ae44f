//! Names that are not ours are asked for where the host asks itself, by the wire and back without a change. Nothing is kept:
//! who caches is the name server behind.

use super::resolv::NameServers;
use super::wire::{Question, Reply};
use hickory_net::NetError;
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_net::tcp::TcpClientStream;
use hickory_net::udp::UdpClientStream;
use hickory_net::xfer::{DnsHandle, DnsRequestSender, FirstAnswer};
use hickory_proto::op::{DnsRequest, DnsRequestOptions, DnsResponse, Edns, Message, ResponseCode};
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// What one name server has, and all together: Docker's resolver, which asks us, gives up after 4 s.
const ONE: Duration = Duration::from_millis(1500);
const ALL: Duration = Duration::from_millis(3500);
/// What we take in one datagram (dnsflagday.net/2020).
const DATAGRAM: u16 = 1232;
/// A name server that answered while one before it did not is asked first for so long.
const STICKS: Duration = Duration::from_secs(60);

/// See the module's text.
#[derive(Debug)]
pub struct Upstream {
    servers: NameServers,
    good: Mutex<Option<(SocketAddr, Instant)>>,
}

impl Upstream {
    pub fn new(servers: NameServers) -> Self {
        Self { servers, good: Mutex::default() }
    }

    /// What the name servers say; where none does, that it failed.
    pub async fn ask(&self, question: &Question) -> Reply {
        timeout(ALL, self.one_after_the_other(question)).await.unwrap_or_else(|_| Reply::of(ResponseCode::ServFail))
    }

    async fn one_after_the_other(&self, question: &Question) -> Reply {
        let mut last = Reply::of(ResponseCode::ServFail);
        let servers = self.in_order();
        for (place, server) in servers.iter().enumerate() {
            match timeout(ONE, one(*server, question)).await {
                Ok(Ok(answer)) => {
                    last = reply(answer.into_message());
                    if !matches!(last.code, ResponseCode::ServFail | ResponseCode::Refused) {
                        self.answered(*server, place);
                        return last;
                    }
                }
                Ok(Err(error)) => {
                    tracing::debug!(%server, %error, name = %question.name(), "a name server gives no answer")
                }
                Err(_) => tracing::debug!(%server, name = %question.name(), "a name server is silent"),
            }
        }
        last
    }

    fn in_order(&self) -> Vec<SocketAddr> {
        let mut servers = self.servers.now();
        let good = *self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((good, since)) = good
            && since.elapsed() < STICKS
            && let Some(place) = servers.iter().position(|server| *server == good)
        {
            servers[..=place].rotate_right(1);
        }
        servers
    }

    fn answered(&self, server: SocketAddr, place: usize) {
        if place > 0 {
            *self.good.lock().unwrap_or_else(PoisonError::into_inner) = Some((server, Instant::now()));
        }
    }
}

/// Asks one name server, over TCP where a datagram cannot hold what it says.
async fn one(server: SocketAddr, question: &Question) -> Result<DnsResponse, NetError> {
    let provider = TokioRuntimeProvider::new();
    // A socket of its own for each question, at a port by chance: who would forge an answer has to guess it.
    let mut way = UdpClientStream::builder(server, provider.clone())
        .with_timeout(Some(ONE))
        .with_os_port_selection(true)
        .with_max_retries(2)
        .build();
    let answer = way.send_message(request(question)).first_answer().await;
    if answer.as_ref().is_ok_and(|answer| !answer.metadata.truncation) {
        return answer;
    }
    if matches!(answer, Err(NetError::Timeout | NetError::Io(_))) {
        return answer;
    }
    let way = TcpClientStream::exchange(server, None, ONE, None, provider).await?;
    way.send(request(question)).first_answer().await
}

/// The question as we ask it, under a number of its own.
fn request(question: &Question) -> DnsRequest {
    let mut message = Message::query();
    message.metadata.recursion_desired = question.recursion_desired();
    message.metadata.checking_disabled = question.checking_disabled();
    message.add_query(question.query().clone());
    let mut edns = Edns::new();
    edns.set_max_payload(DATAGRAM).set_version(0).set_dnssec_ok(question.dnssec_ok());
    message.edns = Some(edns);
    DnsRequest::new(message, DnsRequestOptions::default())
}

fn reply(message: Message) -> Reply {
    Reply {
        code: message.metadata.response_code,
        authoritative: false,
        answers: message.answers,
        authorities: message.authorities,
        additionals: message.additionals,
    }
}
