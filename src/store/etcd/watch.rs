//! One watch: a stream of its own, whose responses are cut into one event a revision.
//!
//! etcd puts several revisions into one response where there is much to tell, but never one revision into two (it would have
//! to be asked to). A response without events is progress; one that was not asked for, as all here, is true in every
//! version of etcd: nothing before its revision is still to come.

use super::fault::{self, Fault};
use super::link::Link;
use super::{convert, session};
use crate::store::{Change, Error, Revision, Watch, WatchEvent};
use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use futures::StreamExt;
use std::collections::VecDeque;
use std::sync::Arc;

struct State {
    link: Arc<Link>,
    stream: WatchStream,
    pending: VecDeque<WatchEvent>,
    ended: bool,
}

/// Opens a watch and waits for etcd's word that it stands.
pub(super) async fn open(link: Arc<Link>, prefix: &str, from: Revision) -> Result<Watch, Fault> {
    let options = WatchOptions::new().with_prefix().with_start_revision(from.0.max(1)).with_progress_notify();
    let mut client = link.client.watch_client().max_decoding_message_size(session::LARGEST_ANSWER);
    let mut stream = client.watch(prefix, Some(options)).await?;
    let Some(first) = stream.message().await? else {
        return Err(Fault::Lost("etcd ended the watch before it began".into()));
    };
    canceled(&first)?;
    if !first.created() {
        return Err(Fault::Lost("etcd did not begin the watch".into()));
    }
    let state = State { link, stream, pending: events(&first), ended: false };
    Ok(futures::stream::unfold(state, next).boxed())
}

async fn next(mut state: State) -> Option<(Result<WatchEvent, Error>, State)> {
    loop {
        if let Some(event) = state.pending.pop_front() {
            return Some((Ok(event), state));
        }
        if state.ended {
            return None;
        }
        let silent = state.link.silent.clone();
        let response = tokio::select! {
            // What has come counts, whatever the connection is like.
            biased;
            response = state.stream.message() => match response {
                Ok(Some(response)) => canceled(&response).map(|()| response),
                Ok(None) => return None,
                Err(error) => Err(Fault::from(error)),
            },
            () = silent.cancelled() => Err(Fault::Lost("the member of etcd that was watched at is silent".into())),
        };
        match response {
            Ok(response) => state.pending = events(&response),
            Err(fault) => {
                state.ended = true;
                return Some((Err(fault.read()), state));
            }
        }
    }
}

fn canceled(response: &WatchResponse) -> Result<(), Fault> {
    if response.compact_revision() > 0 {
        return Err(Error::Compacted { revision: Revision(response.compact_revision()) }.into());
    }
    if response.canceled() {
        let message = format!("etcd ended the watch: {}", response.cancel_reason());
        // Over a watch, etcd tells its errors by the text alone.
        return Err(match fault::spoken(tonic::Code::Unknown, message.clone()) {
            Fault::Final(Error::Denied { message }) => Error::Denied { message }.into(),
            _ => Fault::Elsewhere(message),
        });
    }
    Ok(())
}

/// One event a revision; progress where there are none.
fn events(response: &WatchResponse) -> VecDeque<WatchEvent> {
    let mut grouped: VecDeque<WatchEvent> = VecDeque::new();
    for event in response.events() {
        let Some(pair) = event.kv() else { continue };
        let at = Revision(pair.mod_revision());
        let change = match event.event_type() {
            EventType::Put => Change::Put(convert::entry(pair.clone())),
            EventType::Delete => Change::Deleted { key: convert::text(pair.key()), revision: at },
        };
        match grouped.back_mut() {
            Some(WatchEvent::Changed { revision, changes }) if *revision == at => changes.push(change),
            _ => grouped.push_back(WatchEvent::Changed { revision: at, changes: vec![change] }),
        }
    }
    if grouped.is_empty()
        && !response.created()
        && let Some(header) = response.header()
    {
        grouped.push_back(WatchEvent::Progress { revision: Revision(header.revision()) });
    }
    grouped
}
