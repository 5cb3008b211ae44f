//! A host without Docker, on which one instance runs that says what the tests want.

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use stampede::compute::streams::{
    Channel, Command, Execution, Figures, OutputWish, Piece, Pieces, Running, Size, Streams,
};
use stampede::compute::{Daemon, Error, Observed};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::AsyncReadExt;

pub const UUID: &str = "77adc9a5-27dd-44be-b2b5-a0e1d4c9c5a2";

#[derive(Debug, Default)]
pub struct Machine {
    pub away: AtomicBool,
    pub stopped: AtomicBool,
    /// How often output was taken where there is no end to it.
    pub taken: Arc<AtomicU64>,
    pub command: Mutex<Option<Command>>,
    pub hung_up: Arc<AtomicBool>,
    pub resized: Arc<Mutex<Option<Size>>>,
}

fn piece(channel: Channel, text: &'static str) -> Result<Piece, Error> {
    Ok(Piece { channel, bytes: text.as_bytes().into() })
}

#[derive(Debug)]
struct Ran {
    hung_up: Arc<AtomicBool>,
    resized: Arc<Mutex<Option<Size>>>,
}

#[async_trait::async_trait]
impl Running for Ran {
    async fn resize(&self, size: Size) -> Result<(), Error> {
        *self.resized.lock().unwrap() = Some(size);
        Ok(())
    }
    async fn exit_code(&self) -> Result<Option<i64>, Error> {
        Ok(Some(3))
    }
    async fn hang_up(&self) {
        self.hung_up.store(true, Ordering::Relaxed);
    }
}

#[async_trait::async_trait]
impl Streams for Machine {
    async fn find(&self, id: &str) -> Result<Option<Observed>, Error> {
        if self.away.load(Ordering::Relaxed) {
            return Err(Error::Late {
                daemon: Daemon::Docker,
                action: "list containers",
                limit: Duration::from_secs(30),
            });
        }
        let running = !self.stopped.load(Ordering::Relaxed);
        Ok((id == "1i5").then(|| Observed {
            instance: id.into(),
            uuid: UUID.into(),
            token: None,
            generation: None,
            external_id: "c5".into(),
            running,
            exit_code: None,
            started_at: Some(1),
            message: None,
            oom: false,
        }))
    }

    /// Two lines; followed, thousands of others behind them; since the year 2100, an error.
    async fn output(&self, _: &str, wish: &OutputWish) -> Result<Pieces, Error> {
        if wish.since.is_some_and(|since| since > 4_000_000_000_000) {
            return Ok(stream::iter([
                piece(Channel::Stdout, "begun"),
                Err(Error::Answer { daemon: Daemon::Docker, action: "read", source: "rubbish".into() }),
            ])
            .boxed());
        }
        let told = stream::iter([piece(Channel::Stdout, "to be\n"), piece(Channel::Stderr, "or not\n")]);
        if !wish.follow {
            return Ok(told.boxed());
        }
        let taken = self.taken.clone();
        let endless = stream::repeat_with(move || {
            taken.fetch_add(1, Ordering::Relaxed);
            Ok(Piece { channel: Channel::Stdout, bytes: vec![b'x'; 16 * 1024].into() })
        });
        Ok(told.chain(endless).boxed())
    }

    /// Says again what is said to it, and ends with it.
    async fn execute(&self, _: &str, command: &Command) -> Result<Execution, Error> {
        *self.command.lock().unwrap() = Some(command.clone());
        if command.arguments == ["missing"] {
            return Err(Error::Refused { action: "run", status: Some(400), message: "no such program".into() });
        }
        let (input, mut other) = tokio::io::duplex(1024);
        let output = async_stream(move |say: tokio::sync::mpsc::Sender<Result<Piece, Error>>| async move {
            let mut buffer = vec![0; 1024];
            while let Ok(read @ 1..) = other.read(&mut buffer).await {
                let said = Piece { channel: Channel::Stdout, bytes: buffer[..read].to_vec().into() };
                if say.send(Ok(said)).await.is_err() {
                    return;
                }
            }
        });
        let running = Ran { hung_up: self.hung_up.clone(), resized: self.resized.clone() };
        Ok(Execution { output, input: Box::pin(input), running: Box::new(running) })
    }

    async fn figures(&self, _: &str) -> Result<BoxStream<'static, Result<Figures, Error>>, Error> {
        let two = ["2026-11-26T13:00:01Z", "2026-11-26T13:00:02Z"];
        Ok(stream::iter(two.map(|time| Ok(Figures { time: time.into(), ..Figures::default() }))).boxed())
    }
}

fn async_stream<F: Future<Output = ()> + Send + 'static>(
    work: impl FnOnce(tokio::sync::mpsc::Sender<Result<Piece, Error>>) -> F,
) -> Pieces {
    let (say, said) = tokio::sync::mpsc::channel(1);
    tokio::spawn(work(say));
    tokio_stream::wrappers::ReceiverStream::new(said).boxed()
}
