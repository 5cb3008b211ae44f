//! A container's output, as Docker keeps it.

use super::error::refused;
use super::{Docker, time};
use crate::compute::streams::{Channel, OutputWish, Piece, Pieces};
use crate::compute::{Error, LogLine};
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt};
use std::future::ready;

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

/// What a person asked for.
pub(super) fn wished(docker: &Docker, external_id: &str, wish: &OutputWish) -> Result<Pieces, Error> {
    let action = "read the output";
    let client = docker.client(action)?.clone();
    let (since, timestamps) = (wish.since, wish.timestamps);
    let seconds = since.map_or(0, |moment| i32::try_from(moment.div_euclid(1000)).unwrap_or(i32::MAX).max(0));
    let options = LogsOptionsBuilder::new()
        .follow(wish.follow)
        .stdout(wish.stdout)
        .stderr(wish.stderr)
        .since(seconds)
        .tail(&wish.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string()))
        .timestamps(true)
        .build();
    let pieces =
        client.logs(external_id, Some(options)).map(move |piece| piece.map_err(|source| refused(action, source)));
    Ok(pieces.filter_map(move |piece| ready(piece.map(|piece| shown(piece, since, timestamps)).transpose())).boxed())
}

/// A line as it was asked for; `None` where it is earlier than that.
fn shown(output: LogOutput, since: Option<i64>, timestamps: bool) -> Option<Piece> {
    let whole = piece(output);
    let line = line(whole.bytes.clone());
    if time::milliseconds(&line.at).zip(since).is_some_and(|(at, since)| at < since) {
        return None;
    }
    Some(if timestamps { whole } else { Piece { bytes: line.text, ..whole } })
}

/// As Docker tells the channels apart; a terminal has one.
pub(super) fn piece(output: LogOutput) -> Piece {
    let channel = match output {
        LogOutput::StdErr { .. } => Channel::Stderr,
        _ => Channel::Stdout,
    };
    Piece { channel, bytes: output.into_bytes() }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &'static str) -> LogOutput {
        LogOutput::StdErr { message: Bytes::from_static(text.as_bytes()) }
    }

    #[test]
    fn a_line_without_and_with_its_time() {
        let text = "2026-11-22T23:24:05.500000000Z to be or not\n";
        let at = 1_795_389_845_500;
        let shown = |since, timestamps| shown(written(text), since, timestamps).map(|piece| piece.bytes);
        assert_eq!(shown(None, false), Some(Bytes::from_static(b"to be or not\n")));
        assert_eq!(shown(Some(at), true), Some(Bytes::from_static(text.as_bytes())));
        // Docker was asked for whole seconds.
        assert_eq!(shown(Some(at + 1), false), None);
        assert_eq!(piece(written("x")).channel, Channel::Stderr);
    }
}
