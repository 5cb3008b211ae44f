//! The connection to one member at a time, and the way to the next.

use super::link::Link;
use super::{Dial, EtcdOptions, Fault, Members};
use crate::environment::Environment;
use crate::store::{Error, LeaseId};
use etcd_client::{Certificate, Channel, Client, ConnectOptions, Identity, KvClient, TlsOptions};
use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::Endpoint;

/// Larger than all that will ever be stored: a whole prefix comes in one answer.
pub(super) const LARGEST_ANSWER: usize = 512 << 20;
/// A member that answers no ping this long, sent this often, is silent; together less than a usual lease, so that who watches
/// through a host that is lost has found another member when its lease ends. etcd ends connections that are pinged more often than
/// every 5 s, and those that are pinged while nothing is open on them.
const PING: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(2));

/// What a call does, and so what may be said and done when no answer comes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Effect {
    /// Nothing, or nothing that done twice is different.
    Reads,
    /// It changes something; `lease` is named in it.
    Writes { lease: Option<LeaseId> },
}

/// See the module's text.
pub(super) struct Session {
    endpoints: Vec<String>,
    options: ConnectOptions,
    timeout: Duration,
    /// How long one member may take to be connected to, so that a dead one leaves time for the others.
    share: Duration,
    dial: Option<Dial>,
    members: Members,
    current: Mutex<Current>,
    /// All connections that something may be watched on.
    links: std::sync::Mutex<Vec<Weak<Link>>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

struct Current {
    endpoint: usize,
    /// Which connection this is, so that many calls that fail on one give it up once.
    number: u64,
    link: Option<Arc<Link>>,
}

impl Session {
    pub(super) fn new(options: EtcdOptions, environment: &Environment) -> Result<Self, Error> {
        if options.endpoints.is_empty() {
            return Err(Error::Unusable("etcd needs at least one endpoint, such as http://127.0.0.1:2379".into()));
        }
        let share = options.timeout / u32::try_from(options.endpoints.len() + 1).unwrap_or(u32::MAX);
        let mut connect = ConnectOptions::new()
            .with_keep_alive(PING.0, PING.1)
            .with_keep_alive_while_idle(false)
            .with_connect_timeout(share)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(files) = &options.tls {
            let mut tls = TlsOptions::new();
            if let Some(ca) = &files.ca {
                tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
            }
            if let Some((certificate, key)) = &files.identity {
                tls = tls.identity(Identity::from_pem(read(certificate)?, read(key)?));
            }
            connect = connect.with_tls(tls);
        }
        if let Some(login) = &options.login {
            connect = connect.with_user(&login.user, &login.password);
        }
        let current = Current { endpoint: options.members.current(&options, environment), number: 0, link: None };
        Ok(Self {
            endpoints: options.endpoints,
            options: connect,
            timeout: options.timeout,
            share,
            dial: options.dial,
            members: options.members,
            current: Mutex::new(current),
            links: std::sync::Mutex::default(),
        })
    }

    pub(super) fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// Does `attempt` on one member after the other as the module's text has it, within the deadline.
    pub(super) async fn call<T, F>(&self, effect: Effect, attempt: impl Fn(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        self.call_on(effect, |link| attempt(link.client.clone())).await
    }

    /// The same for what stays on the connection.
    pub(super) async fn call_on<T, F>(&self, effect: Effect, attempt: impl Fn(Arc<Link>) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let deadline = Instant::now() + self.timeout;
        // A second time also where there is but one member: what was lost may have been an old connection.
        let mut left = self.endpoints.len().max(2);
        loop {
            left -= 1;
            // What may be asked again elsewhere does not wait out the whole deadline for one silent member.
            let until = match effect {
                Effect::Reads if left > 0 => Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2,
                _ => deadline,
            };
            let (fault, number) = match timeout_at(until, self.link()).await {
                Ok((Ok(link), number)) => match timeout_at(until, attempt(link)).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(fault)) => (fault, number),
                    Err(_) => (Fault::Lost(format!("no answer within {:?}", self.timeout)), number),
                },
                Ok((Err(fault), number)) => (fault, number),
                // Another call is at it, and will move on.
                Err(_) => return Err(Fault::Unsent(format!("no connection within {:?}", self.timeout)).read()),
            };
            let again = match (&fault, effect) {
                (Fault::LeaseGone | Fault::Final(_), _) => false,
                (Fault::Lost(_), Effect::Writes { .. }) => {
                    self.give_up(number).await;
                    false
                }
                (Fault::Unsent(_) | Fault::Elsewhere(_) | Fault::Lost(_), _) => {
                    self.give_up(number).await;
                    true
                }
            };
            if !again || left == 0 || Instant::now() >= deadline {
                return Err(match effect {
                    Effect::Reads => fault.read(),
                    Effect::Writes { lease } => fault.write(lease),
                });
            }
        }
    }

    /// The current connection and its number.
    async fn link(&self) -> (Result<Arc<Link>, Fault>, u64) {
        let mut current = self.current.lock().await;
        if let Some(link) = current.link.as_ref().filter(|link| !link.silent.is_cancelled()) {
            return (Ok(link.clone()), current.number);
        }
        current.endpoint = self.members.now() % self.endpoints.len();
        // With a login this asks etcd for a token; without one it does nothing yet. No answer is no harm: nothing was sent.
        let fault = match timeout(self.share, self.connect(&self.endpoints[current.endpoint])).await {
            Ok(Ok(client)) => {
                let link = Link::new(client, current.endpoint, &self.members);
                let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
                links.retain(|link| link.strong_count() > 0);
                links.push(Arc::downgrade(&link));
                current.link = Some(link.clone());
                return (Ok(link), current.number);
            }
            Ok(Err(error)) => match Fault::from(error) {
                Fault::Lost(message) => Fault::Unsent(message),
                fault => fault,
            },
            Err(_) => Fault::Unsent(format!("no answer to the login within {:?}", self.share)),
        };
        (Err(fault), current.number)
    }

    async fn connect(&self, endpoint: &str) -> Result<Client, etcd_client::Error> {
        let options = Some(self.options.clone());
        let Some(dial) = &self.dial else { return Client::connect([endpoint], options).await };
        // With what `options` says of connections.
        let endpoint = Endpoint::from_shared(endpoint.to_owned())?
            .keep_alive_while_idle(false)
            .http2_keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .connect_timeout(self.share);
        Client::from_channel(Channel::Tonic(dial.channel(&endpoint)), options).await
    }

    /// Looks how the members are that something is watched at; what is silent is left.
    pub(super) async fn attend(&self) {
        let links: Vec<Arc<Link>> = {
            let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            links.iter().filter_map(Weak::upgrade).collect()
        };
        let look = |link: Arc<Link>| async move {
            if !link.attend().await {
                self.members.leave(link.endpoint, self.endpoints.len());
            }
        };
        futures::future::join_all(links.into_iter().filter(|link| !link.silent.is_cancelled()).map(look)).await;
    }

    /// Leaves the connection of that number for a new one, to the next member.
    async fn give_up(&self, number: u64) {
        let mut current = self.current.lock().await;
        if current.number == number {
            current.number += 1;
            current.link = None;
            self.members.leave(current.endpoint, self.endpoints.len());
            tracing::debug!(left = self.endpoints[current.endpoint], "going on with another connection to etcd");
        }
    }
}

pub(super) fn kv(client: &Client) -> KvClient {
    client.kv_client().max_decoding_message_size(LARGEST_ANSWER)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::Unusable(format!("cannot read {} for etcd: {error}", path.display())))
}
