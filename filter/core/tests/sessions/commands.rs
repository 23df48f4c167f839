//! The check of each command of a client: the state that follows, and the reply.

use super::caller::Sent;
use super::check::{Checker, Multi, Stop, Watched, elements};
use super::journal::Execution;
use super::setup::KeyTarget;
use super::store::{self, null, null_array};
use std::collections::BTreeSet;
use std::time::Duration;

/// The outcome of the check of a command; the error says why there is no more to check.
type Done = Result<(), Stop>;

impl<'a> Checker<'a> {
    /// Checks a command, and follows the state of the client.
    pub fn command(&mut self, sent: &'a Sent) -> Done {
        let is_skipped = std::mem::take(&mut self.skips);
        if self.is_off || is_skipped {
            return self.muted(sent);
        }
        let args = &sent.args;
        let name = args[0].as_slice();
        self.is_meant = self.takes_caching(name);
        if !self.is_authenticated && !matches!(name, b"AUTH" | b"HELLO" | b"RESET" | b"QUIT") {
            return self.refused(sent, "-NOAUTH ");
        }
        if name == b"NOSUCH" || name == b"GETRANGE" && args.len() == 1 {
            self.doom();
            return self.refused(sent, "-ERR ");
        }
        if !self.resp3 && !self.channels.is_empty() {
            match name {
                b"PING" => {
                    let text = args.get(1).cloned().unwrap_or_default();
                    let text = String::from_utf8(text).unwrap();
                    return self.exactly(sent, format!("*2\r\n$4\r\npong\r\n${}\r\n{text}\r\n", text.len()).as_bytes());
                }
                b"SUBSCRIBE" | b"UNSUBSCRIBE" | b"RESET" | b"QUIT" => {}
                _ => return self.refused(sent, "-ERR Can't execute"),
            }
        }
        if self.multi.is_some() {
            return self.in_transaction(sent);
        }
        self.outside_transaction(sent)
    }

    fn outside_transaction(&mut self, sent: &'a Sent) -> Done {
        let args = &sent.args;
        let name = args[0].as_slice();
        match name {
            b"PING" => {
                let frame = self.reply(sent)?;
                match frame.bytes == b"+PONG\r\n" || frame.bytes.starts_with(b"-ERR redis-mesh: ") {
                    true => Ok(()),
                    false => Err(format!("{} instead of PONG", frame.bytes.escape_ascii()).into()),
                }
            }
            b"ECHO" => {
                let text = format!("${}\r\n{}\r\n", args[1].len(), args[1].escape_ascii());
                self.exactly(sent, text.as_bytes())
            }
            b"AUTH" => self.auth(sent),
            b"HELLO" => self.hello(sent),
            b"SELECT" => self.select(sent),
            b"CLIENT" => self.client(sent),
            b"RESET" => self.reset(sent),
            b"QUIT" => {
                self.exactly(sent, b"+OK\r\n")?;
                if self.caller.closed.is_none() && self.caller.left.is_none() {
                    return Err("the client wasn't closed".to_owned().into());
                }
                Err(Stop::Closed)
            }
            b"MULTI" => {
                self.exactly(sent, b"+OK\r\n")?;
                let known = self.watched.iter().find(|watched| !watched.keys.is_empty());
                let target = known.map(|watched| watched.target.clone());
                self.multi = Some(Multi { queued: Vec::new(), is_doomed: false, target, at: sent.at });
                Ok(())
            }
            b"EXEC" | b"DISCARD" => self.refused(sent, "-ERR "),
            b"UNWATCH" => {
                self.watched.clear();
                self.exactly(sent, b"+OK\r\n")
            }
            b"WATCH" => self.watch(sent),
            b"SUBSCRIBE" | b"UNSUBSCRIBE" => self.subscription(sent),
            b"PUBLISH" => self.publish(sent),
            b"SCAN" => self.scan(sent),
            b"BLPOP" | b"RENAME" => {
                let targets = self.targets(sent);
                if targets.len() > 1 {
                    return self.refused(sent, "-CROSSSLOT ");
                }
                if name == b"BLPOP" && self.watched.iter().any(|watched| !targets.contains(&watched.target)) {
                    let frame = self.reply(sent)?;
                    if frame.bytes.starts_with(b"-ERR redis-mesh: a client that watches") {
                        return Ok(self.nothing_executed(sent)?);
                    }
                    return Ok(self.executed(sent, Some(frame))?);
                }
                let frame = self.reply(sent)?;
                Ok(self.executed(sent, Some(frame))?)
            }
            _ => {
                let frame = self.reply(sent)?;
                Ok(self.executed(sent, Some(frame))?)
            }
        }
    }

    /// Notes that EXEC will be refused.
    fn doom(&mut self) {
        if let Some(multi) = &mut self.multi {
            multi.is_doomed = true;
        }
    }

    /// Checks RESET.
    fn reset(&mut self, sent: &Sent) -> Done {
        let frame = self.reply(sent)?;
        if frame.bytes != b"+RESET\r\n" {
            return Err(format!("{} instead of RESET", frame.bytes.escape_ascii()).into());
        }
        self.end_tracking(sent, frame);
        self.end_subscriptions(None, sent.at);
        self.is_authenticated = self.world.setup.host.client_auth.is_none();
        (self.resp3, self.db, self.multi) = (false, 0, None);
        (self.is_off, self.skips) = (false, false);
        self.name.clear();
        self.channels.clear();
        self.watched.clear();
        Ok(())
    }

    /// Checks a command whose reply is turned off.
    fn muted(&mut self, sent: &'a Sent) -> Done {
        let name = sent.args[0].as_slice();
        match name {
            // A client that hasn't logged in can't use CLIENT.
            b"CLIENT"
                if self.is_authenticated
                    && sent.args[1] == b"REPLY"
                    && sent.args.get(2).is_some_and(|mode| mode == b"ON") =>
            {
                self.is_off = false;
                // The command that turns replies on has a reply.
                self.exactly(sent, b"+OK\r\n")
            }
            b"MULTI" => {
                self.is_silent = self.is_authenticated;
                Ok(())
            }
            b"EXEC" | b"DISCARD" => {
                if std::mem::take(&mut self.is_silent) {
                    self.watched.clear();
                }
                Ok(())
            }
            _ if self.is_silent || !self.is_authenticated || store::keys(&sent.args).is_empty() || sent.token == 0 => {
                Ok(())
            }
            // It may have waited when the client left, and others behind it.
            _ if self.left_before(sent) => Err(Stop::Closed),
            // Some of its parts may have been executed for nobody.
            _ if self.caller.left.is_some() && store::is_read(&sent.args) => Ok(()),
            _ => Ok(self.executed(sent, None)?),
        }
    }

    /// Checks AUTH.
    fn auth(&mut self, sent: &Sent) -> Done {
        if self.world.setup.host.client_auth.is_none() {
            let frame = self.reply(sent)?;
            let begins = |text: &str| frame.bytes.starts_with(text.as_bytes());
            // A login is passed to the servers if the configuration has none. They have no
            // passwords.
            let is_asked = !self.world.setup.sites().contains(&super::setup::ONE);
            let may = begins("-ERR AUTH <password> called without any password")
                || is_asked
                    && begins("-ERR redis-mesh: a client that watches keys, tracks or has subscribed can't log in")
                || is_asked
                    && begins("-ERR redis-mesh: ")
                    && self.was_trouble(&self.world.setup.sites(), sent.at, frame.at);
            return if may { Ok(()) } else { Err(frame.bytes.escape_ascii().to_string().into()) };
        }
        if !Checker::is_password(sent.args.get(1)) {
            return self.refused(sent, "-ERR invalid password");
        }
        self.is_authenticated = true;
        self.exactly(sent, b"+OK\r\n")
    }

    fn hello(&mut self, sent: &Sent) -> Done {
        let args = &sent.args;
        if args[1] == b"4" {
            return self.refused(sent, "-NOPROTO ");
        }
        let logs_in = args.get(2).is_some_and(|word| word == b"AUTH");
        if logs_in && self.world.setup.host.client_auth.is_none() {
            return self.refused(sent, "-WRONGPASS ");
        }
        if !self.is_authenticated && !logs_in {
            return self.refused(sent, "-NOAUTH ");
        }
        let resp3 = args[1] == b"3";
        if resp3 != self.resp3 && (!self.channels.is_empty() || self.tracks()) {
            return self.refused(sent, "-ERR redis-mesh: HELLO can't change");
        }
        self.is_authenticated = true;
        let before = std::mem::replace(&mut self.resp3, resp3);
        let frame = self.reply(sent)?;
        if frame.bytes.starts_with(b"-ERR redis-mesh: ")
            && self.was_trouble(&self.world.setup.sites(), sent.at, frame.at)
        {
            self.resp3 = before;
            self.errors += 1;
            return Ok(());
        }
        if args.get(2).is_some_and(|word| word == b"SETNAME") {
            self.name = String::from_utf8(args[3].clone()).unwrap();
        }
        let proto = if resp3 { &b"proto\r\n:3\r\n"[..] } else { b"proto\r\n:2\r\n" };
        let kind = if resp3 { b'%' } else { b'*' };
        if frame.bytes[0] != kind || memchr::memmem::find(&frame.bytes, proto).is_none() {
            return Err(format!("{}", frame.bytes.escape_ascii()).into());
        }
        Ok(())
    }

    fn select(&mut self, sent: &Sent) -> Done {
        let index: u32 = std::str::from_utf8(&sent.args[1]).unwrap().parse().unwrap();
        let sites = self.world.setup.sites();
        if index == self.db {
            return self.exactly(sent, b"+OK\r\n");
        }
        let is_cluster = sites.contains(&super::setup::CLUSTER);
        if is_cluster && index != 0 {
            return self.refused(sent, "-ERR SELECT is not allowed in cluster mode");
        }
        if index != 0 && self.tracks() {
            return self.refused(sent, "-ERR redis-mesh: SELECT isn't served");
        }
        let frame = self.reply(sent)?;
        if frame.bytes == b"+OK\r\n" && index < 4 {
            self.db = index;
            return Ok(());
        }
        if frame.bytes.starts_with(b"-ERR DB index is out of range") && index >= 4 {
            return Ok(());
        }
        if frame.bytes.starts_with(b"-ERR redis-mesh: ") && self.was_trouble(&sites, sent.at, frame.at) {
            self.errors += 1;
            return Ok(());
        }
        Err(format!("{}", frame.bytes.escape_ascii()).into())
    }

    fn client(&mut self, sent: &Sent) -> Done {
        match (sent.args[1].as_slice(), sent.args.get(2).map(Vec::as_slice)) {
            (b"TRACKING" | b"CACHING", _) => return self.tracking(sent),
            (b"REPLY", Some(b"OFF")) => self.is_off = true,
            (b"REPLY", Some(b"SKIP")) => self.skips = true,
            (b"GETNAME", _) => {
                let name = self.name.clone();
                let expected = if name.is_empty() {
                    null(self.resp3).to_vec()
                } else {
                    format!("${}\r\n{name}\r\n", name.len()).into()
                };
                return self.exactly(sent, &expected);
            }
            (b"SETNAME", Some(name)) => {
                self.name = String::from_utf8(name.to_vec()).unwrap();
                return self.exactly(sent, b"+OK\r\n");
            }
            _ => return self.exactly(sent, b"+OK\r\n"),
        }
        Ok(())
    }

    fn watch(&mut self, sent: &Sent) -> Done {
        let target = self.world.setup.target(&sent.args[1]).0;
        let frame = self.reply(sent)?;
        if self.watched.iter().any(|watched| watched.target != target) && frame.bytes.starts_with(b"-CROSSSLOT ") {
            return Ok(self.nothing_executed(sent)?);
        }
        self.executed(sent, Some(frame))?;
        if let (b"+OK\r\n", Some(execution)) = (frame.bytes.as_slice(), self.executions(sent).last()) {
            let keys = execution.args[1..].iter().map(|key| (execution.db, key.clone())).collect();
            self.watched.push(Watched { target, keys, number: execution.number, at: sent.at });
        } else if frame.bytes.starts_with(b"-") {
            // The keys may be watched or not, and the next transaction may be discarded.
            self.watched.push(Watched { target, keys: Vec::new(), number: 0, at: sent.at });
        }
        Ok(())
    }

    fn in_transaction(&mut self, sent: &'a Sent) -> Done {
        let name = sent.args[0].as_slice();
        match name {
            b"MULTI" => return self.refused(sent, "-ERR MULTI calls can not be nested"),
            b"WATCH" => return self.refused(sent, "-ERR WATCH inside MULTI is not allowed"),
            b"EXEC" => return self.exec(sent),
            b"DISCARD" => {
                self.multi = None;
                self.watched.clear();
                return self.exactly(sent, b"+OK\r\n");
            }
            b"RESET" => return self.reset(sent),
            b"QUIT" => {
                self.exactly(sent, b"+OK\r\n")?;
                return Err(Stop::Closed);
            }
            b"SELECT" | b"HELLO" | b"AUTH" | b"CLIENT" | b"SUBSCRIBE" | b"UNSUBSCRIBE" => {
                self.doom();
                return self.refused(sent, "-ERR ");
            }
            _ => {}
        }
        let mut targets = self.targets(sent);
        let known = self.multi.as_ref().and_then(|multi| multi.target.clone());
        targets.extend(known);
        let frame = self.reply(sent)?;
        // The client may count as watching after a WATCH that has failed.
        let is_elsewhere = self.watched.iter().any(|watched| !targets.contains(&watched.target));
        if (targets.len() > 1 || is_elsewhere) && frame.bytes.starts_with(b"-CROSSSLOT ") {
            self.doom();
            return Ok(());
        }
        if frame.bytes.starts_with(b"-Fault Injected") && !self.world.setup.host.faults.is_empty() {
            self.doom();
            return Ok(());
        }
        if name == b"PING" && self.world.setup.keyless_site.is_none() && frame.bytes.starts_with(b"-ERR redis-mesh: ") {
            self.doom();
            return Ok(());
        }
        if targets.len() > 1 && self.may_have_lost_watch(frame.at) {
            // If the watched keys were lost, they don't decide the target any more.
            targets = self.targets(sent);
        }
        if frame.bytes != b"+QUEUED\r\n" || targets.len() > 1 {
            return Err(format!("{} instead of QUEUED", frame.bytes.escape_ascii()).into());
        }
        if let Some(multi) = &mut self.multi {
            multi.target = targets.pop_first();
            multi.queued.push(sent);
        }
        Ok(())
    }

    /// Returns true if the connection on which the client watched keys may have been lost.
    fn may_have_lost_watch(&self, until: Duration) -> bool {
        let is_empty = self.multi.as_ref().is_some_and(|multi| multi.queued.is_empty());
        is_empty
            && self.watched.iter().any(|watched| {
                self.was_trouble(&[watched.target.site].into(), watched.at, until)
                    || self.has_moved(&Some(watched.target.clone()), watched.at, until)
            })
    }

    fn exec(&mut self, sent: &Sent) -> Done {
        let Some(multi) = self.multi.take() else { return Ok(()) };
        let watched = std::mem::take(&mut self.watched);
        let frame = self.reply(sent)?;
        let executions: Vec<Vec<&Execution>> = multi.queued.iter().map(|queued| self.executions(queued)).collect();
        let begun = watched.iter().map(|watched| watched.at).min().unwrap_or(multi.at).min(multi.at);
        let mut sites: BTreeSet<usize> =
            multi.target.iter().map(|target| target.site).chain(self.world.setup.keyless_site).collect();
        sites.extend(watched.iter().map(|watched| watched.target.site));
        let had_trouble = self.was_trouble(&sites, begun, frame.at);
        let targets = watched.iter().map(|watched| Some(watched.target.clone())).chain([multi.target.clone()]);
        let had_moved = targets.into_iter().any(|target| self.has_moved(&target, begun, frame.at));
        let nothing = || match executions.iter().flatten().next() {
            Some(_) => Err(format!("{}, but it was executed", frame.bytes.escape_ascii())),
            None => Ok(()),
        };
        let was_updated = self.world.updates.iter().any(|at| (multi.at..=frame.at).contains(at));
        if frame.bytes.starts_with(b"-EXECABORT ") && (multi.is_doomed || was_updated) {
            return Ok(nothing()?);
        }
        if frame.bytes.starts_with(b"-Fault Injected") && !self.world.setup.host.faults.is_empty() {
            return Ok(nothing()?);
        }
        if multi.is_doomed {
            return Err(format!("{} instead of EXECABORT", frame.bytes.escape_ascii()).into());
        }
        if frame.bytes.starts_with(b"-") {
            self.errors += 1;
            let is_ours = frame.bytes.starts_with(b"-ERR redis-mesh: ") || frame.bytes.starts_with(b"-CLUSTERDOWN ");
            // The keys of a slot that is moving can be on two nodes.
            let is_torn = frame.bytes.starts_with(b"-TRYAGAIN ") || frame.bytes.starts_with(b"-EXECABORT ");
            let is_right = is_ours && had_trouble || is_torn && (had_moved || had_trouble);
            return if is_right { Ok(()) } else { Err(format!("{}", frame.bytes.escape_ascii()).into()) };
        }
        if frame.bytes == null_array(self.resp3) {
            nothing()?;
            let has_changed = watched.iter().any(|watched| {
                let journal = &self.world.servers.journal;
                watched.keys.iter().any(|key| journal.has_changed(watched.target.site, key, watched.number, u64::MAX))
            });
            let may = !watched.is_empty() && (has_changed || had_trouble || had_moved);
            return if may { Ok(()) } else { Err("nothing had changed".to_owned().into()) };
        }
        let received = elements(&frame.bytes);
        if received.len() != multi.queued.len() {
            return Err(format!("{} for {} commands", frame.bytes.escape_ascii(), multi.queued.len()).into());
        }
        self.executed_as_one(&multi, &watched, &executions, &received)?;
        for (queued, executions) in multi.queued.iter().zip(&executions) {
            self.note_read(queued, executions, frame);
        }
        Ok(())
    }

    /// Checks that the commands of a transaction were executed in one piece, and that no watched
    /// key had changed before.
    fn executed_as_one(
        &mut self,
        multi: &Multi<'_>,
        watched: &[Watched],
        executions: &[Vec<&Execution>],
        received: &[&[u8]],
    ) -> Done {
        let mut transaction = None;
        for (index, executions) in executions.iter().enumerate() {
            if multi.queued[index].args[0] == b"PING" {
                continue;
            }
            let [execution] = executions.as_slice() else {
                return Err(format!("{} executions of command {index}", executions.len()).into());
            };
            if execution.transaction.is_none() || transaction.is_some_and(|other| Some(other) != execution.transaction)
            {
                return Err("it wasn't executed as one transaction".to_owned().into());
            }
            transaction = execution.transaction;
            if received[index] != execution.reply {
                return Err(format!(
                    "{} instead of {}",
                    received[index].escape_ascii(),
                    execution.reply.escape_ascii()
                )
                .into());
            }
            let target = self.world.setup.target(&multi.queued[index].args[1]).0;
            self.is_as_the_client(execution, &target)?;
            self.in_order(target, execution)?;
        }
        let Some(transaction) = transaction else { return Ok(()) };
        for watched in watched {
            let journal = &self.world.servers.journal;
            let changed = watched
                .keys
                .iter()
                .find(|key| journal.has_changed(watched.target.site, key, watched.number, transaction));
            if let Some((_, key)) = changed {
                return Err(format!("{} had changed since it was watched", key.escape_ascii()).into());
            }
        }
        Ok(())
    }

    /// Returns true if the slot of a target was moving in this time, or had moved just before.
    pub fn has_moved(&self, target: &Option<KeyTarget>, from: Duration, until: Duration) -> bool {
        let slot = target.as_ref().and_then(|target| target.slot);
        self.world
            .moves
            .iter()
            .any(|(moved, begin, end)| Some(*moved) == slot && *begin <= until && *end + Duration::from_secs(1) >= from)
    }
}
