//! Exec and attach.
//!
//! A server [`accept`]s a client's request and gets a [`Session`]; [`dial`] makes a [`Remote`] out of a container
//! runtime's streaming URL; [`relay`] joins the two.

mod client;
mod relay;
mod server;

pub use client::{Remote, dial, dial_over};
pub use relay::relay;
pub use server::{Pending, Session, accept};

use crate::Refusal;
use serde_json::{Value, json};

/// Which streams are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// The client sends input.
    pub stdin: bool,
    /// The client wants output.
    pub stdout: bool,
    /// The client wants error output (never with a terminal).
    pub stderr: bool,
    /// A terminal.
    pub tty: bool,
}

impl Options {
    /// From a query string: `stdin`, `stdout`, `stderr`, `tty` as the API server has them, `input`, `output`, `error` as
    /// the kubelet has them.
    pub fn from_query(query: &str) -> Result<Self, Refusal> {
        let mut options = Self::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let value = matches!(value, "1" | "true");
            match name {
                "stdin" | "input" => options.stdin |= value,
                "stdout" | "output" => options.stdout |= value,
                "stderr" | "error" => options.stderr |= value,
                "tty" => options.tty |= value,
                _ => {}
            }
        }
        // With a terminal all output is one stream.
        options.stderr &= !options.tty;
        if options.stdin || options.stdout || options.stderr {
            Ok(options)
        } else {
            Err(Refusal::bad_request("you must specify at least 1 of stdin, stdout, stderr"))
        }
    }
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// How a command ended, as a `Status` document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome(Value);

impl Outcome {
    /// Exit code 0.
    pub fn success() -> Self {
        Self(json!({"metadata": {}, "status": "Success"}))
    }

    /// An exit code.
    pub fn exit(code: i32) -> Self {
        if code == 0 {
            return Self::success();
        }
        let cause = json!({"reason": "ExitCode", "message": code.to_string()});
        Self(json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [cause]},
        }))
    }

    /// The command did not run, or we do not know how it ended.
    pub fn failure(message: &str) -> Self {
        Self(json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: {message}"),
            "reason": "InternalError",
            "details": {"causes": [{"message": message}]},
            "code": 500,
        }))
    }

    /// As another party reported it.
    pub fn from_status(status: Value) -> Self {
        Self(status)
    }

    /// The document.
    pub fn status(&self) -> &Value {
        &self.0
    }

    /// The exit code, if it is known.
    pub fn exit_code(&self) -> Option<i32> {
        if self.0["status"] == "Success" {
            return Some(0);
        }
        let causes = self.0["details"]["causes"].as_array()?;
        let cause = causes.iter().find(|cause| cause["reason"] == "ExitCode")?;
        cause["message"].as_str()?.parse().ok()
    }

    /// The message, empty on success.
    pub fn message(&self) -> &str {
        self.0["message"].as_str().unwrap_or_default()
    }

    /// What protocols before version 4 send: the message alone, nothing on success.
    fn plain(&self) -> Vec<u8> {
        if self.exit_code() == Some(0) { Vec::new() } else { self.message().as_bytes().to_vec() }
    }
}

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The client did not go over to the new protocol.
    #[error("upgrade of the client's connection: {0}")]
    Upgrade(String),
    /// The client did not open the streams it announced.
    #[error("client: {0}")]
    Client(String),
    /// The other side cannot be reached or refuses.
    #[error("streaming server {server}: {detail}")]
    Server {
        /// Address.
        server: String,
        /// What happened.
        detail: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let of = |stdin, stdout, stderr, tty| Ok(Options { stdin, stdout, stderr, tty });
        for (query, want) in [
            ("command=ls&stdout=true&stderr=true", of(false, true, true, false)),
            ("input=1&output=1&error=1&tty=1", of(true, true, false, true)),
            ("stdin=1&stdout=0", of(true, false, false, false)),
        ] {
            assert_eq!(Options::from_query(query), want, "{query}");
        }
        assert!(Options::from_query("tty=1&stderr=1").is_err());
    }

    #[test]
    fn outcomes() {
        let exit = Outcome::exit(3);
        assert_eq!((exit.exit_code(), exit.status()["reason"].as_str()), (Some(3), Some("NonZeroExitCode")));
        assert_eq!(Outcome::exit(0), Outcome::success());
        assert_eq!((Outcome::success().exit_code(), Outcome::success().plain()), (Some(0), vec![]));
        let failure = Outcome::failure("no such container");
        assert_eq!(failure.exit_code(), None);
        assert_eq!(failure.plain(), b"Internal error occurred: no such container");
    }
}
