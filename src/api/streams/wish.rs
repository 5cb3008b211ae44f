//! What is asked for, read from an address: `…/logs?follow=true&tail=10`.

use super::super::error::ApiError;
use crate::compute::streams::{Command, Console, OutputWish, Size};
use crate::resource::date;
use crate::resource::validation::{Invalid, InvalidCode};
use axum::http::StatusCode;

/// As the address names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Logs,
    Exec,
    Stats,
    /// Of virtual machines.
    Vnc,
    Serial,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Exec, Self::Logs, Self::Stats, Self::Vnc, Self::Serial];

    /// Whether it is of virtual machines, and not of containers.
    pub const fn is_console(self) -> bool {
        matches!(self, Self::Vnc | Self::Serial)
    }

    /// Whether more is asked than to look.
    pub const fn acts(self) -> bool {
        matches!(self, Self::Exec | Self::Vnc | Self::Serial)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Exec => "exec",
            Self::Stats => "stats",
            Self::Vnc => "vnc",
            Self::Serial => "serial",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }
}

/// See the module's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Logs(OutputWish),
    Exec(Command),
    Stats,
    Console(Console),
}

impl Wish {
    /// # Errors
    /// 422 where a parameter is none that can be meant.
    pub fn read(kind: Kind, query: &[(String, String)]) -> Result<Self, ApiError> {
        let query = Query(query);
        match kind {
            Kind::Logs => Ok(Self::Logs(OutputWish {
                follow: query.flag("follow", false)?,
                since: query.one("since").map(since).transpose()?,
                tail: query.number("tail")?,
                stdout: query.flag("stdout", true)?,
                stderr: query.flag("stderr", true)?,
                timestamps: query.flag("timestamps", false)?,
            })),
            Kind::Exec => query.command().map(Self::Exec),
            Kind::Stats => Ok(Self::Stats),
            Kind::Vnc => Ok(Self::Console(Console::Screen)),
            Kind::Serial => Ok(Self::Console(Console::Serial)),
        }
    }
}

fn invalid(code: InvalidCode, field: &str, message: &str) -> ApiError {
    Invalid::new(code, field, message).into()
}

/// `1795389845`, `1795389845.5` or `2026-11-22T23:24:05Z`.
fn since(text: &str) -> Result<i64, ApiError> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.0..1e11).contains(seconds));
    let moment = seconds.map(|seconds| (seconds * 1000.0) as i64).or_else(|| date::parse(text).map(|moment| moment.0));
    moment.ok_or_else(|| {
        let message = "seconds since 1970, or a date as RFC 3339 has it: 2026-11-22T23:24:05Z";
        invalid(InvalidCode::InvalidDateFormat, "since", message)
    })
}

struct Query<'a>(&'a [(String, String)]);

impl Query<'_> {
    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(given, _)| given == name).map(|(_, value)| value.as_str())
    }

    /// An empty one is none.
    fn one<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).next().filter(|value| !value.is_empty())
    }

    fn flag(&self, name: &str, default: bool) -> Result<bool, ApiError> {
        match self.all(name).next() {
            None => Ok(default),
            Some("" | "true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(_) => Err(invalid(InvalidCode::InvalidFormat, name, "true or false")),
        }
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let wrong = |_| invalid(InvalidCode::InvalidFormat, name, "a whole number that is not negative");
        self.one(name).map(|value| value.parse().map_err(wrong)).transpose()
    }

    fn command(&self) -> Result<Command, ApiError> {
        let arguments: Vec<String> = self.all("command").map(str::to_owned).collect();
        if arguments.first().is_none_or(String::is_empty) {
            let message = "the program and each of its arguments, in turn: command=ls&command=-l";
            return Err(invalid(InvalidCode::MissingRequired, "command", message));
        }
        let environment: Vec<String> = self.all("environment").map(str::to_owned).collect();
        if environment.iter().any(|one| one.find('=').is_none_or(|at| at == 0)) {
            return Err(invalid(InvalidCode::InvalidFormat, "environment", "each as NAME=value"));
        }
        let text = arguments.iter().chain(&environment).map(String::as_str);
        if text.chain(self.one("directory")).chain(self.one("user")).any(|text| text.contains('\0')) {
            return Err(invalid(
                InvalidCode::InvalidCharacters,
                "command",
                "no text of a command has a zero byte in it",
            ));
        }
        let size = self.number("columns")?.zip(self.number("rows")?);
        Ok(Command {
            arguments,
            tty: self.flag("tty", false)?,
            stdin: self.flag("stdin", false)?,
            environment,
            directory: self.one("directory").map(str::to_owned),
            user: self.one("user").map(str::to_owned),
            size: size.map(|(columns, rows)| Size { columns, rows }),
        })
    }
}

/// How a WebSocket is wanted that is asked for without one.
pub fn upgrade_required(detail: Option<String>) -> ApiError {
    let message = "open this address as a WebSocket (ws:// or wss://); a GET alone can read logs and one row of stats";
    ApiError { detail, ..ApiError::new(StatusCode::UPGRADE_REQUIRED, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: Kind, query: &str) -> Result<Wish, ApiError> {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        Wish::read(kind, &pairs)
    }

    #[test]
    fn logs() {
        let all = OutputWish { follow: false, since: None, tail: None, stdout: true, stderr: true, timestamps: false };
        assert_eq!(read(Kind::Logs, "").unwrap(), Wish::Logs(all.clone()));
        let query = "follow&since=2014-03-04T22:27:42Z&tail=0&stderr=false&timestamps=1";
        let some = OutputWish {
            follow: true,
            since: Some(1_393_972_062_000),
            tail: Some(0),
            stderr: false,
            timestamps: true,
            ..all
        };
        assert_eq!(read(Kind::Logs, query).unwrap(), Wish::Logs(some));
        assert_eq!(since("12.5").unwrap(), 12_500);
        for query in ["since=yesterday", "since=-1", "since=NaN", "tail=-1", "tail=many", "follow=maybe"] {
            read(Kind::Logs, query).unwrap_err();
        }
    }

    #[test]
    fn commands() {
        let query = "command=ls&command=-l&tty=true&stdin=true&environment=A=b%3Dc&directory=/tmp&user=nobody&columns=80&rows=24";
        let Wish::Exec(command) = read(Kind::Exec, query).unwrap() else { panic!() };
        assert_eq!(command.arguments, ["ls", "-l"]);
        assert_eq!(command.environment, ["A=b=c"]);
        assert_eq!(command.size, Some(Size { columns: 80, rows: 24 }));
        assert!(command.tty && command.stdin);
        for query in [
            "",
            "command=",
            "command=ls&environment=A",
            "command=ls&environment==b",
            "command=a%00b",
            "command=a&rows=x&columns=1",
        ] {
            read(Kind::Exec, query).unwrap_err();
        }
    }
}
