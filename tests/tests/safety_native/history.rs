//! The history of requests and replies, and the check that a single Redis could have produced it.

use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use redis_mesh_tests::client_library::Library;
use redis_mesh_tests::reply::Reply;
use redis_mesh_tests::workspace;

/// An operation on a key.
#[derive(Clone, Debug)]
pub enum Operation {
    Get,
    Set(String),
    Incr,
}

impl Operation {
    /// Returns the operation as a command.
    pub fn command(&self, key: &str) -> Vec<String> {
        let words: &[&str] = match self {
            Operation::Get => &["GET", key],
            Operation::Set(value) => &["SET", key, value],
            Operation::Incr => &["INCR", key],
        };
        words.iter().map(|word| (*word).to_owned()).collect()
    }
}

/// The outcome of an operation.
enum Outcome {
    /// It was executed, with this result.
    Done(String),
    /// It wasn't executed, as the reply says.
    Not,
    /// It is unknown whether it was executed.
    Unknown,
}

/// All operations of all clients.
pub struct History {
    begin: Instant,
    lines: Mutex<(String, Numbers)>,
}

/// The numbers of operations by outcome.
#[derive(Clone, Copy, Debug, Default)]
pub struct Numbers {
    pub done: usize,
    pub refused: usize,
    pub unknown: usize,
}

impl History {
    pub fn new() -> History {
        History { begin: Instant::now(), lines: Mutex::default() }
    }

    /// Records an operation of a client that was sent at `call`, with its reply, or `None` if the
    /// connection ended before.
    pub fn add(
        &self,
        client: usize,
        key: &str,
        operation: &Operation,
        call: Instant,
        reply: Option<&Reply>,
    ) -> Result<()> {
        let end = Instant::now();
        let outcome = match (reply, operation) {
            (None, _) => Outcome::Unknown,
            (Some(reply), _) if reply.is_error() => {
                let text = reply.text();
                // An error that doesn't say this says that nothing was executed.
                if text.contains("may have been executed") { Outcome::Unknown } else { Outcome::Not }
            }
            (Some(Reply::NullBulk), Operation::Get) => Outcome::Done(String::new()),
            (Some(Reply::Integer(number)), Operation::Incr) => Outcome::Done(number.to_string()),
            (Some(reply @ Reply::Bulk(_)), Operation::Get) | (Some(reply @ Reply::Status(_)), Operation::Set(_)) => {
                Outcome::Done(reply.text())
            }
            (Some(reply), _) => bail!("client {client}: {reply:?} to {operation:?} of {key}"),
        };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let (text, numbers) = &mut *lines;
        let (name, argument) = match operation {
            Operation::Get => ("get", ""),
            Operation::Set(value) => ("set", value.as_str()),
            Operation::Incr => ("incr", ""),
        };
        let result = match outcome {
            Outcome::Done(result) => {
                numbers.done += 1;
                result
            }
            Outcome::Not => {
                numbers.refused += 1;
                return Ok(());
            }
            Outcome::Unknown => {
                numbers.unknown += 1;
                // A read that nobody saw changes nothing.
                if name == "get" {
                    return Ok(());
                }
                "?".to_owned()
            }
        };
        let since = |at: Instant| at.duration_since(self.begin).as_nanos();
        writeln!(text, "{key}\t{client}\t{}\t{}\t{name}\t{argument}\t{result}", since(call), since(end))?;
        Ok(())
    }

    /// The number of operations so far.
    pub fn numbers(&self) -> Numbers {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Fails unless the history of each key is linearizable.
    pub fn check(&self) -> Result<()> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let file = workspace::scratch("history")?.join("history");
        std::fs::write(&file, &lines.0)?;
        let porcupine =
            Library::go("porcupine")?.context("a history is checked by a program in Go, and there is none here")?;
        let told = porcupine.run(&[&file])?;
        eprintln!("{:?}; {}", lines.1, told.trim_end());
        Ok(())
    }
}
