//! What clients may be answered, and when.

use std::time::Instant;

/// The hosts whose rules change. The Redis of the last one asks for a password.
pub const HOSTS: [&str; 3] = ["red", "green", "blue"];
/// The host whose Redis asks for a password.
pub const LOCKED: usize = 2;
/// The host that nobody has rules for.
pub const CALM: &str = "calm";
/// The keys that clients read, whose values name the Redis that answers.
pub const KEYS: [&str; 2] = ["whose", "x-whose"];

/// The answers of one host to its clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behaviour {
    /// The password for which clients are asked.
    pub password: Option<String>,
    /// The hosts whose Redis answers for each of [`KEYS`].
    pub targets: [usize; 2],
}

impl Behaviour {
    /// The behaviour of a host without rules.
    pub fn plain(host: usize) -> Behaviour {
        Behaviour { password: None, targets: [host; 2] }
    }
}

/// A value that was possible from one time on, and until another one if that has come.
#[derive(Clone, Debug)]
struct Span<T> {
    value: T,
    until: Option<Instant>,
}

/// The values that are and were possible, since it takes a while until a change has arrived everywhere.
#[derive(Clone, Debug)]
pub struct Timeline<T>(Vec<Span<T>>);

impl<T: Clone + PartialEq> Timeline<T> {
    /// Begins with one possible value.
    pub fn new(value: T) -> Timeline<T> {
        Timeline(vec![Span { value, until: None }])
    }

    /// Makes another value possible.
    pub fn open(&mut self, value: T) {
        if !self.present().any(|known| *known == value) {
            self.0.push(Span { value, until: None });
        }
    }

    /// Ends all values but this one.
    pub fn settle(&mut self, value: &T) {
        let now = Instant::now();
        let ended = self.0.iter_mut().filter(|span| span.until.is_none() && span.value != *value);
        ended.for_each(|span| span.until = Some(now));
    }

    /// The values that are possible now.
    pub fn present(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter(|span| span.until.is_none()).map(|span| &span.value)
    }

    /// The values that were possible at some time since then.
    pub fn since(&self, then: Instant) -> impl Iterator<Item = &T> {
        self.0.iter().filter(move |span| span.until.is_none_or(|until| until >= then)).map(|span| &span.value)
    }
}

/// What is possible for every host.
#[derive(Clone, Debug)]
pub struct Possible {
    /// For each of [`HOSTS`].
    pub hosts: Vec<Timeline<Behaviour>>,
    /// Whether sidecars log in at the Redis of [`LOCKED`].
    pub login: Timeline<bool>,
}

impl Possible {
    /// What is possible before there are rules.
    pub fn at_first() -> Possible {
        let hosts = (0..HOSTS.len()).map(|host| Timeline::new(Behaviour::plain(host)));
        Possible { hosts: hosts.collect(), login: Timeline::new(false) }
    }

    /// Whether the value of a key may come over a connection to a host that was opened then, with the
    /// password that was accepted over it.
    pub fn explains(&self, then: Instant, asked: (usize, usize), value: &str, accepted: Option<&str>) -> bool {
        let (host, key) = asked;
        let leads = |behaviour: &Behaviour| HOSTS[behaviour.targets[key]] == value;
        let lets = |behaviour: &Behaviour| behaviour.password.is_none() || behaviour.password.as_deref() == accepted;
        let timeline = &self.hosts[host];
        // Who has logged in stays so when rules change.
        let is_explained = match accepted {
            None => timeline.since(then).any(|behaviour| lets(behaviour) && leads(behaviour)),
            Some(_) => timeline.since(then).any(lets) && timeline.since(then).any(leads),
        };
        let is_locked = value == HOSTS[LOCKED] && !self.login.since(then).any(|login| *login);
        is_explained && !is_locked
    }

    /// Whether a host may accept this password over a connection that was opened then.
    pub fn accepts(&self, then: Instant, host: usize, password: &str) -> bool {
        self.hosts[host].since(then).any(|behaviour| behaviour.password.as_deref() == Some(password))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behaviour(password: Option<&str>, target: usize) -> Behaviour {
        Behaviour { password: password.map(str::to_string), targets: [target; 2] }
    }

    #[test]
    fn what_was_ended_explains_only_older_connections() {
        let mut possible = Possible::at_first();
        let old = Instant::now();
        let asked = behaviour(Some("a"), 1);
        possible.hosts[0].open(asked.clone());
        assert!(possible.explains(old, (0, 0), "red", None));
        assert!(!possible.explains(old, (0, 0), "green", None));
        assert!(possible.explains(old, (0, 0), "green", Some("a")));
        std::thread::sleep(std::time::Duration::from_millis(2));
        possible.hosts[0].settle(&asked);
        std::thread::sleep(std::time::Duration::from_millis(2));
        let new = Instant::now();
        assert!(possible.explains(old, (0, 0), "red", None));
        assert!(!possible.explains(new, (0, 0), "red", None));
        assert!(possible.accepts(new, 0, "a") && !possible.accepts(new, 0, "b") && !possible.accepts(new, 1, "a"));
        // Whose Redis asks for a password answers only where somebody logs in.
        possible.hosts[1].open(behaviour(None, LOCKED));
        assert!(!possible.explains(new, (1, 0), "blue", None));
        possible.login.open(true);
        assert!(possible.explains(new, (1, 0), "blue", None));
    }
}
