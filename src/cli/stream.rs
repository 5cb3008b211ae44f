//! `stampede logs` and `stampede exec`: an instance's output, and commands in it, wherever it is.

use super::client::{Socket, Target};
use super::terminal::{self, Terminal};
use crate::api::streams::conversation::{End, Said, Told};
use crate::api::streams::wire::{self, Frame};
use crate::compute::streams::Channel;
use crate::resource::{identifier, instance};
use anyhow::{Context, Result, bail};
use form_urlencoded::Serializer;
use futures::{SinkExt, StreamExt};
use hyper::Method;
use serde_json::Value;
use std::io::{Read, Write};
use tokio::sync::mpsc::{self, Receiver};
use tokio_tungstenite::tungstenite::Message;

/// Of standard input, at once.
const PIECE: usize = 32 * 1024;

#[derive(Debug, clap::Args)]
pub struct LogsOptions {
    #[command(flatten)]
    target: Target,
    /// The instance, as `stampede ps` shows it: 1i54, or its name where no other has it.
    instance: String,
    /// Goes on with what comes, until the instance ends.
    #[arg(short, long)]
    follow: bool,
    /// Only so many lines from the end.
    #[arg(short = 'n', long)]
    tail: Option<u32>,
    /// Only what was written since: seconds since 1970, or 2026-11-22T23:24:05Z.
    #[arg(long)]
    since: Option<String>,
    /// Each line begins with when it was written.
    #[arg(short, long)]
    timestamps: bool,
}

#[derive(Debug, clap::Args)]
pub struct ExecOptions {
    #[command(flatten)]
    target: Target,
    /// Passes standard input on.
    #[arg(short, long)]
    interactive: bool,
    /// Gives the command a terminal.
    #[arg(short, long)]
    tty: bool,
    /// A variable of its environment, NAME=value.
    #[arg(short, long = "env")]
    environment: Vec<String>,
    /// The user that it runs as.
    #[arg(short, long)]
    user: Option<String>,
    /// The directory that it runs in.
    #[arg(short = 'w', long = "workdir")]
    directory: Option<String>,
    /// The instance, as `stampede ps` shows it: 1i54, or its name where no other has it.
    instance: String,
    /// The program and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub async fn logs(options: LogsOptions) -> Result<()> {
    let id = called(&options.target, &options.instance).await?;
    let mut query = Serializer::new(format!("/v1/instances/{id}/logs?"));
    query.append_pair("follow", &options.follow.to_string());
    query.append_pair("timestamps", &options.timestamps.to_string());
    if let Some(tail) = options.tail {
        query.append_pair("tail", &tail.to_string());
    }
    if let Some(since) = &options.since {
        query.append_pair("since", since);
    }
    let path = query.finish();
    let socket = options.target.open(&path).await?;
    let (_say, said) = mpsc::channel(1);
    converse(socket, said).await.map(drop)
}

/// Ends the program with the command's exit code.
pub async fn exec(options: ExecOptions) -> Result<()> {
    let id = called(&options.target, &options.instance).await?;
    let path = command_path(&id, &options);
    let socket = options.target.open(&path).await?;
    let raw = if options.tty && options.interactive { Terminal::raw()? } else { None };
    let (say, said) = mpsc::channel(2);
    if options.interactive {
        let say = say.clone();
        // A thread, since reading a terminal cannot be given up.
        std::thread::spawn(move || pass_on(&say));
    }
    if options.tty {
        tokio::spawn(terminal::follow_size(say.clone()));
    }
    let end = converse(socket, said).await;
    drop(raw);
    let code = end?.exit_code.context("the agent has not said how the command ended")?;
    std::process::exit(i32::try_from(code).unwrap_or(1));
}

/// The id of the instance that is called so, by its id or its name.
async fn called(target: &Target, instance: &str) -> Result<String> {
    if identifier::parse(instance::BASE, instance).is_some() {
        return Ok(instance.to_owned());
    }
    let mut query = Serializer::new("/v1/instances?removed_null&".to_owned());
    let found = target.ask(Method::GET, &query.append_pair("name", instance).finish(), None).await?;
    let ids = ids(&found);
    match ids.as_slice() {
        [id] => Ok(id.clone()),
        [] => bail!("no instance has the id or name {instance}: see `stampede ps`"),
        several => bail!("{} instances are called {instance}: say which of {}", several.len(), several.join(", ")),
    }
}

fn ids(list: &Value) -> Vec<String> {
    let rows = list.get("data").and_then(Value::as_array).into_iter().flatten();
    rows.filter_map(|row| row.get("id").and_then(Value::as_str)).map(str::to_owned).collect()
}

fn command_path(id: &str, options: &ExecOptions) -> String {
    let mut query = Serializer::new(format!("/v1/instances/{id}/exec?"));
    query.extend_pairs(options.command.iter().map(|argument| ("command", argument)));
    query.extend_pairs(options.environment.iter().map(|one| ("environment", one)));
    query.append_pair("stdin", &options.interactive.to_string());
    query.append_pair("tty", &options.tty.to_string());
    for (name, value) in [("user", &options.user), ("directory", &options.directory)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    if let Some(size) = terminal::size().filter(|_| options.tty) {
        query.append_pair("columns", &size.columns.to_string());
        query.append_pair("rows", &size.rows.to_string());
    }
    query.finish()
}

/// Standard input, to its end.
fn pass_on(say: &mpsc::Sender<Said>) {
    let mut buffer = vec![0; PIECE];
    loop {
        let said = match std::io::stdin().read(&mut buffer) {
            Ok(0) | Err(_) => Said::InputEnd,
            Ok(read) => Said::Input(buffer[..read].to_vec().into()),
        };
        let last = said == Said::InputEnd;
        if say.blocking_send(said).is_err() || last {
            return;
        }
    }
}

/// Writes what is told and says what is to be said, until the last word.
async fn converse(socket: Socket, mut said: Receiver<Said>) -> Result<End> {
    let (mut sink, mut stream) = socket.split();
    let saying = async {
        while let Some(one) = said.recv().await {
            let Frame::Binary(bytes) = wire::said(one) else { continue };
            if sink.send(Message::Binary(bytes)).await.is_err() {
                break;
            }
        }
        // That nothing can be said any more is heard, too.
        std::future::pending::<()>().await;
    };
    let hearing = async {
        loop {
            let frame = match stream.next().await.context("the agent went away in the middle")?? {
                Message::Binary(bytes) => Frame::Binary(bytes),
                Message::Text(text) => Frame::Text(text.as_str().to_owned()),
                Message::Close(_) => bail!("the agent ended it without a word"),
                _ => continue,
            };
            match wire::read_told(frame) {
                Some(Told::Output(piece)) => match piece.channel {
                    Channel::Stdout => write(&mut std::io::stdout().lock(), &piece.bytes)?,
                    Channel::Stderr => write(&mut std::io::stderr().lock(), &piece.bytes)?,
                },
                Some(Told::End(end)) if end.is_good() => return Ok(end),
                Some(Told::End(end)) => bail!("{}: {}", end.code, end.message),
                Some(Told::Figures(_)) | None => {}
            }
        }
    };
    tokio::select! {
        end = hearing => end,
        () = saying => bail!("nothing can be said to the agent"),
    }
}

fn write(to: &mut impl Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes).and_then(|()| to.flush()).context("the output cannot be written")
}
