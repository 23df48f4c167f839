//! Commands to which a path answers otherwise than the server, and the reasons: a file for each
//! path, `differences/PATH.txt`.
//!
//! A difference is three lines: its commands (`*` for all), perhaps with kinds of invocations in
//! parentheses; what the path answers, with `…` for anything; and the reason, behind `refused:`
//! where the path says that it doesn't serve this. The first that fits counts. One that nothing
//! needs any more is an error, and `BLESS=1` takes it out.

use std::collections::BTreeSet;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use redis_mesh_tests::workspace;

use crate::facts::named;
use crate::invocation::Kind;

/// A difference between a path and the server.
#[derive(Clone, Debug)]
pub struct Difference {
    commands: String,
    /// The kinds of invocations; all if empty.
    kinds: Vec<String>,
    answer: String,
    pub is_refusal: bool,
    /// The reason, in one sentence.
    pub why: String,
}

impl Difference {
    /// Whether it concerns all commands.
    pub fn is_general(&self) -> bool {
        self.commands == "*"
    }

    fn parse(block: &str) -> Result<Difference> {
        let [commands, answer, why] = block.lines().collect::<Vec<_>>()[..] else { bail!("not three lines:\n{block}") };
        let (commands, kinds) = match commands.split_once(" (") {
            Some((commands, kinds)) => (commands, kinds.trim_end_matches(')').split(", ").map(str::to_owned).collect()),
            None => (commands, Vec::new()),
        };
        let (is_refusal, why) = why.strip_prefix("refused: ").map_or((false, why), |why| (true, why));
        Ok(Difference { commands: commands.into(), kinds, answer: answer.into(), is_refusal, why: why.into() })
    }

    fn text(&self) -> String {
        let kinds = if self.kinds.is_empty() { String::new() } else { format!(" ({})", self.kinds.join(", ")) };
        let refused = if self.is_refusal { "refused: " } else { "" };
        format!("{}{kinds}\n{}\n{refused}{}\n", self.commands, self.answer, self.why)
    }
}

/// The differences of a path, and which of them were met.
#[derive(Debug)]
pub struct Differences {
    file: PathBuf,
    all: Vec<Difference>,
    met: BTreeSet<(usize, String)>,
}

impl Differences {
    pub fn of(path: &str) -> Result<Differences> {
        let folder = workspace::root().join("tests/tests/coverage/differences");
        let file = folder.join(format!("{path}.txt"));
        let text = std::fs::read_to_string(&file).with_context(|| format!("can't read {}", file.display()))?;
        let blocks = text.split("\n\n").map(str::trim).filter(|block| !block.is_empty());
        let all = blocks.map(Difference::parse).collect::<Result<_>>()?;
        Ok(Differences { file, all, met: BTreeSet::new() })
    }

    /// Returns the difference that matches an answer.
    pub fn explain(&mut self, command: &str, kind: Kind, answer: &str) -> Option<&Difference> {
        let kind = format!("{kind:?}");
        let is_it = |difference: &Difference| {
            (difference.is_general() || named(&difference.commands, command))
                && (difference.kinds.is_empty() || difference.kinds.contains(&kind))
                && matches(&difference.answer, answer)
        };
        let place = self.all.iter().position(is_it)?;
        let name = if self.all[place].is_general() { "*" } else { command };
        self.met.insert((place, name.to_owned()));
        self.all.get(place)
    }

    /// Returns the reasons of differences that concern all commands.
    pub fn general(&self) -> BTreeSet<String> {
        let general = self.all.iter().filter(|difference| difference.is_general() && !difference.is_refusal);
        general.map(|difference| difference.why.clone()).collect()
    }

    /// Fails if a difference was not met. With `BLESS`, removes it from the file.
    pub fn settle(&self) -> Result<()> {
        let mut left = Vec::new();
        let mut unmet = Vec::new();
        for (place, difference) in self.all.iter().enumerate() {
            let is_met = |command: &&str| self.met.contains(&(place, (*command).to_owned()));
            let (met, not): (Vec<&str>, Vec<&str>) = difference.commands.split(' ').partition(is_met);
            if !not.is_empty() {
                unmet.push(format!("{}: {}", not.join(" "), difference.answer));
            }
            if !met.is_empty() {
                left.push(Difference { commands: met.join(" "), ..difference.clone() }.text());
            }
        }
        if std::env::var_os("BLESS").is_some() {
            return std::fs::write(&self.file, left.join("\n")).context("can't write the differences");
        }
        let file = self.file.display();
        ensure!(unmet.is_empty(), "{file} has what isn't so; BLESS=1 takes it out:\n  {}", unmet.join("\n  "));
        Ok(())
    }
}

/// Whether a text matches a pattern.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = parts.next().and_then(|first| text.strip_prefix(first)) else { return false };
    let parts: Vec<&str> = parts.collect();
    let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ellipsis_is_anything() {
        assert!(matches("a…c", "abc") && matches("…", "") && matches("a…b…c", "a b c") && matches("a", "a"));
        assert!(!matches("a", "ab") && !matches("a…c", "ab") && !matches("…x…", "ab"));
    }

    #[test]
    fn a_difference_is_three_lines() {
        let text = "get set (Valid, Arity)\n-ERR …\nrefused: it is so\n";
        let difference = Difference::parse(text.trim()).unwrap();
        assert!(difference.is_refusal && !difference.is_general() && difference.kinds == ["Valid", "Arity"]);
        assert_eq!(difference.text(), text);
        assert!(Difference::parse("get\n-ERR").is_err());
    }
}
