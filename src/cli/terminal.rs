//! The terminal that a command is run from.

use crate::api::streams::conversation::Said;
use crate::compute::streams::Size;
use anyhow::{Context, Result};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::Sender;

/// A terminal that passes all on as it is typed; as it was once this is dropped.
#[derive(Debug)]
pub struct Terminal(Termios);

impl Terminal {
    /// `None` where standard input is none.
    pub fn raw() -> Result<Option<Self>> {
        let input = std::io::stdin();
        if !isatty(&input) {
            return Ok(None);
        }
        let before = tcgetattr(&input).context("the terminal's settings cannot be read")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&input, OptionalActions::Now, &raw).context("the terminal cannot be made raw")?;
        Ok(Some(Self(before)))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // There is nobody to tell.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

pub fn size() -> Option<Size> {
    let found = tcgetwinsize(std::io::stdout()).ok()?;
    Some(Size { columns: found.ws_col, rows: found.ws_row })
}

/// Tells each size that the terminal comes to have.
pub async fn follow_size(say: Sender<Said>) {
    let Ok(mut changes) = signal(SignalKind::window_change()) else { return };
    while changes.recv().await.is_some() {
        let Some(size) = size() else { continue };
        if say.send(Said::Resize(size)).await.is_err() {
            return;
        }
    }
}
