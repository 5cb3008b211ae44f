//! Feeds an instance's output to the journal, from where the last supervisor left off.
//!
//! How far it is stands in a small file below /run, rewritten with each piece: the start that the output belongs to and
//! the moment of the last piece. Killed at any moment, the next supervisor goes on there, and at most the very last
//! piece comes twice.

use super::Output;
use crate::compute::{Driver, Health, LogLine};
use crate::environment::{Backoff, Environment};
use futures::stream::StreamExt;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(super) struct Follower {
    pub id: String,
    pub driver: Arc<dyn Driver>,
    pub external_id: String,
    /// Which run of it, in Docker's milliseconds.
    pub started_at: i64,
    pub output: Output,
    pub runtime: PathBuf,
    pub environment: Environment,
}

impl Follower {
    /// Follows until the container's output ends. Never fails: an instance without output runs all the same.
    pub async fn follow(self) {
        let cursor = Cursor::open(&self.runtime, &self.id, self.started_at);
        let mut last = cursor.as_ref().and_then(|cursor| cursor.last.clone());
        let begin = begin(self.started_at);
        let mut backoff = Backoff::new(&self.environment, Duration::from_millis(500), Duration::from_secs(30));
        loop {
            let mut pieces = self.driver.logs(&self.external_id, last.as_deref().unwrap_or(&begin));
            // What was written at the very moment of the last piece was that piece.
            let mut again = last.clone();
            let failed = loop {
                match pieces.next().await {
                    None => break None,
                    Some(Err(error)) => break Some(error),
                    Some(Ok(piece)) => {
                        if again.as_ref().is_some_and(|again| piece.at <= *again) {
                            continue;
                        }
                        again = None;
                        self.write(&piece);
                        if let Some(cursor) = &cursor {
                            cursor.put(&piece.at);
                        }
                        last = Some(piece.at);
                    }
                }
            };
            match failed {
                None => return,
                // Docker says it has none to read (the `none` log driver) or the container is gone.
                Some(error @ crate::compute::Error::Refused { .. }) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "its output cannot be followed");
                    return;
                }
                Some(error) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "its output is cut off");
                    backoff.wait().await;
                    // Not to be knocked for: see `compute::docker::daemon`.
                    while self.driver.health().await != Health::Answers {
                        backoff.wait().await;
                    }
                }
            }
        }
    }

    fn write(&self, piece: &LogLine) {
        match self.output {
            // Nothing can be said of an error where nothing can be written.
            Output::Stdout => {
                let mut out = std::io::stdout().lock();
                let _ = out.write_all(&piece.text).and_then(|()| out.flush());
            }
            Output::Trace => {
                let text = String::from_utf8_lossy(&piece.text);
                tracing::info!(target: "instance", instance = self.id, "{}", text.trim_end());
            }
        }
    }
}

/// The run's beginning as Docker writes moments, a little early: Docker sets the start after it.
fn begin(started_at: i64) -> String {
    let moment = crate::environment::Timestamp(started_at - 1000);
    moment_text(moment.0)
}

/// `2026-11-22T23:24:05.123000000Z`
fn moment_text(milliseconds: i64) -> String {
    let (days, rest) = (milliseconds.div_euclid(86_400_000), milliseconds.rem_euclid(86_400_000));
    // Days since 0000-03-01, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, fraction) = (rest / 1000 % 60, rest % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:03}000000Z")
}

fn path(runtime: &Path, id: &str) -> PathBuf {
    runtime.join("output").join(id)
}

pub(super) fn forget(runtime: &Path, id: &str) {
    // Not there is fine, and a stale one does no harm: it names its run.
    let _ = std::fs::remove_file(path(runtime, id));
}

struct Cursor {
    file: std::fs::File,
    run: i64,
    /// Where an earlier supervisor of the same run left off.
    last: Option<String>,
}

impl Cursor {
    /// `None` where it cannot be kept; then output may come twice after a crash.
    fn open(runtime: &Path, id: &str, run: i64) -> Option<Self> {
        let path = path(runtime, id);
        let opened = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::File::options().read(true).write(true).create(true).truncate(false).open(&path));
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "cannot keep how far the output was followed");
                return None;
            }
        };
        let text = std::io::read_to_string(&file).unwrap_or_default();
        let last = text
            .lines()
            .next()
            .and_then(|line| line.split_once(' '))
            .filter(|(of, _)| of.parse() == Ok(run))
            .map(|(_, at)| at.to_owned());
        Some(Self { file, run, last })
    }

    /// One short write in place: all of the same length within a run.
    fn put(&self, at: &str) {
        let _ = self.file.write_all_at(format!("{} {at}\n", self.run).as_bytes(), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_as_docker_writes_them() {
        assert_eq!(moment_text(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(moment_text(951_825_600_000), "2000-02-29T12:00:00.000000000Z");
        assert_eq!(moment_text(1_795_389_845_123), "2026-11-22T23:24:05.123000000Z");
    }

    #[test]
    fn goes_on_within_a_run_and_not_into_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let at = moment_text(1_795_389_845_123);
        let cursor = Cursor::open(directory.path(), "1i1", 5).unwrap();
        assert_eq!(cursor.last, None);
        cursor.put("2026-11-22T23:24:05.000000000Z");
        cursor.put(&at);
        assert_eq!(Cursor::open(directory.path(), "1i1", 5).unwrap().last, Some(at));
        assert_eq!(Cursor::open(directory.path(), "1i1", 6).unwrap().last, None);
        forget(directory.path(), "1i1");
        assert_eq!(Cursor::open(directory.path(), "1i1", 5).unwrap().last, None);
    }
}
