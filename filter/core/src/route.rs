//! Which route a key takes: exact, then longest prefix, then regex in order, then the route without a match.

use crate::wire::KeyMatch;
use regex_lite::Regex;
use std::collections::BTreeMap;

/// A compiled set of routes.
#[derive(Debug, Default)]
pub struct Router {
    exact: BTreeMap<Box<[u8]>, u32>,
    /// Sorted by prefix; `parent` is the longest other prefix of this one.
    prefixes: Vec<Prefix>,
    regexes: Vec<(Regex, u32)>,
    any: Option<u32>,
    case_insensitive: bool,
}

#[derive(Debug)]
struct Prefix {
    text: Box<[u8]>,
    route: u32,
    parent: Option<u32>,
}

/// Where a key goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Index of the route.
    pub route: u32,
    /// Length in bytes of the prefix that matched; 0 for other kinds of match.
    pub prefix: u32,
}

impl Router {
    /// Compiles the matches, in the order of the routes. The error names the route's index.
    pub fn new<'a>(matches: impl Iterator<Item = &'a KeyMatch>, case_insensitive: bool) -> Result<Router, RouteError> {
        let mut router = Router { case_insensitive, ..Router::default() };
        let fold = |text: &str| -> Box<[u8]> {
            let mut bytes = text.as_bytes().to_vec();
            if case_insensitive {
                bytes.make_ascii_lowercase();
            }
            bytes.into()
        };
        let mut sorted = BTreeMap::new();
        for (index, key) in matches.enumerate() {
            let route = index as u32;
            let error = |problem| Err(RouteError { route: index, problem });
            match key {
                KeyMatch::Exact(text) => {
                    if router.exact.insert(fold(text), route).is_some() {
                        return error(RouteProblem::Duplicate);
                    }
                }
                KeyMatch::Prefix(text) if text.is_empty() => {
                    return error(RouteProblem::EmptyPrefix);
                }
                KeyMatch::Prefix(text) => {
                    if sorted.insert(fold(text), route).is_some() {
                        return error(RouteProblem::Duplicate);
                    }
                }
                KeyMatch::Regex(text) => {
                    let text = if case_insensitive { format!("(?i){text}") } else { text.clone() };
                    match Regex::new(&text) {
                        Ok(regex) => router.regexes.push((regex, route)),
                        Err(e) => return error(RouteProblem::Regex(e.to_string())),
                    }
                }
                KeyMatch::Any if router.any.is_some() => return error(RouteProblem::Duplicate),
                KeyMatch::Any => router.any = Some(route),
            }
        }
        // In sorted order the prefixes of a text stand before it, each a prefix of the next on the stack.
        let mut stack: Vec<u32> = Vec::new();
        for (text, route) in sorted {
            while stack.last().is_some_and(|&top| !text.starts_with(&router.prefixes[top as usize].text)) {
                stack.pop();
            }
            let parent = stack.last().copied();
            stack.push(router.prefixes.len() as u32);
            router.prefixes.push(Prefix { text, route, parent });
        }
        Ok(router)
    }

    /// The route of `key`; `None`: no route takes it.
    pub fn route(&self, key: &[u8]) -> Option<Matched> {
        let whole = |route: u32| Matched { route, prefix: 0 };
        if self.exact.is_empty() && self.prefixes.is_empty() && self.regexes.is_empty() {
            return self.any.map(whole);
        }
        let folded;
        let key = if self.case_insensitive {
            folded = key.to_ascii_lowercase();
            folded.as_slice()
        } else {
            key
        };
        if let Some(&route) = self.exact.get(key).filter(|_| !self.exact.is_empty()) {
            return Some(whole(route));
        }
        self.longest_prefix(key).or_else(|| self.by_regex(key).or(self.any).map(whole))
    }

    fn longest_prefix(&self, key: &[u8]) -> Option<Matched> {
        // The last prefix that sorts at or before the key: the answer is it or one of its ancestors.
        let after = self.prefixes.partition_point(|p| *p.text <= *key);
        let mut at = after.checked_sub(1);
        while let Some(i) = at {
            let prefix = self.prefixes.get(i)?;
            if key.starts_with(&prefix.text) {
                return Some(Matched { route: prefix.route, prefix: prefix.text.len() as u32 });
            }
            at = prefix.parent.map(|p| p as usize);
        }
        None
    }

    fn by_regex(&self, key: &[u8]) -> Option<u32> {
        if self.regexes.is_empty() {
            return None;
        }
        // Keys are bytes, expressions are over text: a key that isn't UTF-8 is matched with U+FFFD in the bad places.
        let text = String::from_utf8_lossy(key);
        self.regexes.iter().find(|(regex, _)| regex.is_match(&text)).map(|(_, route)| *route)
    }

    /// The route that takes every key not taken by another.
    pub fn any(&self) -> Option<u32> {
        self.any
    }
}

/// Why routes don't compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteError {
    /// Index of the route.
    pub route: usize,
    /// What is wrong with it.
    pub problem: RouteProblem,
}

/// What is wrong with a route's match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteProblem {
    /// An earlier route has the same match.
    Duplicate,
    /// A prefix of no bytes; that would be a route without match.
    EmptyPrefix,
    /// The regular expression doesn't compile.
    Regex(String),
}

impl std::fmt::Display for RouteProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RouteProblem::Duplicate => f.write_str("an earlier route has the same match"),
            RouteProblem::EmptyPrefix => f.write_str("an empty prefix: leave the match out to take every key"),
            RouteProblem::Regex(e) => write!(f, "the regular expression doesn't compile: {e}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn exact(s: &str) -> KeyMatch {
        KeyMatch::Exact(s.into())
    }
    fn prefix(s: &str) -> KeyMatch {
        KeyMatch::Prefix(s.into())
    }
    fn regex(s: &str) -> KeyMatch {
        KeyMatch::Regex(s.into())
    }

    fn check(matches: &[KeyMatch], case_insensitive: bool, cases: &[(&str, Option<(u32, u32)>)]) {
        let router = Router::new(matches.iter(), case_insensitive).unwrap();
        for (key, want) in cases {
            let want = want.map(|(route, prefix)| Matched { route, prefix });
            assert_eq!(router.route(key.as_bytes()), want, "{key}");
        }
    }

    #[test]
    fn precedence() {
        let matches =
            [KeyMatch::Any, regex("^user:[0-9]+$"), prefix("user:"), prefix("user:1"), exact("user:12"), regex("x")];
        check(
            &matches,
            false,
            &[
                ("user:12", Some((4, 0))),
                ("user:123", Some((3, 6))),
                ("user:2", Some((2, 5))),
                ("User:2", Some((0, 0))),
                ("axb", Some((5, 0))),
                ("", Some((0, 0))),
            ],
        );
        check(&matches[1..], false, &[("other", None)]);
        check(&matches, true, &[("USER:12", Some((4, 0))), ("uSeR:2", Some((2, 5)))]);
    }

    #[test]
    fn prefixes_between_siblings() {
        let matches = [prefix("a"), prefix("ab"), prefix("abc"), prefix("abd"), prefix("b")];
        check(
            &matches,
            false,
            &[
                ("abcc", Some((2, 3))),
                ("abcz", Some((2, 3))),
                ("abz", Some((1, 2))),
                ("az", Some((0, 1))),
                ("c", None),
                ("", None),
            ],
        );
    }

    #[test]
    fn the_longest_prefix_is_what_a_scan_finds() {
        // Exhaustive over short words: the sorted search against the definition.
        let words: Vec<String> = (0..3usize.pow(4))
            .map(|n| (0..(n % 4) + 1).map(|i| ['a', 'b', 'c'][(n / 3usize.pow(i as u32)) % 3]).collect::<String>())
            .collect::<std::collections::BTreeSet<_>>()
            .into_iter()
            .collect();
        let chosen: Vec<KeyMatch> = words.iter().step_by(3).map(|w| prefix(w)).collect();
        let router = Router::new(chosen.iter(), false).unwrap();
        for word in &words {
            let want = words.iter().step_by(3).filter(|p| word.starts_with(*p)).map(|p| p.len()).max();
            assert_eq!(router.route(word.as_bytes()).map(|m| m.prefix as usize), want, "{word}");
        }
    }

    #[test]
    fn mistakes() {
        let problem = |m: &[KeyMatch]| Router::new(m.iter(), false).unwrap_err();
        assert_eq!(problem(&[prefix("a"), prefix("")]).problem, RouteProblem::EmptyPrefix);
        assert_eq!(problem(&[prefix("a"), prefix("b"), prefix("a")]).problem, RouteProblem::Duplicate);
        assert_eq!(problem(&[KeyMatch::Any, KeyMatch::Any]).route, 1);
        assert!(matches!(problem(&[regex("(")]).problem, RouteProblem::Regex(_)));
    }
}
