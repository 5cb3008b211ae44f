//! A container's output, as Docker keeps it.

use super::error::refused;
use super::{Docker, time};
use crate::compute::{Error, LogLine};
use bollard::query_parameters::LogsOptionsBuilder;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};

pub(super) fn follow(docker: Docker, external_id: String, since: &str) -> BoxStream<'static, Result<LogLine, Error>> {
    let action = "read the output";
    // Docker's client takes whole seconds; what is too early within the second is left out here.
    let seconds = time::milliseconds(since).map_or(0, |moment| i32::try_from(moment / 1000).unwrap_or(0));
    let since = since.to_owned();
    let options =
        LogsOptionsBuilder::new().follow(true).stdout(true).stderr(true).timestamps(true).since(seconds).build();
    let client = match docker.client(action) {
        Ok(client) => client.clone(),
        Err(error) => return futures::stream::once(async { Err(error) }).boxed(),
    };
    client
        .logs(&external_id, Some(options))
        .map(move |piece| piece.map(|piece| line(piece.into_bytes())).map_err(|source| refused(action, source)))
        .filter(move |piece| {
            let early = piece.as_ref().is_ok_and(|line| line.at < since);
            async move { !early }
        })
        .boxed()
}

/// `2026-11-22T23:24:05.123456789Z text`: all as long and in UTC, so that they sort as text.
fn line(piece: Bytes) -> LogLine {
    let space = piece.iter().position(|byte| *byte == b' ');
    match space.and_then(|space| Some((std::str::from_utf8(&piece[..space]).ok()?, space))) {
        Some((at, space)) if time::milliseconds(at).is_some() => {
            LogLine { at: at.to_owned(), text: piece.slice(space + 1..) }
        }
        _ => LogLine { at: String::new(), text: piece },
    }
}
