//! Where the log goes: to journald with its fields where we run under systemd, else to standard error.

use std::io::IsTerminal;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// What is logged unless `STAMPEDE_LOG` says otherwise (`debug`, `stampede=debug,info`).
const DEFAULT: &str = "info";

/// Begins to log to standard error, one short line each: for a program that is to be small.
pub fn start_plain() {
    let filter = EnvFilter::try_from_env("STAMPEDE_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .with_ansi(false);
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
}

/// Begins to log. Only the first call in a process does something.
pub fn start() {
    let filter = EnvFilter::try_from_env("STAMPEDE_LOG").unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    // systemd sets it where standard error is the journal (systemd.exec(5)).
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    let layer = match journal {
        Some(layer) => layer.with_field_prefix(None).boxed(),
        // Colours are for eyes: not in a file, and not where NO_COLOR is set.
        None => {
            let colours =
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
            let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
            layer.with_target(false).boxed()
        }
    };
    // A second start (in tests) is no fault.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
}
