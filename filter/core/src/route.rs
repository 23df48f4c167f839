//! The routes of keys. An exact match has precedence, then the longest prefix, then the first
//! regular expression, then the route without a match.

use crate::wire::{KeyMatch, Route};
use regex_lite::Regex;

/// Number of bytes of the longest key that one regular expression is tried on. Several are tried on
/// keys of their share of it.
const LONGEST_REGEX_KEY: usize = 64 * 1024;
/// Keys of so many bytes are tried on however many regular expressions.
const SHORT_KEY: usize = 1024;

/// A compiled set of routes.
#[derive(Debug, Default)]
pub struct Router {
    exact: TextTable,
    prefixes: TextTable,
    regexes: Vec<(Regex, u32)>,
    any: Option<u32>,
    case_insensitive: bool,
    actions: Vec<RouteAction>,
    rewrites_keys: bool,
}

/// What a route does with the keys that it takes.
#[derive(Clone, Copy, Debug)]
pub struct RouteAction {
    /// Index of the target in the host's list of targets.
    pub target: u32,
    /// The matched prefix is removed from the key.
    pub remove_prefix: bool,
}

/// The route of a key, with what the route does with the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyRoute {
    /// Index of the route.
    pub route: u32,
    /// Index of the target in the host's list of targets.
    pub target: u32,
    /// Number of bytes that are removed from the beginning of the key.
    pub strip: u32,
}

/// The route that a key matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Index of the route.
    pub route: u32,
    /// Length in bytes of the prefix that matched; 0 for other kinds of match.
    pub prefix: u32,
}

impl Router {
    /// Compiles the routes of a host.
    ///
    /// # Errors
    /// The first route whose match is wrong, by its index.
    pub fn new(routes: &[Route], case_insensitive: bool) -> Result<Router, RouteError> {
        let action = |route: &Route| RouteAction { target: route.target, remove_prefix: route.remove_prefix };
        let actions = routes.iter().map(action).collect();
        let rewrites_keys = routes.iter().any(|route| route.remove_prefix);
        let mut router = Router { case_insensitive, actions, rewrites_keys, ..Router::default() };
        let fold = |text: &str| -> Box<[u8]> {
            let mut bytes = text.as_bytes().to_vec();
            if case_insensitive {
                bytes.make_ascii_lowercase();
            }
            bytes.into()
        };
        for (index, Route { key, .. }) in routes.iter().enumerate() {
            let route = index as u32;
            let error = |problem| Err(RouteError { route: index, problem });
            match key {
                KeyMatch::Exact(text) => {
                    if !router.exact.insert(&fold(text), route) {
                        return error(RouteProblem::Duplicate);
                    }
                }
                KeyMatch::Prefix(text) if text.is_empty() => {
                    return error(RouteProblem::EmptyPrefix);
                }
                KeyMatch::Prefix(text) => {
                    if !router.prefixes.insert(&fold(text), route) {
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
        Ok(router)
    }

    /// Returns the route of `key`; `None`: no route takes the key.
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
        if let Some(route) = self.exact.get(key) {
            return Some(whole(route));
        }
        if let Some(matched) = self.prefixes.longest(key) {
            return Some(matched);
        }
        // Regular expressions over a key of megabytes would block the worker, so no route takes such a
        // key.
        if key.len() > SHORT_KEY && key.len().saturating_mul(self.regexes.len()) > LONGEST_REGEX_KEY {
            return None;
        }
        self.by_regex(key).or(self.any).map(whole)
    }

    fn by_regex(&self, key: &[u8]) -> Option<u32> {
        if self.regexes.is_empty() {
            return None;
        }
        // Expressions match text. In a key that isn't UTF-8, U+FFFD stands for what can't be
        // decoded.
        let text = String::from_utf8_lossy(key);
        self.regexes.iter().find(|(regex, _)| regex.is_match(&text)).map(|(_, route)| *route)
    }

    /// Returns the route that takes every key not taken by another.
    pub fn any(&self) -> Option<u32> {
        self.any
    }

    /// Returns the route of `key` together with what the route does; `None`: no route takes the
    /// key.
    #[inline]
    pub fn find(&self, key: &[u8]) -> Option<KeyRoute> {
        let Matched { route, prefix } = self.route(key)?;
        let action = self.actions.get(route as usize)?;
        Some(KeyRoute { route, target: action.target, strip: if action.remove_prefix { prefix } else { 0 } })
    }

    /// Returns the route of commands without a key: the one that takes every key not taken by
    /// another.
    pub fn default_route(&self) -> Option<KeyRoute> {
        let route = self.any?;
        self.actions.get(route as usize).map(|action| KeyRoute { route, target: action.target, strip: 0 })
    }

    /// True if a route removes its prefix, so that a server knows keys by other names than clients
    /// do.
    pub fn rewrites_keys(&self) -> bool {
        self.rewrites_keys
    }
}

/// A hash table of texts and their routes. All texts lie in one piece of memory, so a lookup among
/// ten thousand texts costs about as many cache misses as one among ten, unlike in a sorted list
/// or a tree.
#[derive(Debug, Default)]
struct TextTable {
    texts: Vec<u8>,
    entries: Vec<RouteText>,
    /// For each slot the hash of an entry and its index plus one, 0 for a free slot. Their number
    /// is a power of two, and at most half of them are taken.
    slots: Vec<(u32, u32)>,
    /// The lengths of the texts, ascending.
    lengths: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct RouteText {
    start: u32,
    len: u32,
    route: u32,
}

/// FNV-1a (<http://www.isthe.com/chongo/tech/comp/fnv/>), which has a value after each byte of a
/// text. A client can't cause collisions, since the texts come from the operator.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

fn hash(state: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(state, |h, &b| (h ^ u64::from(b)).wrapping_mul(FNV_PRIME))
}

impl TextTable {
    fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a text; false if it is there already.
    fn insert(&mut self, text: &[u8], route: u32) -> bool {
        if (self.entries.len() + 1) * 2 > self.slots.len() {
            let entries: Vec<u64> = self.entries.iter().map(|e| hash(FNV_OFFSET, self.text(e))).collect();
            self.slots = vec![(0, 0); (self.slots.len() * 2).max(8)];
            for (i, h) in entries.into_iter().enumerate() {
                self.place(h, i as u32);
            }
        }
        let state = hash(FNV_OFFSET, text);
        if self.find(state, text).is_some() {
            return false;
        }
        let entry = RouteText { start: self.texts.len() as u32, len: text.len() as u32, route };
        self.place(state, self.entries.len() as u32);
        self.texts.extend_from_slice(text);
        self.entries.push(entry);
        if let Err(at) = self.lengths.binary_search(&entry.len) {
            self.lengths.insert(at, entry.len);
        }
        true
    }

    fn text(&self, entry: &RouteText) -> &[u8] {
        self.texts.get(entry.start as usize..(entry.start + entry.len) as usize).unwrap_or_default()
    }

    fn place(&mut self, state: u64, index: u32) {
        let short = short(state);
        let mask = self.slots.len() - 1;
        let mut at = short as usize & mask;
        while self.slots[at].1 != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = (short, index + 1);
    }

    /// Returns the route of a text whose hash is known.
    fn find(&self, state: u64, text: &[u8]) -> Option<u32> {
        let short = short(state);
        let mask = self.slots.len().checked_sub(1)?;
        let mut at = short as usize & mask;
        loop {
            let &(hash, index) = self.slots.get(at)?;
            let entry = self.entries.get(index.checked_sub(1)? as usize)?;
            if hash == short && self.text(entry) == text {
                return Some(entry.route);
            }
            at = (at + 1) & mask;
        }
    }

    fn get(&self, text: &[u8]) -> Option<u32> {
        // Most keys have another length than every text.
        self.lengths.binary_search(&u32::try_from(text.len()).ok()?).ok()?;
        self.find(hash(FNV_OFFSET, text), text)
    }

    /// Returns the longest text that the key begins with.
    fn longest(&self, key: &[u8]) -> Option<Matched> {
        let (mut state, mut hashed, mut found) = (FNV_OFFSET, 0, None);
        for &len in &self.lengths {
            let Some(more) = key.get(hashed..len as usize) else { break };
            state = hash(state, more);
            hashed = len as usize;
            if let Some(route) = self.find(state, &key[..hashed]) {
                found = Some(Matched { route, prefix: len });
            }
        }
        found
    }
}

fn short(state: u64) -> u32 {
    (state ^ state >> 32) as u32
}

/// The reason why routes don't compile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteError {
    /// Index of the route.
    pub route: usize,
    /// What is wrong with the route.
    pub problem: RouteProblem,
}

/// What is wrong with a route's match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteProblem {
    /// An earlier route has the same match.
    Duplicate,
    /// The prefix is empty, which would be a route without match.
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

    fn routes(matches: &[KeyMatch]) -> Vec<Route> {
        let route = |key: &KeyMatch| Route {
            key: key.clone(),
            remove_prefix: false,
            target: 0,
            read_policy: None,
            faults: Vec::new(),
        };
        matches.iter().map(route).collect()
    }

    fn check(matches: &[KeyMatch], case_insensitive: bool, cases: &[(&str, Option<(u32, u32)>)]) {
        let router = Router::new(&routes(matches), case_insensitive).unwrap();
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
    fn routes_say_what_becomes_of_keys() {
        let mut all = routes(&[prefix("a:"), KeyMatch::Any]);
        (all[0].remove_prefix, all[1].target) = (true, 1);
        let router = Router::new(&all, false).unwrap();
        assert_eq!(router.find(b"a:k"), Some(KeyRoute { route: 0, target: 0, strip: 2 }));
        assert_eq!(router.find(b"k"), Some(KeyRoute { route: 1, target: 1, strip: 0 }));
        assert_eq!(router.default_route(), router.find(b"k"));
        assert!(router.rewrites_keys());
        let router = Router::new(&routes(&[prefix("a:")]), false).unwrap();
        assert_eq!((router.find(b"k"), router.default_route(), router.rewrites_keys()), (None, None, false));
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
        let router = Router::new(&routes(&chosen), false).unwrap();
        for word in &words {
            let want = words.iter().step_by(3).filter(|p| word.starts_with(*p)).map(|p| p.len()).max();
            assert_eq!(router.route(word.as_bytes()).map(|m| m.prefix as usize), want, "{word}");
        }
    }

    #[test]
    fn the_work_for_a_key_is_the_same_for_any_number_of_expressions() {
        let tried = |expressions: usize| {
            let matches: Vec<KeyMatch> = (0..expressions).map(|_| regex("^y")).chain([KeyMatch::Any]).collect();
            let router = Router::new(&routes(&matches), false).unwrap();
            let takes = |length: usize| router.route("x".repeat(length).as_bytes()).is_some();
            (1..=LONGEST_REGEX_KEY).rev().step_by(256).find(|length| takes(*length)).unwrap_or_default() * expressions
        };
        let (one, ten) = (tried(1), tried(10));
        assert!(one.abs_diff(ten) < 10 * 256, "{one} {ten}");
        assert!(tried(200) >= 200 * (SHORT_KEY - 256), "keys as they are usual are taken");
    }

    #[test]
    fn a_huge_key_meets_no_regex() {
        let key = "x".repeat(LONGEST_REGEX_KEY + 1);
        check(&[KeyMatch::Any, regex("x")], false, &[(&key, None), (&key[1..], Some((1, 0)))]);
        check(&[KeyMatch::Any, regex("y"), prefix("x")], false, &[(&key, Some((2, 1)))]);
    }

    #[test]
    fn mistakes() {
        let problem = |m: &[KeyMatch]| Router::new(&routes(m), false).unwrap_err();
        assert_eq!(problem(&[prefix("a"), prefix("")]).problem, RouteProblem::EmptyPrefix);
        assert_eq!(problem(&[prefix("a"), prefix("b"), prefix("a")]).problem, RouteProblem::Duplicate);
        assert_eq!(problem(&[KeyMatch::Any, KeyMatch::Any]).route, 1);
        assert!(matches!(problem(&[regex("(")]).problem, RouteProblem::Regex(_)));
    }
}
