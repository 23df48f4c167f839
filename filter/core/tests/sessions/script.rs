//! What a client is going to say.

use super::setup::{PASSWORD, Setup};
use super::store::Args;
use super::world::World;
use redis_mesh_core::random::Random;
use std::collections::VecDeque;

/// A step of a client.
pub enum Step {
    /// It says this in one go.
    Say(Vec<Args>),
    /// It asks whether somebody is there, and waits for the answer.
    Sync(u64),
    /// It looks through all keys.
    Scan(u64),
    /// It does nothing for a while.
    Pause,
    /// It is gone, whatever is under way.
    Leave,
}

struct Writer<'a> {
    setup: &'a Setup,
    random: &'a mut Random,
    prefixes: Vec<&'static str>,
    token: &'a mut u64,
}

fn words(text: &str) -> Args {
    text.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

pub fn script(world: &mut World) -> VecDeque<Step> {
    let prefixes = world.setup.routes.iter().map(|(prefix, ..)| *prefix).collect();
    let has_auth = world.setup.host.client_auth.is_some();
    let mut writer = Writer { setup: &world.setup, random: &mut world.random, prefixes, token: &mut world.token };
    let mut steps = VecDeque::new();
    if has_auth && !writer.one_in(10) {
        let login =
            if writer.one_in(2) { format!("AUTH {PASSWORD}") } else { format!("HELLO 3 AUTH default {PASSWORD}") };
        steps.push_back(Step::Say(vec![words(&login)]));
    }
    for _ in 0..4 + writer.below(12) {
        writer.block(has_auth, &mut steps);
    }
    steps.push_back(match writer.below(6) {
        0 => Step::Leave,
        1 => Step::Say(vec![writer.data(), words("QUIT"), writer.data()]),
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

    /// A route and a hash tag: keys that begin with the same live together.
    fn place(&mut self) -> String {
        let prefix = self.prefixes[self.random.below(self.prefixes.len() as u32) as usize];
        format!("{prefix}{{{}}}", self.below(5))
    }

    fn name(&mut self, kind: char) -> String {
        // Now and then one of another kind.
        let kind = if self.one_in(20) { ['i', 's', 'l'][self.below(3) as usize] } else { kind };
        format!("{kind}{}", self.below(2))
    }

    fn data(&mut self) -> Args {
        let place = self.place();
        if !self.one_in(4) {
            return self.data_at(&place);
        }
        // Of several places.
        let token = self.token();
        let name = ["MGET", "MSET", "DEL", "EXISTS"][self.below(4) as usize];
        let mut places = vec![place];
        for _ in 0..1 + self.below(3) {
            places.push(self.place());
        }
        let mut text = name.to_owned();
        let mut tokens = Vec::new();
        for place in &places {
            let kind = if name == "DEL" { ['i', 's', 'l'][self.below(3) as usize] } else { 's' };
            text += &format!(" {place}{}", self.name(kind));
            if name == "MSET" {
                text += &format!(" v#{token}");
            } else if !tokens.contains(place) {
                tokens.push(place.clone());
            }
        }
        for place in tokens {
            text += &format!(" {place}#{token}");
        }
        words(&text)
    }

    /// A command whose keys live there.
    fn data_at(&mut self, place: &str) -> Args {
        let token = self.token();
        let (int, text, list) = (self.name('i'), self.name('s'), self.name('l'));
        let other = self.name('s');
        words(&match self.below(11) {
            0 => format!("SET {place}{text} v#{token}"),
            1 | 2 => format!("APPEND {place}{text} v#{token}"),
            3 | 4 => format!("INCRBY {place}{int} {token}"),
            5 | 6 => format!("GETRANGE {place}{text} 0 {token}"),
            7 => format!("RPUSH {place}{list} v#{token}"),
            8 => format!("LRANGE {place}{list} 0 {token}"),
            9 => format!("MGET {place}{text} {place}{other} {place}#{token}"),
            _ => format!("DEL {place}{text} {place}{list} {place}#{token}"),
        })
    }

    fn pipeline(&mut self, most: u32) -> Vec<Args> {
        (0..1 + self.below(most)).map(|_| self.data()).collect()
    }

    fn transaction(&mut self, place: &str, commands: &mut Vec<Args>) {
        commands.push(words("MULTI"));
        for _ in 0..self.below(5) {
            let elsewhere = self.place();
            let command = match self.below(20) {
                0 => self.data_at(&elsewhere),
                1 => words(
                    ["MULTI", "WATCH a:{1}x", "SELECT 1", "HELLO 3", "CLIENT ID", "NOSUCH", "GETRANGE", "PING"]
                        [self.below(8) as usize],
                ),
                _ => self.data_at(place),
            };
            commands.push(command);
        }
        commands.push(words(if self.one_in(6) { "DISCARD" } else { "EXEC" }));
    }

    fn block(&mut self, has_auth: bool, steps: &mut VecDeque<Step>) {
        let mut commands = Vec::new();
        let place = self.place();
        match self.below(20) {
            0..=5 => commands = self.pipeline(10),
            6 | 7 => {
                commands = self.pipeline(3);
                self.transaction(&place, &mut commands);
                commands.extend(self.pipeline(3));
            }
            8 | 9 => {
                let token = self.token();
                let (first, second) = (self.name('s'), self.name('i'));
                commands = self.pipeline(2);
                commands.push(words(&format!("WATCH {place}{first} {place}{second} {place}#{token}")));
                for _ in 0..self.below(3) {
                    commands.push(if self.one_in(3) { self.data() } else { self.data_at(&place) });
                }
                if self.one_in(3) {
                    steps.push_back(Step::Say(std::mem::take(&mut commands)));
                }
                match self.below(6) {
                    0 => commands.push(words("UNWATCH")),
                    1 => {}
                    _ => self.transaction(&place, &mut commands),
                }
                commands.extend(self.pipeline(3));
            }
            10 | 11 => {
                commands = self.pipeline(2);
                let (token, list) = (self.token(), self.name('l'));
                let elsewhere = if self.one_in(8) { self.place() } else { place.clone() };
                let tenths = self.below(6);
                commands.push(words(&format!("BLPOP {place}{list} {elsewhere}l1 0.{tenths}5{token:07}")));
                commands.extend(self.pipeline(2));
            }
            12 | 13 => {
                let token = self.token();
                commands = self.pipeline(2);
                commands.push(words(&format!("SUBSCRIBE ch{} ch{} #{token}", self.below(2), self.below(3))));
                if self.one_in(2) {
                    commands.push(words(&format!("PUBLISH ch{} v#{}", self.below(3), self.token())));
                }
                commands.extend(self.pipeline(2));
                steps.push_back(Step::Say(std::mem::take(&mut commands)));
                steps.push_back(Step::Pause);
                commands = self.pipeline(1);
                commands.push(words(
                    ["UNSUBSCRIBE", "UNSUBSCRIBE", "UNSUBSCRIBE", "UNSUBSCRIBE ch1", "RESET"][self.below(5) as usize],
                ));
                commands.extend(self.pipeline(2));
            }
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
                    self.transaction(&place, &mut commands);
                }
                commands.push(words(&format!("CLIENT REPLY {}", modes[1])));
                commands.extend(self.pipeline(2));
            }
            18 => {
                steps.push_back(Step::Sync(self.token()));
                steps.push_back(Step::Scan(self.token()));
            }
            _ => {
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
                        7 => format!("RENAME {place}s0 {}s1", self.place()),
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
                // One that could be carried out would say nothing of whose it is.
                let is_apart = |args: &Args| self.setup.place(&args[1]).0 != self.setup.place(&args[2]).0;
                commands.retain(|args| args[0] != b"RENAME" || is_apart(args));
            }
        }
        steps.push_back(Step::Say(commands));
        if self.one_in(3) {
            steps.push_back(Step::Sync(self.token()));
        }
        if self.one_in(8) {
            steps.push_back(Step::Pause);
        }
    }
}
