//! Invocations of commands, generated from a server's reports.

use anyhow::{Context, Result};
use redis_mesh_tests::line::words;

use crate::docs::{Argument, Documented};
use crate::facts;

/// The words of a command. `@1`, `@2`, … stand for keys, `@*` for a pattern that all of them
/// match.
pub type Request = Vec<Vec<u8>>;

/// The kind of an invocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Its arguments are right, and its keys are there.
    Valid,
    /// Its keys aren't there.
    Missing,
    /// Its keys hold something else.
    WrongType,
    /// Too few arguments, or too many where there is a most.
    Arity,
    /// A word too many where there is no most.
    Surplus,
    /// Between MULTI and EXEC.
    Transaction,
    /// A subcommand that doesn't exist.
    Unknown,
    /// Its keys belong to several destinations.
    Crossing,
}

/// An invocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// The name as the server reports it: `get`, `client|id`.
    pub command: String,
    pub kind: Kind,
    /// The commands that prepare the server.
    pub setup: Vec<Request>,
    /// What one client says; the last is what is looked at, but for [`Kind::Transaction`].
    pub session: Vec<Request>,
    /// How many replies there are to each, in RESP2 and in RESP3.
    pub replies: Vec<[usize; 2]>,
    /// Whether it is made only on paths that refuse it.
    pub is_harmful: bool,
}

impl Invocation {
    /// Returns the number of keys that it names.
    fn keys(&self) -> usize {
        let words = self.session.iter().flatten();
        let mut keys: Vec<&Vec<u8>> = words.filter(|word| is_key(word)).collect();
        keys.sort();
        keys.dedup();
        keys.len()
    }
}

/// Whether a word stands for a key or a pattern.
pub fn is_key(word: &[u8]) -> bool {
    matches!(word, [b'@', b'0'..=b'9' | b'*', ..])
}

/// Lines, separated by `;`, as requests.
pub fn requests(lines: &str) -> Result<Vec<Request>> {
    lines.split(';').map(str::trim).filter(|line| !line.is_empty()).map(words).collect()
}

/// How many replies there are to a request: one, unless it begins with numbers as in `=2` and
/// `=1/2`, which are taken off.
fn replies(request: &mut Request) -> [usize; 2] {
    let Some(numbers) = request.first().and_then(|word| word.strip_prefix(b"=")) else { return [1, 1] };
    let numbers = String::from_utf8_lossy(numbers).into_owned();
    let (resp2, resp3) = numbers.split_once('/').unwrap_or((&numbers, &numbers));
    let counts = [resp2, resp3].map(|number| number.parse().unwrap_or(1));
    request.remove(0);
    counts
}

/// Returns all invocations of a command.
pub fn all(command: &Documented) -> Result<Vec<Invocation>> {
    let mut found: Vec<Invocation> = Vec::new();
    let setup = requests(&facts::setup(command)).with_context(|| format!("the setup of {}", command.name))?;
    let harm = facts::harm(&command.name);
    let mut add = |kind: Kind, setup: &[Request], mut session: Vec<Request>| {
        let replies = session.iter_mut().map(replies).collect();
        let one = Invocation {
            command: command.name.clone(),
            kind,
            setup: setup.to_vec(),
            session,
            replies,
            is_harmful: harm.is_some() && kind == Kind::Valid,
        };
        if !found.contains(&one) {
            found.push(one);
        }
    };
    for (setup, session) in facts::by_hand(&command.name) {
        let session = requests(session)?;
        let is_queued = session[0][0] == b"MULTI" && command.group != "transactions";
        add(if is_queued { Kind::Transaction } else { Kind::Valid }, &requests(setup)?, session);
    }
    let name = command.words();
    if command.is_container {
        let mut unknown = name.clone();
        unknown.push(b"nonsense".to_vec());
        add(Kind::Unknown, &setup, vec![unknown]);
        add(Kind::Arity, &setup, vec![name]);
        return Ok(found);
    }

    let least = written(command, None, 1);
    let is_by_hand = facts::is_by_hand(&command.name) || facts::untried(&command.name).is_some();
    let is_only_refused = harm.is_some();
    if is_only_refused {
        add(Kind::Valid, &setup, vec![least.clone()]);
    } else if !is_by_hand {
        let mut choices = Vec::new();
        choice_points(&command.arguments, &mut choices);
        let variants = std::iter::once(None).chain(choices.into_iter().map(Some));
        for variant in variants {
            add(Kind::Valid, &setup, vec![written(command, variant, 1)]);
        }
        add(Kind::Valid, &setup, vec![written(command, None, 2)]);
    }
    // What is wrong about it is found before it does any harm.
    let count = usize::try_from(command.arity.unsigned_abs())?;
    if count > name.len() {
        let few = least.iter().chain(std::iter::repeat(&least[0])).take(count - 1).cloned().collect();
        add(Kind::Arity, &setup, vec![few]);
    }
    if command.arity > 0 {
        let mut many: Request = least.iter().take(count).cloned().collect();
        many.resize(count + 1, b"@9".to_vec());
        add(Kind::Arity, &setup, vec![many]);
    } else if !is_only_refused && !is_by_hand {
        let mut more = least.clone();
        more.push(b"@9".to_vec());
        add(Kind::Surplus, &setup, vec![more]);
    }
    if command.has_keys() && !is_only_refused && !is_by_hand {
        let wrong = requests(facts::wrong_type(command))?;
        for repeats in [1, 2] {
            add(Kind::Missing, &[], vec![written(command, None, repeats)]);
        }
        add(Kind::WrongType, &wrong, vec![least.clone()]);
    }
    if !is_only_refused && !is_by_hand {
        let session = vec![vec![b"MULTI".to_vec()], least, vec![b"EXEC".to_vec()]];
        add(Kind::Transaction, &setup, session);
    }
    let crossing: Vec<Invocation> = found
        .iter()
        .filter(|one| matches!(one.kind, Kind::Valid | Kind::Transaction) && one.keys() > 1)
        .map(|one| Invocation { kind: Kind::Crossing, ..one.clone() })
        .collect();
    found.extend(crossing);
    Ok(found)
}

/// The arguments that may be left out, and the alternatives to the first.
fn choice_points(arguments: &[Argument], found: &mut Vec<usize>) {
    for argument in arguments {
        if argument.is_optional {
            found.push(argument.id);
        }
        if argument.kind == "oneof" {
            found.extend(argument.inner.iter().map(|alternative| alternative.id));
        }
        choice_points(&argument.inner, found);
    }
}

/// The words of a command: without what may be left out, the first of alternatives, but for what
/// leads to `variant`; as many as `repeats` of what may stand several times.
fn written(command: &Documented, variant: Option<usize>, repeats: usize) -> Request {
    let mut writer =
        Writer { command: &command.name, variant, repeats, keys: 0, counts: Vec::new(), out: command.words() };
    writer.all(&command.arguments);
    for place in writer.counts {
        writer.out[place] = b"0".to_vec();
    }
    writer.out
}

struct Writer<'a> {
    command: &'a str,
    variant: Option<usize>,
    repeats: usize,
    keys: usize,
    /// Where the number of what follows is to be written.
    counts: Vec<usize>,
    out: Request,
}

impl Writer<'_> {
    fn leads(&self, argument: &Argument) -> bool {
        self.variant.is_some_and(|variant| (argument.id..argument.end).contains(&variant))
    }

    fn all(&mut self, arguments: &[Argument]) {
        for argument in arguments {
            if argument.is_optional && !self.leads(argument) {
                continue;
            }
            let repeats = if argument.is_multiple { self.repeats } else { 1 };
            if argument.is_multiple {
                for place in self.counts.drain(..) {
                    self.out[place] = repeats.to_string().into_bytes();
                }
            }
            for nth in 0..repeats {
                if let Some(token) = &argument.token
                    && (nth == 0 || argument.is_token_multiple)
                {
                    let token = if token == "\"\"" { "" } else { token };
                    self.out.push(token.as_bytes().to_vec());
                }
                self.one(argument, nth);
            }
        }
    }

    fn one(&mut self, argument: &Argument, nth: usize) {
        match argument.kind.as_str() {
            "pure-token" => {}
            "block" => self.all(&argument.inner),
            "oneof" => {
                let chosen = argument.inner.iter().find(|one| self.leads(one)).or(argument.inner.first());
                if let Some(chosen) = chosen {
                    self.all(std::slice::from_ref(&Argument { is_optional: false, ..chosen.clone() }));
                }
            }
            "key" => {
                self.keys += 1;
                self.out.push(format!("@{}", self.keys).into_bytes());
            }
            _ if matches!(argument.name.as_str(), "numkeys" | "numfields") => {
                self.counts.push(self.out.len());
                self.out.push(Vec::new());
            }
            kind => self.out.push(facts::value(self.command, &argument.name, kind, nth)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argument(id: usize, end: usize, name: &str, kind: &str) -> Argument {
        Argument {
            id,
            end,
            name: name.into(),
            kind: kind.into(),
            token: None,
            is_optional: false,
            is_multiple: false,
            is_token_multiple: false,
            inner: Vec::new(),
        }
    }

    #[test]
    fn every_option_is_written_once() {
        let token =
            |id, token: &str| Argument { token: Some(token.into()), ..argument(id, id + 1, token, "pure-token") };
        let choice = Argument {
            is_optional: true,
            inner: vec![token(3, "NX"), Argument { token: Some("EX".into()), ..argument(4, 5, "seconds", "integer") }],
            ..argument(2, 5, "choice", "oneof")
        };
        let keys = Argument { is_multiple: true, ..argument(1, 2, "key", "key") };
        let command = Documented {
            name: "x".into(),
            arity: -3,
            group: "string".into(),
            arguments: vec![argument(0, 1, "numkeys", "integer"), keys, choice],
            is_container: false,
        };
        let shown = |kind: Kind| -> Vec<String> {
            let all = all(&command).unwrap();
            let lines = all.iter().filter(|one| one.kind == kind).map(|one| one.session[0].join(&b' '));
            lines.map(|line| String::from_utf8(line).unwrap()).collect()
        };
        assert_eq!(shown(Kind::Valid), ["X 1 @1", "X 1 @1 NX", "X 1 @1 EX 1000000", "X 2 @1 @2"]);
        assert_eq!((shown(Kind::Arity), shown(Kind::Surplus)), (vec!["X 1".to_owned()], vec!["X 1 @1 @9".to_owned()]));
        assert_eq!((shown(Kind::Missing).len(), shown(Kind::WrongType).len(), shown(Kind::Crossing).len()), (2, 1, 1));
    }
}
