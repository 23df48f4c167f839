//! The transaction of a client
//! (<https://redis.io/docs/latest/develop/using-commands/transactions/>).
//!
//! Commands between MULTI and EXEC are buffered and sent in one piece, so that a transaction
//! needs no connection for itself: no command of another client comes between them.

use crate::command::script::ScriptDigest;
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::reply::key_rewrite::KeyRewrite;
use crate::multiplexer::routing::target::RouteTarget;
use crate::resp::encode;

/// The commands of a client since MULTI.
#[derive(Debug, Default)]
pub struct Transaction {
    /// The commands as they will be sent, one after the other.
    commands: Vec<u8>,
    count: usize,
    /// The rewrites of keys in the replies of commands, with the number of each command.
    rewrites: Vec<(usize, KeyRewrite)>,
    /// The scripts that the commands name by their digests.
    pub scripts: Vec<ScriptDigest>,
    /// The target of all commands; absent while no command has a key.
    target: Option<RouteTarget>,
    /// True if a command was refused, so that EXEC is refused, too.
    pub is_doomed: bool,
}

impl Transaction {
    /// Begins a transaction for a target, which is given if keys are watched there.
    pub fn at(target: Option<RouteTarget>) -> Transaction {
        Transaction { target, ..Transaction::default() }
    }

    /// Buffers a command for a target. A command without a target, which has no keys, goes with
    /// the others. `rewrite` applies to the command's reply in the reply to EXEC.
    ///
    /// # Errors
    /// The commands before this one have another target: the error for the client. The transaction is
    /// doomed then.
    pub fn queue(
        &mut self,
        config: &HostConfig,
        target: Option<RouteTarget>,
        command: &[u8],
        rewrite: Option<KeyRewrite>,
    ) -> Result<(), &'static str> {
        if let (Some(known), Some(target)) = (self.target, target)
            && !agree(config, known, target)
        {
            self.is_doomed = true;
            return Err(config.apart(known, target));
        }
        // A script without keys has no slot, and goes with those that have one.
        let has_slot = |of: &Option<RouteTarget>| of.is_some_and(|of| of.slot.is_some());
        self.target = [self.target, target].into_iter().find(has_slot).unwrap_or(self.target.or(target));
        self.commands.extend_from_slice(command);
        self.rewrites.extend(rewrite.map(|rewrite| (self.count, rewrite)));
        self.count += 1;
        Ok(())
    }

    /// Returns the target of the transaction; absent if none of the commands has a key.
    pub fn target(&self) -> Option<RouteTarget> {
        self.target
    }

    /// Returns the number of commands between MULTI and EXEC.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Takes the rewrite of keys in the reply to EXEC; absent if there are no keys to rewrite.
    pub fn key_rewrite(&mut self) -> Option<KeyRewrite> {
        (!self.rewrites.is_empty()).then(|| KeyRewrite::Exec(std::mem::take(&mut self.rewrites)))
    }

    /// Returns the buffered commands, one after the other.
    pub fn commands(&self) -> &[u8] {
        &self.commands
    }

    /// Returns the number of buffered bytes.
    pub fn held(&self) -> usize {
        self.commands.len()
    }

    /// Appends the whole transaction with MULTI and EXEC.
    pub fn write(&self, out: &mut Vec<u8>) {
        encode::command(out, &[b"MULTI"]);
        out.extend_from_slice(&self.commands);
        encode::command(out, &[b"EXEC"]);
    }
}

/// True if commands for both can be executed at one node.
fn agree(config: &HostConfig, a: RouteTarget, b: RouteTarget) -> bool {
    let slot = if a.slot.is_none() || b.slot.is_none() { None } else { a.slot };
    let of = |target: RouteTarget| RouteTarget { slot: slot.and(target.slot), ..target };
    config.is_same(of(a), of(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multiplexer::config::ListenerConfig;
    use crate::multiplexer::reply::key_rewrite::{ClientNames, KeyPositions};
    use crate::request::errors::{CROSS_DESTINATION, CROSSSLOT};
    use std::sync::Arc;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Targets 0 and 1 are reached in the same way, 2 is another server, 3 a Redis Cluster.
    fn config() -> Arc<HostConfig> {
        let upstream = |cluster: &str| serde_json::json!({ "cluster": cluster });
        let document = serde_json::json!({"name": "n", "revision": 1, "hosts": [{
            "host": "h:6379", "path": "native",
            "targets": [
                {"destination": "a:6379", "upstream": upstream("a")},
                {"destination": "a:6379", "upstream": upstream("a")},
                {"destination": "b:6379", "upstream": upstream("b")},
                {"destination": "c:6379", "cluster": true, "upstream": upstream("c")},
            ],
            "routes": [{"match": "any", "target": 0}],
        }]});
        ListenerConfig::from_json(document.to_string().as_bytes()).unwrap().host
    }

    fn at(target: usize, slot: Option<u16>) -> Option<RouteTarget> {
        Some(RouteTarget { target, slot })
    }

    #[test]
    fn commands_are_sent_in_one_piece() {
        let (config, mut transaction) = (config(), Transaction::default());
        assert_eq!(transaction.queue(&config, None, b"*1\r\n$4\r\nTIME\r\n", None), Ok(()));
        assert_eq!(transaction.target(), None);
        assert_eq!(transaction.queue(&config, at(1, None), b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", None), Ok(()));
        assert_eq!(transaction.queue(&config, None, b"*1\r\n$4\r\nTIME\r\n", None), Ok(()));
        assert_eq!((transaction.len(), transaction.held(), transaction.target()), (3, 48, at(1, None)));
        let mut out = Vec::new();
        transaction.write(&mut out);
        let text = String::from_utf8(out).unwrap().replace("\r\n", " ");
        assert_eq!(text, "*1 $5 MULTI *1 $4 TIME *2 $3 GET $1 k *1 $4 TIME *1 $4 EXEC ");
        assert!(!transaction.is_doomed && transaction.key_rewrite().is_none());
    }

    #[test]
    fn an_empty_transaction_is_one_too() {
        let (transaction, mut out) = (Transaction::default(), Vec::new());
        transaction.write(&mut out);
        assert_eq!((transaction.len(), transaction.held()), (0, 0));
        assert_eq!(out, b"*1\r\n$5\r\nMULTI\r\n*1\r\n$4\r\nEXEC\r\n");
    }

    #[test]
    fn all_keys_live_together() {
        let config = config();
        let check = |first, second, expected| {
            let mut transaction = Transaction::at(first);
            assert_eq!(transaction.queue(&config, second, b"x", None), expected);
            assert_eq!(transaction.is_doomed, expected.is_err());
            // A refused command isn't sent.
            assert_eq!((transaction.len(), transaction.held()), if expected.is_ok() { (1, 1) } else { (0, 0) });
            assert_eq!(transaction.target(), first.or(second));
        };
        check(None, at(2, None), Ok(()));
        check(at(2, None), None, Ok(()));
        check(at(0, None), at(0, None), Ok(()));
        check(at(0, None), at(1, None), Ok(()));
        check(at(0, None), at(2, None), Err(CROSS_DESTINATION));
        check(at(3, Some(7)), at(3, Some(7)), Ok(()));
        check(at(3, Some(7)), at(3, Some(8)), Err(CROSSSLOT));
        check(at(3, Some(7)), at(0, None), Err(CROSS_DESTINATION));
        check(at(3, Some(7)), at(3, None), Ok(()));
        // Targets that the configuration doesn't have.
        check(at(8, None), at(8, None), Ok(()));
        check(at(8, None), at(9, None), Err(CROSS_DESTINATION));
    }

    #[test]
    fn a_script_without_keys_goes_with_those_that_have_some() {
        let (config, mut transaction) = (config(), Transaction::default());
        for (target, expected) in
            [(at(3, None), at(3, None)), (at(3, Some(7)), at(3, Some(7))), (at(3, None), at(3, Some(7)))]
        {
            assert_eq!(transaction.queue(&config, target, b"x", None), Ok(()));
            assert_eq!(transaction.target(), expected);
        }
        assert_eq!(transaction.queue(&config, at(3, Some(8)), b"x", None), Err(CROSSSLOT));
    }

    #[test]
    fn rewrites_have_the_numbers_of_their_commands() {
        let (config, mut transaction) = (config(), Transaction::default());
        let names = || ClientNames::new(vec![(b"k".to_vec(), b"r:k".to_vec())]);
        let rewrite = || KeyRewrite::Of(KeyPositions::First, names());
        for rewrite in [None, Some(rewrite()), None, Some(rewrite())] {
            assert_eq!(transaction.queue(&config, at(0, None), b"x", rewrite), Ok(()));
        }
        let renames = transaction.key_rewrite().unwrap();
        let popped = "*2\r\n$1\r\nk\r\n$1\r\nv\r\n";
        let reply = format!("*4\r\n{popped}{popped}+OK\r\n*-1\r\n");
        let expected = format!("*4\r\n{popped}*2\r\n$3\r\nr:k\r\n$1\r\nv\r\n+OK\r\n*-1\r\n");
        assert_eq!(String::from_utf8(renames.apply(reply.as_bytes())).unwrap(), expected);
        assert!(transaction.key_rewrite().is_none());
    }
}
