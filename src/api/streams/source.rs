//! The instance's end of a conversation, on the host that it runs on.

use super::super::error::ApiError;
use super::conversation::{self, Conversation, End, Instance, Said, Told};
use super::wish::Wish;
use crate::compute::Error;
use crate::compute::streams::{Execution, Figures, Pieces, Running, Streams};
use axum::http::StatusCode;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc::{Receiver, Sender};

/// For a command whose output has ended to end.
const EXIT: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(30);

/// Begins what is wished with the instance of that id and uuid.
///
/// # Errors
/// 409 where it is not here or does not run, or Docker refuses; 503 where Docker does not answer.
pub async fn open(streams: &dyn Streams, id: &str, uuid: &str, wish: Wish) -> Result<Conversation, ApiError> {
    let found = streams.find(id).await.map_err(refused)?.filter(|found| found.uuid == uuid);
    let Some(found) = found else {
        let message = "there is nothing of it on its host, yet or any more; wait until it runs (?wait=running)";
        return Err(ApiError::with_code(StatusCode::CONFLICT, "NoContainer", message));
    };
    if !found.running && !matches!(wish, Wish::Logs(_)) {
        let message = "it does not run; start it, and wait until it does (?wait=running)";
        return Err(ApiError::with_code(StatusCode::CONFLICT, "NotRunning", message));
    }
    let (conversation, instance) = conversation::pair();
    match wish {
        Wish::Logs(wish) => {
            let pieces = streams.output(&found.external_id, &wish).await.map_err(refused)?;
            tokio::spawn(tell_output(pieces, instance, wish.follow));
        }
        Wish::Exec(command) => {
            let execution = streams.execute(&found.external_id, &command).await.map_err(refused)?;
            tokio::spawn(run(execution, instance));
        }
        Wish::Console(console) => {
            let execution = streams.console(&found.external_id, console).await.map_err(refused)?;
            tokio::spawn(attach(execution, instance));
        }
        Wish::Stats => {
            let figures = streams.figures(&found.external_id).await.map_err(refused)?;
            tokio::spawn(tell_figures(figures, instance));
        }
    }
    Ok(conversation)
}

fn refused(error: Error) -> ApiError {
    if error.is_gone() {
        let message = "Docker on its host does not answer now; what runs goes on; try again";
        let unavailable = ApiError::with_code(StatusCode::SERVICE_UNAVAILABLE, "DockerUnavailable", message);
        return ApiError { detail: Some(error.to_string()), ..unavailable };
    }
    ApiError::with_code(StatusCode::CONFLICT, "Refused", error.to_string())
}

fn failed(error: &Error) -> End {
    let code = if error.is_gone() { "DockerUnavailable" } else { "Refused" };
    End::new(code, error.to_string())
}

/// `None` where the client has gone.
async fn tell_pieces(mut pieces: Pieces, told: &Sender<Told>) -> Option<Result<(), Error>> {
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece,
            () = told.closed() => return None,
        };
        match piece {
            Some(Ok(piece)) => told.send(Told::Output(piece)).await.ok()?,
            Some(Err(error)) => return Some(Err(error)),
            None => return Some(Ok(())),
        }
    }
}

async fn tell_output(pieces: Pieces, instance: Instance, follow: bool) {
    let told = instance.only_tells();
    let end = match tell_pieces(pieces, &told).await {
        None => return,
        Some(Ok(())) if follow => End::ended("its output has ended, by its end: ask again when it runs again"),
        Some(Ok(())) => End::ended("that is all so far"),
        Some(Err(error)) => failed(&error),
    };
    // The client may have gone meanwhile.
    let _ = told.send(Told::End(end)).await;
}

async fn tell_figures(mut figures: BoxStream<'static, Result<Figures, Error>>, instance: Instance) {
    let told = instance.only_tells();
    let end = loop {
        let next = tokio::select! {
            next = figures.next() => next,
            () = told.closed() => return,
        };
        match next {
            Some(Ok(figures)) => {
                let text = serde_json::to_string(&figures).unwrap_or_default();
                if told.send(Told::Figures(text)).await.is_err() {
                    return;
                }
            }
            Some(Err(error)) => break failed(&error),
            None => break End::ended("it does not run any more"),
        }
    };
    let _ = told.send(Told::End(end)).await;
}

/// A command, from its begin to its end or to its client's.
async fn run(execution: Execution, instance: Instance) {
    let Execution { output, input, running } = execution;
    let Instance { told, said } = instance;
    let ended = tokio::select! {
        ended = tell_pieces(output, &told) => ended,
        () = feed(input, said, running.as_ref()) => None,
    };
    let end = match ended {
        None => return running.hang_up().await,
        Some(Err(error)) => failed(&error),
        Some(Ok(())) => match tokio::time::timeout(EXIT, exit_code(running.as_ref())).await {
            Ok(Ok(exit_code)) => End::exited(exit_code),
            Ok(Err(error)) => failed(&error),
            Err(_) => End::new("Left", "the command has closed its output and not ended; it is ended now"),
        },
    };
    let over = end.exit_code.is_some();
    let _ = told.send(Told::End(end)).await;
    if !over {
        running.hang_up().await;
    }
}

/// Bytes to and fro, until either end has had enough.
async fn attach(execution: Execution, instance: Instance) {
    let Execution { output, input, running } = execution;
    let Instance { told, said } = instance;
    let ended = tokio::select! {
        ended = tell_pieces(output, &told) => ended,
        () = feed(input, said, running.as_ref()) => None,
    };
    let end = match ended {
        None => return,
        Some(Err(error)) => failed(&error),
        Some(Ok(())) => End::ended("the guest is off, or its host has closed the console"),
    };
    let _ = told.send(Told::End(end)).await;
}

/// What the client says, until it has gone. A command that reads no more is none that has ended.
async fn feed(input: Pin<Box<dyn AsyncWrite + Send>>, mut said: Receiver<Said>, running: &dyn Running) {
    let mut input = Some(input);
    while let Some(said) = said.recv().await {
        match (said, &mut input) {
            (Said::Input(bytes), Some(open)) => {
                if open.write_all(&bytes).await.is_err() || open.flush().await.is_err() {
                    input = None;
                }
            }
            (Said::InputEnd, Some(open)) => {
                // Broken, it is ended as well.
                let _ = open.shutdown().await;
            }
            (Said::Resize(size), _) => {
                if let Err(error) = running.resize(size).await {
                    tracing::debug!(%error, "a terminal was not resized");
                }
            }
            (_, None) => {}
        }
    }
}

async fn exit_code(running: &dyn Running) -> Result<i64, Error> {
    loop {
        if let Some(exit_code) = running.exit_code().await? {
            return Ok(exit_code);
        }
        tokio::time::sleep(LOOK).await;
    }
}
