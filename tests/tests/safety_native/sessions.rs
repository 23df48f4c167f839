//! Clients with connection state: transactions, watched keys, subscriptions.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::reply::Reply;

use crate::history::Operation;
use crate::load::{Dice, Load, PAUSE, SHARED, ended};

/// How long a client waits before it connects anew.
const RECONNECTS_AFTER: Duration = Duration::from_millis(100);

impl Load {
    /// Increments a shared counter in a transaction, half of the time after reading it under
    /// WATCH. Whether that is atomic shows in the counter's history.
    pub fn transact(&self, number: usize) -> Result<()> {
        let mut dice = Dice(1000 + number as u64);
        let mut client = self.connect()?;
        while !self.has_ended() {
            let key = format!("counter:{}", dice.below(SHARED as u64));
            let call = Instant::now();
            let mut watched = || -> Result<Option<i64>> {
                ensure!(client.cmd(&["WATCH", &key])? == Reply::ok(), "WATCH failed");
                let value = client.cmd(&["GET", &key])?;
                ensure!(!value.is_error(), "GET failed");
                Ok(Some(value.text().parse().unwrap_or(0) + 1))
            };
            let sets = if dice.below(2) == 0 {
                match watched() {
                    Ok(sets) => sets,
                    Err(error) => {
                        ended(&error)?;
                        // Whatever it was, it begins anew.
                        std::thread::sleep(RECONNECTS_AFTER);
                        client = self.connect()?;
                        std::thread::sleep(PAUSE);
                        continue;
                    }
                }
            } else {
                None
            };
            let change = match sets {
                Some(value) => vec!["SET".to_owned(), key.clone(), value.to_string()],
                None => Operation::Incr.command(&key),
            };
            let asked = [vec!["MULTI".to_owned()], change, Operation::Get.command(&key), vec!["EXEC".to_owned()]];
            let reply = match client.pipeline(&asked) {
                Ok(mut replies) => replies.pop(),
                Err(error) => {
                    ended(&error)?;
                    // As client libraries do while Redis is away. Each time it is unknown what was done.
                    std::thread::sleep(RECONNECTS_AFTER);
                    client = self.connect()?;
                    None
                }
            };
            match &reply {
                Some(Reply::Array(results)) => {
                    let [done, now] = results.as_slice() else { anyhow::bail!("{key}: {results:?}") };
                    let value = now.text();
                    let is_right = match sets {
                        Some(set) => *done == Reply::ok() && value == set.to_string(),
                        None => done.integer().is_some_and(|done| value == done.to_string()),
                    };
                    ensure!(is_right, "{key}: between two commands of a transaction came another: {results:?}");
                    let result = Reply::Integer(value.parse().context("no number")?);
                    self.history.add(number, &key, &Operation::Incr, call, Some(&result))?;
                }
                // Watched keys have changed, or may have.
                Some(Reply::NullArray) if sets.is_some() => {}
                other => self.history.add(number, &key, &Operation::Incr, call, other.as_ref())?,
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    /// Subscribes to a channel of its own, on which the publisher counts.
    pub fn listen(&self, number: usize) -> Result<()> {
        let channel = format!("channel:{number}");
        let mut client = self.connect()?;
        let (mut told, mut is_subscribed) = (HashSet::new(), false);
        while !self.has_ended() {
            if !is_subscribed {
                client.send(&["SUBSCRIBE", &channel])?;
            }
            match client.read_within(Duration::from_millis(200)) {
                Ok(None) => {}
                Ok(Some(Reply::Error(_))) => std::thread::sleep(PAUSE),
                Ok(Some(pushed)) => {
                    let words: Vec<String> = pushed.items().iter().map(Reply::text).collect();
                    match words.as_slice() {
                        [kind, of, _] if kind == "subscribe" && *of == channel => is_subscribed = true,
                        [kind, of, message] if kind == "message" && *of == channel => {
                            // What a network held back may come after what was said later, but
                            // once.
                            ensure!(told.insert(message.clone()), "{channel}: {message} came twice");
                        }
                        other => anyhow::bail!("{channel}: {other:?}"),
                    }
                }
                Err(error) => {
                    ended(&error)?;
                    (client, is_subscribed) = (self.connect()?, false);
                }
            }
        }
        ensure!(!told.is_empty(), "nothing came over {channel}");
        Ok(())
    }

    /// Publishes increasing numbers on all channels.
    pub fn publish(&self, listeners: usize) -> Result<()> {
        let mut client = self.connect()?;
        for count in 1u64.. {
            if self.has_ended() {
                break;
            }
            for number in 0..listeners {
                let told = client.cmd(&["PUBLISH", &format!("channel:{number}"), &count.to_string()]);
                if let Err(error) = told {
                    ended(&error)?;
                    client = self.connect()?;
                }
            }
            std::thread::sleep(PAUSE * 2);
        }
        Ok(())
    }
}
