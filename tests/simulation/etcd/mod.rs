//! An etcd that answers over gRPC, so that its real client can be tried: the simulated store behind etcd's own protocol,
//! as far as [`stampede::store::etcd`] speaks it.
//!
//! What befalls a call inside of etcd (no leader, lost, done late, never answered) is the simulated store's weather; what
//! befalls it on the way there is [`crate::wire`]'s.

mod convert;

use convert::{Span, span, status};
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvServer, PbKvService,
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse, PbLeaseLeasesRequest,
    PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse, PbLeaseServer, PbLeaseService,
    PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse,
    PbRangeStreamResponse, PbResponseHeader, PbTxnRequest, PbTxnResponse, PbWatchRequest, PbWatchRequestUnion,
    PbWatchResponse, PbWatchServer, PbWatchService,
};
use futures::StreamExt;
use futures::stream::BoxStream;
use stampede::store::simulated::Client;
use stampede::store::{Error, LeaseId, Revision, Store, Watch, WatchEvent};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

type Answered<T> = Result<Response<T>, Status>;
type Stream<T> = BoxStream<'static, Result<T, Status>>;

/// One host's part of it: what comes over its connections.
#[derive(Clone, Debug)]
struct Member(Arc<Client>);

impl Member {
    fn header(&self, revision: Revision) -> Option<PbResponseHeader> {
        convert::header(revision, self.0.identity())
    }
}

/// Answers on each connection that comes, until the sender is gone.
pub async fn serve(client: Client, connections: mpsc::UnboundedReceiver<DuplexStream>) {
    let member = Member(Arc::new(client));
    let incoming = futures::stream::unfold(connections, |mut connections| async move {
        connections.recv().await.map(|one| (Ok::<_, std::io::Error>(one), connections))
    });
    let served = tonic::transport::Server::builder()
        .add_service(PbKvServer::new(member.clone()))
        .add_service(PbWatchServer::new(member.clone()))
        .add_service(PbLeaseServer::new(member))
        .serve_with_incoming(incoming);
    served.await.unwrap();
}

#[tonic::async_trait]
impl PbKvService for Member {
    async fn range(&self, request: Request<PbRangeRequest>) -> Answered<PbRangeResponse> {
        let PbRangeRequest { key, range_end, min_mod_revision, .. } = request.into_inner();
        let answer = match span(key, &range_end)? {
            Span::Key(key) => {
                let found = self.0.get(&key).await.map_err(read)?;
                let count = found.entry.iter().count();
                convert::found(self.header(found.revision), found.entry.into_iter().collect(), count)
            }
            Span::Prefix(prefix) if min_mod_revision > 0 => {
                let found = self.0.changed_since(&prefix, Revision(min_mod_revision - 1)).await.map_err(read)?;
                convert::found(self.header(found.revision), found.written, found.count)
            }
            Span::Prefix(prefix) => {
                let found = self.0.range(&prefix).await.map_err(read)?;
                let count = found.entries.len();
                convert::found(self.header(found.revision), found.entries, count)
            }
        };
        Ok(Response::new(answer))
    }

    type RangeStreamStream = Stream<PbRangeStreamResponse>;

    async fn range_stream(&self, _: Request<PbRangeRequest>) -> Answered<Self::RangeStreamStream> {
        Err(Status::unimplemented("range_stream"))
    }

    async fn put(&self, _: Request<PbPutRequest>) -> Answered<PbPutResponse> {
        Err(Status::unimplemented("put outside of a transaction"))
    }

    async fn delete_range(&self, _: Request<PbDeleteRequest>) -> Answered<PbDeleteResponse> {
        Err(Status::unimplemented("delete_range outside of a transaction"))
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Answered<PbTxnResponse> {
        let outcome = self.0.commit(convert::transaction(request.into_inner())?).await.map_err(status)?;
        let header = self.header(outcome.revision);
        Ok(Response::new(convert::outcome(outcome, header)))
    }

    async fn compact(&self, request: Request<PbCompactionRequest>) -> Answered<PbCompactionResponse> {
        self.0.compact(Revision(request.into_inner().revision)).await.map_err(status)?;
        Ok(Response::new(PbCompactionResponse::default()))
    }
}

/// A read that found no answer did nothing, and etcd calls it by the same words as a write.
fn read(error: Error) -> Status {
    match error {
        Error::Unavailable { .. } => Status::unavailable("etcdserver: request timed out"),
        error => status(error),
    }
}

#[tonic::async_trait]
impl PbWatchService for Member {
    type WatchStream = Stream<PbWatchResponse>;

    /// One watch a stream, as our client has it.
    async fn watch(&self, request: Request<Streaming<PbWatchRequest>>) -> Answered<Self::WatchStream> {
        let mut asked = request.into_inner();
        let client = self.0.clone();
        let first = async move {
            let Some(PbWatchRequestUnion::CreateRequest(create)) =
                asked.message().await?.and_then(|it| it.request_union)
            else {
                return Err(Status::unimplemented("a watch that does not begin with one"));
            };
            let Span::Prefix(prefix) = span(create.key, &create.range_end)? else {
                return Err(Status::unimplemented("a watch on one key"));
            };
            let created = PbWatchResponse {
                created: true,
                header: convert::header(Revision(0), client.identity()),
                ..PbWatchResponse::default()
            };
            match client.watch(&prefix, Revision(create.start_revision)).await {
                // The client's half is kept open as long as it is told something.
                Ok(watch) => Ok(futures::stream::iter([Ok(created)]).chain(told(watch, asked)).boxed()),
                Err(Error::Compacted { revision }) => {
                    Ok(futures::stream::iter([Ok(created), Ok(compacted(revision))]).boxed())
                }
                Err(error) => Err(read(error)),
            }
        };
        let stream = futures::stream::once(first).flat_map(|first| match first {
            Ok(stream) => stream,
            Err(status) => futures::stream::iter([Err(status)]).boxed(),
        });
        Ok(Response::new(stream.boxed()))
    }
}

fn compacted(revision: Revision) -> PbWatchResponse {
    PbWatchResponse { canceled: true, compact_revision: revision.0, ..PbWatchResponse::default() }
}

fn told(watch: Watch, asked: Streaming<PbWatchRequest>) -> Stream<PbWatchResponse> {
    watch
        .map(move |message| {
            let _open = &asked;
            match message {
                Ok(WatchEvent::Changed { revision, changes }) => {
                    let events = changes.into_iter().map(convert::event).collect();
                    Ok(PbWatchResponse {
                        header: convert::header(revision, None),
                        events,
                        ..PbWatchResponse::default()
                    })
                }
                Ok(WatchEvent::Progress { revision }) => {
                    Ok(PbWatchResponse { header: convert::header(revision, None), ..PbWatchResponse::default() })
                }
                Err(Error::Compacted { revision }) => Ok(compacted(revision)),
                Err(error) => Err(read(error)),
            }
        })
        .boxed()
}

#[tonic::async_trait]
impl PbLeaseService for Member {
    async fn lease_grant(&self, request: Request<PbLeaseGrantRequest>) -> Answered<PbLeaseGrantResponse> {
        let ttl = request.into_inner().ttl;
        let LeaseId(id) = self.0.grant_lease(Duration::from_secs(ttl.unsigned_abs())).await.map_err(status)?;
        Ok(Response::new(PbLeaseGrantResponse { id, ttl, ..PbLeaseGrantResponse::default() }))
    }

    async fn lease_revoke(&self, request: Request<PbLeaseRevokeRequest>) -> Answered<PbLeaseRevokeResponse> {
        self.0.revoke_lease(LeaseId(request.into_inner().id)).await.map_err(status)?;
        Ok(Response::new(PbLeaseRevokeResponse::default()))
    }

    type LeaseKeepAliveStream = Stream<PbLeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Answered<Self::LeaseKeepAliveStream> {
        let client = self.0.clone();
        let answers = request.into_inner().then(move |asked| {
            let client = client.clone();
            async move {
                let id = asked?.id;
                let ttl = match client.keep_alive(LeaseId(id)).await {
                    Ok(ttl) => i64::try_from(ttl.as_secs()).unwrap(),
                    // Its only word for a lease that is gone.
                    Err(Error::LeaseGone(_)) => 0,
                    Err(error) => return Err(read(error)),
                };
                Ok(PbLeaseKeepAliveResponse { id, ttl, ..PbLeaseKeepAliveResponse::default() })
            }
        });
        Ok(Response::new(answers.boxed()))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Answered<PbLeaseTimeToLiveResponse> {
        let id = request.into_inner().id;
        let left = self.0.time_to_live(LeaseId(id)).await.map_err(read)?;
        let ttl = left.map_or(-1, |left| i64::try_from(left.as_secs()).unwrap());
        Ok(Response::new(PbLeaseTimeToLiveResponse { id, ttl, ..PbLeaseTimeToLiveResponse::default() }))
    }

    async fn lease_leases(&self, _: Request<PbLeaseLeasesRequest>) -> Answered<PbLeaseLeasesResponse> {
        Err(Status::unimplemented("lease_leases"))
    }
}
