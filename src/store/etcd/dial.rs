//! Another way to etcd than over the kernel's TCP: what a simulation hands in.

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use std::fmt;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, Endpoint, Uri};

/// What bytes go over.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

type Dialing = BoxFuture<'static, io::Result<Box<dyn Connection>>>;

/// Opens connections. Cheap to clone.
#[derive(Clone)]
pub struct Dial(Arc<dyn Fn(Uri) -> Dialing + Send + Sync>);

impl Dial {
    pub fn new(open: impl Fn(Uri) -> Dialing + Send + Sync + 'static) -> Self {
        Self(Arc::new(open))
    }

    /// A channel to `endpoint` over what this opens, when it is first used.
    pub(super) fn channel(&self, endpoint: &Endpoint) -> Channel {
        let open = self.0.clone();
        endpoint.connect_with_connector_lazy(tower::service_fn(move |uri| {
            let opening = open(uri);
            async move { opening.await.map(TokioIo::new) }
        }))
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dial")
    }
}
