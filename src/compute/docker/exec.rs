//! Commands in a container.
//!
//! Docker starts them and tells how they ended, and has no way to end them: one whose client went away would run on for
//! ever. So it is hung up on here, as a terminal does: SIGHUP to the process that Docker names, and SIGKILL where that is
//! not heeded.

use super::error::{refused, within};
use super::output::piece;
use super::{Docker, LIMIT};
use crate::compute::Error;
use crate::compute::streams::{Command, Execution, Running, Size};
use bollard::exec::{ResizeExecOptions, StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use futures::StreamExt;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// For a command to end once its input has, and once more after SIGHUP.
const GRACE: Duration = Duration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);

pub(super) async fn begin(docker: &Docker, external_id: &str, command: &Command) -> Result<Execution, Error> {
    let action = "run the command";
    let client = docker.client(action)?;
    let config = ExecConfig {
        attach_stdin: Some(command.stdin),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        console_size: command.size.map(|size| vec![size.rows.into(), size.columns.into()]),
        tty: Some(command.tty),
        env: Some(command.environment.clone()),
        cmd: Some(command.arguments.clone()),
        user: command.user.clone(),
        working_dir: command.directory.clone(),
        ..ExecConfig::default()
    };
    let id = within(action, LIMIT, client.create_exec(external_id, config)).await?.id;
    let options = StartExecOptions { detach: false, tty: command.tty, output_capacity: None };
    let StartExecResults::Attached { output, input } =
        within(action, LIMIT, client.start_exec(&id, Some(options))).await?
    else {
        return Err(Error::Refused { action, status: None, message: "Docker let go of the command".into() });
    };
    let running = Exec { docker: docker.clone(), id };
    if let Some(size) = command.size.filter(|_| command.tty) {
        // Older daemons do not heed the size in the question.
        let _ = running.resize(size).await;
    }
    let output = output.map(move |output| output.map(piece).map_err(|source| refused(action, source))).boxed();
    Ok(Execution { output, input, running: Box::new(running) })
}

#[derive(Debug)]
struct Exec {
    docker: Docker,
    id: String,
}

impl Exec {
    /// Holds the process that runs; `None` where none does. It is asked for again once it is held: until then its number
    /// may have come to another.
    async fn process(&self) -> Result<Option<OwnedFd>, Error> {
        let Some(held) = self.pid().await?.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
            return Ok(None);
        };
        Ok(self.pid().await?.map(|_| held))
    }

    async fn pid(&self) -> Result<Option<Pid>, Error> {
        let action = "look at the command";
        let found = within(action, LIMIT, self.docker.client(action)?.inspect_exec(&self.id)).await?;
        let pid = found.pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        Ok(pid.filter(|_| found.running.unwrap_or(false)))
    }

    /// Whether it has ended within the grace.
    async fn ends(&self) -> Result<bool, Error> {
        let look = async {
            while self.exit_code().await?.is_none() {
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        tokio::time::timeout(GRACE, look).await.map_or(Ok(false), |ended: Result<(), Error>| ended.map(|()| true))
    }

    async fn end(&self) -> Result<(), Error> {
        for signal in [Signal::HUP, Signal::KILL] {
            if self.ends().await? {
                return Ok(());
            }
            if let Some(process) = self.process().await?
                && let Err(error) = pidfd_send_signal(process, signal)
            {
                tracing::debug!(exec = self.id, %error, "a command that was left could not be told to end");
            }
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl Running for Exec {
    async fn resize(&self, size: Size) -> Result<(), Error> {
        let action = "resize the terminal";
        let options = ResizeExecOptions { height: size.rows, width: size.columns };
        within(action, LIMIT, self.docker.client(action)?.resize_exec(&self.id, options)).await
    }

    async fn exit_code(&self) -> Result<Option<i64>, Error> {
        let action = "see how the command ended";
        let found = within(action, LIMIT, self.docker.client(action)?.inspect_exec(&self.id)).await?;
        Ok(found.exit_code.filter(|_| !found.running.unwrap_or(true)))
    }

    async fn hang_up(&self) {
        if let Err(error) = self.end().await {
            tracing::info!(exec = self.id, %error, "a command that was left may run on");
        }
    }
}
