//! The script of a client: the commands that it will send.

use super::setup::{PASSWORD, Setup};
use super::store::Args;
use super::world::World;
use redis_mesh_core::random::Random;
use std::collections::VecDeque;

/// A step of a client.
pub enum Step {
    /// Sends commands as one pipeline.
    Send(Vec<Args>),
    /// Sends ECHO with a token, and waits for the reply.
    Sync(u64),
    /// Goes through all keys with SCAN.
    Scan(u64),
    /// Waits for a while.
    Pause,
    /// Closes the connection, whatever is in flight.
    Leave,
}

/// A writer of random scripts.
struct Writer<'a> {
    setup: &'a Setup,
    random: &'a mut Random,
    /// The prefixes of the routes.
    prefixes: Vec<&'static str>,
    /// The last token.
    token: &'a mut u64,
}

/// Returns a command whose arguments are separated by spaces.
fn words(text: &str) -> Args {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

/// Returns the script of a new client.
pub fn script(world: &mut World) -> VecDeque<Step> {
    let prefixes = world.setup.routes.iter().map(|(prefix, ..)| *prefix).collect();
    let has_auth = world.setup.host.client_auth.is_some();
    let mut writer = Writer { setup: &world.setup, random: &mut world.random, prefixes, token: &mut world.token };
    let mut steps = VecDeque::new();
    if has_auth && !writer.one_in(10) {
        let login =
            if writer.one_in(2) { format!("AUTH {PASSWORD}") } else { format!("HELLO 3 AUTH default {PASSWORD}") };
        steps.push_back(Step::Send(vec![words(&login)]));
    }
    for _ in 0..4 + writer.below(12) {
        writer.block(has_auth, &mut steps);
    }
    steps.push_back(match writer.below(6) {
        0 => Step::Leave,
        1 => Step::Send(vec![writer.data(), words("QUIT"), writer.data()]),
        _ => Step::Sync(writer.token()),
    });
    steps
}

impl Writer<'_> {
    fn below(&mut self, n: u32) -> u32 {
        self.random.below(n)
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    fn token(&mut self) -> u64 {
        *self.token += 1;
        *self.token
    }

    /// Returns a random beginning of keys: the prefix of a route and a hash tag. Keys with the
    /// same beginning have the same target.
    fn base(&mut self) -> String {
        let prefix = self.prefixes[self.random.below(self.prefixes.len() as u32) as usize];
        format!("{prefix}{{{}}}", self.below(5))
    }

    /// Returns the rest of a key, for values of a kind: `i` for integers, `s` for strings, `l`
    /// for lists.
    fn name(&mut self, kind: char) -> String {
        // A key of another kind, now and then.
        let kind = if self.one_in(20) { ['i', 's', 'l'][self.below(3) as usize] } else { kind };
        format!("{kind}{}", self.below(2))
    }

    /// Returns a random command with keys.
    fn data(&mut self) -> Args {
        let base = self.base();
        if !self.one_in(4) {
            return self.data_at(&base);
        }
        // A command whose keys may have several targets.
        let token = self.token();
        let name = ["MGET", "MSET", "DEL", "EXISTS"][self.below(4) as usize];
        let mut bases = vec![base];
        for _ in 0..1 + self.below(3) {
            bases.push(self.base());
        }
        let mut text = name.to_owned();
        let mut tokens = Vec::new();
        for base in &bases {
            let kind = if name == "DEL" { ['i', 's', 'l'][self.below(3) as usize] } else { 's' };
            text += &format!(" {base}{}", self.name(kind));
            if name == "MSET" {
                text += &format!(" v#{token}");
            } else if !tokens.contains(base) {
                tokens.push(base.clone());
            }
        }
        for base in tokens {
            text += &format!(" {base}#{token}");
        }
        words(&text)
    }

    /// Returns a random command whose keys begin like this.
    fn data_at(&mut self, base: &str) -> Args {
        let token = self.token();
        let (int, text, list) = (self.name('i'), self.name('s'), self.name('l'));
        let other = self.name('s');
        words(&match self.below(11) {
            0 => format!("SET {base}{text} v#{token}"),
            1 | 2 => format!("APPEND {base}{text} v#{token}"),
            3 | 4 => format!("INCRBY {base}{int} {token}"),
            5 | 6 => format!("GETRANGE {base}{text} 0 {token}"),
            7 => format!("RPUSH {base}{list} v#{token}"),
            8 => format!("LRANGE {base}{list} 0 {token}"),
            9 => format!("MGET {base}{text} {base}{other} {base}#{token}"),
            _ => format!("DEL {base}{text} {base}{list} {base}#{token}"),
        })
    }

    /// Returns at most `most` random commands.
    fn pipeline(&mut self, most: u32) -> Vec<Args> {
        (0..1 + self.below(most)).map(|_| self.data()).collect()
    }

    /// Appends a transaction whose keys begin like this, most of them.
    fn transaction(&mut self, base: &str, commands: &mut Vec<Args>) {
        commands.push(words("MULTI"));
        for _ in 0..self.below(5) {
            let elsewhere = self.base();
            let command = match self.below(20) {
                0 => self.data_at(&elsewhere),
                1 => words(
                    ["MULTI", "WATCH a:{1}x", "SELECT 1", "HELLO 3", "CLIENT ID", "NOSUCH", "GETRANGE", "PING"]
                        [self.below(8) as usize],
                ),
                _ => self.data_at(base),
            };
            commands.push(command);
        }
        commands.push(words(if self.one_in(6) { "DISCARD" } else { "EXEC" }));
    }

    /// Appends one or more random steps: a pipeline around commands of one kind.
    fn block(&mut self, has_auth: bool, steps: &mut VecDeque<Step>) {
        let mut commands = Vec::new();
        let base = self.base();
        match self.below(22) {
            20 | 21 => commands = self.tracking(steps),
            0..=5 => commands = self.pipeline(10),
            6 | 7 => {
                commands = self.pipeline(3);
                self.transaction(&base, &mut commands);
                commands.extend(self.pipeline(3));
            }
            8 | 9 => commands = self.watch(&base, steps),
            10 | 11 => {
                commands = self.pipeline(2);
                let (token, list) = (self.token(), self.name('l'));
                let elsewhere = if self.one_in(8) { self.base() } else { base.clone() };
                let tenths = self.below(6);
                commands.push(words(&format!("BLPOP {base}{list} {elsewhere}l1 {base}#{token} 0.{tenths}5")));
                commands.extend(self.pipeline(2));
            }
            12 | 13 => commands = self.subscription(steps),
            14 => commands.push(words(&format!("PUBLISH ch{} v#{}", self.below(3), self.token()))),
            15 => {
                let chosen = self.below(2) * self.below(6);
                commands = self.pipeline(2);
                commands.push(words(&format!("SELECT {chosen}")));
                commands.extend(self.pipeline(3));
            }
            16 => {
                commands = self.pipeline(3);
                commands.push(words(
                    ["HELLO 2", "HELLO 3", "HELLO 3", "HELLO 4", "HELLO 3 SETNAME me"][self.below(5) as usize],
                ));
                commands.extend(self.pipeline(3));
            }
            17 => {
                let modes = if self.one_in(2) { ["OFF", "ON"] } else { ["SKIP", "ON"] };
                commands.push(words(&format!("CLIENT REPLY {}", modes[0])));
                commands.extend(self.pipeline(3));
                if self.one_in(3) {
                    self.transaction(&base, &mut commands);
                }
                commands.push(words(&format!("CLIENT REPLY {}", modes[1])));
                commands.extend(self.pipeline(2));
            }
            18 => {
                steps.push_back(Step::Sync(self.token()));
                steps.push_back(Step::Scan(self.token()));
            }
            _ => commands = self.session_commands(&base, has_auth),
        }
        steps.push_back(Step::Send(commands));
        if self.one_in(3) {
            steps.push_back(Step::Sync(self.token()));
        }
        if self.one_in(8) {
            steps.push_back(Step::Pause);
        }
    }

    /// Returns commands with WATCH and what may follow it; a part of them may be a step before.
    fn watch(&mut self, base: &str, steps: &mut VecDeque<Step>) -> Vec<Args> {
        let token = self.token();
        let (first, second) = (self.name('s'), self.name('i'));
        let mut commands = self.pipeline(2);
        commands.push(words(&format!("WATCH {base}{first} {base}{second} {base}#{token}")));
        for _ in 0..self.below(3) {
            commands.push(if self.one_in(3) { self.data() } else { self.data_at(base) });
        }
        if self.one_in(3) {
            steps.push_back(Step::Send(std::mem::take(&mut commands)));
        }
        match self.below(6) {
            0 => commands.push(words("UNWATCH")),
            1 => {}
            _ => self.transaction(base, &mut commands),
        }
        commands.extend(self.pipeline(3));
        commands
    }

    /// Appends steps with SUBSCRIBE, and returns commands that end the subscriptions.
    fn subscription(&mut self, steps: &mut VecDeque<Step>) -> Vec<Args> {
        let token = self.token();
        let mut commands = self.pipeline(2);
        commands.push(words(&format!("SUBSCRIBE ch{} ch{} #{token}", self.below(2), self.below(3))));
        if self.one_in(2) {
            commands.push(words(&format!("PUBLISH ch{} v#{}", self.below(3), self.token())));
        }
        commands.extend(self.pipeline(2));
        steps.push_back(Step::Send(commands));
        steps.push_back(Step::Pause);
        let mut commands = self.pipeline(1);
        commands.push(words(
            ["UNSUBSCRIBE", "UNSUBSCRIBE", "UNSUBSCRIBE", "UNSUBSCRIBE ch1", "RESET"][self.below(5) as usize],
        ));
        commands.extend(self.pipeline(2));
        commands
    }

    /// Appends steps of a client that tracks what it reads, and returns the last ones.
    fn tracking(&mut self, steps: &mut VecDeque<Step>) -> Vec<Args> {
        let mut commands = self.pipeline(2);
        if !self.one_in(10) {
            commands.push(words("HELLO 3"));
        }
        let prefix = self.prefixes[self.random.below(self.prefixes.len() as u32) as usize];
        let opts_in = self.one_in(3);
        commands.push(words(&match self.below(4) {
            _ if opts_in => "CLIENT TRACKING ON OPTIN".to_owned(),
            0 if prefix.is_empty() || self.one_in(2) => "CLIENT TRACKING ON BCAST".to_owned(),
            0 => format!("CLIENT TRACKING ON BCAST PREFIX {prefix}"),
            _ => "CLIENT TRACKING ON".to_owned(),
        }));
        for _ in 0..2 + self.below(3) {
            for _ in 0..self.below(6) {
                if opts_in && self.one_in(2) {
                    commands.push(words("CLIENT CACHING YES"));
                    if self.one_in(4) {
                        let base = self.base();
                        self.transaction(&base, &mut commands);
                    }
                }
                commands.push(self.data());
            }
            steps.push_back(Step::Send(std::mem::take(&mut commands)));
            steps.push_back(if self.one_in(2) { Step::Pause } else { Step::Sync(self.token()) });
        }
        commands = self.pipeline(2);
        match self.below(5) {
            0 | 1 => commands.push(words("CLIENT TRACKING OFF")),
            2 => commands.extend([words("RESET"), words(&format!("AUTH {PASSWORD}"))]),
            _ => {}
        }
        commands.extend(self.pipeline(2));
        commands
    }

    /// Returns commands about the connection, and some that are refused.
    fn session_commands(&mut self, base: &str, has_auth: bool) -> Vec<Args> {
        let mut commands = Vec::new();
        for _ in 0..1 + self.below(4) {
            let token = self.token();
            let command = match self.below(12) {
                0 => format!("ECHO #{token}"),
                1 => "CLIENT GETNAME".into(),
                2 => "AUTH wrong".into(),
                3 => "EXEC".into(),
                4 => "DISCARD".into(),
                5 => "UNWATCH".into(),
                6 => "NOSUCH command".into(),
                7 => format!("RENAME {base}s0 {}s1", self.base()),
                8 => format!("AUTH {PASSWORD}"),
                9 => "RESET".into(),
                10 => "CLIENT SETNAME somebody".into(),
                _ => "PING".into(),
            };
            commands.push(words(&command));
            if command == "RESET" && has_auth {
                commands.push(words(&format!("AUTH {PASSWORD}")));
            }
        }
        // A RENAME has no token, so that its execution couldn't be found: only one that is
        // refused stays.
        let is_refused = |args: &Args| self.setup.target(&args[1]).0 != self.setup.target(&args[2]).0;
        commands.retain(|args| args[0] != b"RENAME" || is_refused(args));
        commands
    }
}
