//! KeyNames of keys that are asked of several places at once, as a client knows them.

use crate::command::glob::{Case, glob};
use crate::multiplexer::config::HostConfig;
use crate::resp::elements::Elements;
use crate::resp::encode;
use crate::resp::value::Value;
use std::sync::Arc;

/// What is known about those who are asked for names.
#[derive(Debug)]
pub struct KeyNames {
    config: Arc<HostConfig>,
    /// The target of each part.
    targets: Vec<usize>,
    /// What names must match.
    pattern: Option<Vec<u8>>,
    /// SCAN: which of how many is asked.
    leg: (u64, u64),
}

/// Bits of a cursor that tell who is asked.
const LEG_BITS: u32 = 12;

/// A cursor of a client: who is asked next, and by which cursor of his own.
pub fn cursor(text: &[u8]) -> Option<(u64, u64)> {
    let number: u64 = std::str::from_utf8(text).ok()?.parse().ok()?;
    Some((number & ((1 << LEG_BITS) - 1), number >> LEG_BITS))
}

impl KeyNames {
    /// Of these targets.
    pub fn new(config: Arc<HostConfig>, targets: Vec<usize>, pattern: Option<Vec<u8>>, leg: (u64, u64)) -> KeyNames {
        KeyNames { config, targets, pattern, leg }
    }

    /// True if names have to be looked at one by one: a place may hold keys that no route leads to, or under other names.
    pub fn decide(config: &HostConfig) -> bool {
        !matches!(config.routes.as_slice(), [route] if !route.remove_prefix && config.router.any() == Some(0))
    }

    /// The names under which a client reaches a key of a target.
    fn visible(&self, target: usize, key: &[u8], mut each: impl FnMut(&[u8])) {
        let matches = |name: &[u8]| self.pattern.as_ref().is_none_or(|pattern| glob(pattern, name, Case::Sensitive));
        if !KeyNames::decide(&self.config) {
            if matches(key) {
                each(key);
            }
            return;
        }
        let upstream = |target: usize| self.config.targets.get(target).map(|target| &target.upstream);
        for (index, route) in self.config.routes.iter().enumerate() {
            // Targets may differ in nothing but their mirrors.
            if upstream(route.target) != upstream(target) {
                continue;
            }
            let name = match &route.removed_prefix {
                Some(prefix) => [prefix, key].concat(),
                None => key.to_vec(),
            };
            let leads_here = self.config.router.route(&name).is_some_and(|matched| matched.route as usize == index);
            if leads_here && matches(&name) {
                each(&name);
            }
        }
    }

    fn collect(&self, replies: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
        let (mut count, mut names) = (0, Vec::new());
        for (reply, target) in replies.iter().zip(&self.targets) {
            for element in Elements::of(reply) {
                let Some(Value::Text(key)) = Value::parse(element) else { return None };
                self.visible(*target, key, |name| {
                    count += 1;
                    encode::bulk(&mut names, name);
                });
            }
        }
        encode::array(out, count);
        out.append(&mut names);
        Some(())
    }

    /// All names in arrays of keys.
    pub fn keys(&self, replies: &[Vec<u8>]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.collect(&replies.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut out)?;
        Some(out)
    }

    /// The reply to SCAN: the next cursor, and names.
    pub fn scan(&self, replies: &[Vec<u8>]) -> Option<Vec<u8>> {
        let mut elements = Elements::of(replies.first()?);
        let Value::Text(cursor) = Value::parse(elements.next()?)? else { return None };
        let cursor: u64 = std::str::from_utf8(cursor).ok()?.parse().ok()?;
        let (leg, legs) = self.leg;
        let next = match cursor {
            0 if leg + 1 < legs => leg + 1,
            0 => 0,
            cursor if cursor >> (u64::BITS - LEG_BITS) != 0 => return None,
            cursor => cursor << LEG_BITS | leg,
        };
        let mut out = Vec::new();
        encode::array(&mut out, 2);
        encode::bulk(&mut out, next.to_string().as_bytes());
        self.collect(&[elements.next()?], &mut out)?;
        Some(out)
    }

    /// What a server pushes about keys that have changed (CLIENT TRACKING); none: it is something else, or about all keys.
    pub fn invalidated(&self, push: &[u8]) -> Option<Vec<u8>> {
        let mut elements = Elements::of_push(push);
        let (word, keys) = (elements.next()?, elements.next()?);
        if Value::parse(word)?.text()? != b"invalidate" || keys.first() != Some(&b'*') {
            return None;
        }
        let mut out = Vec::new();
        encode::header(&mut out, b'>', 2);
        out.extend_from_slice(word);
        self.collect(&[keys], &mut out)?;
        Some(out)
    }

    /// One of several keys, or nothing.
    pub fn one(&self, replies: &[Vec<u8>], resp3: bool) -> Option<Vec<u8>> {
        let mut found = None;
        for (reply, target) in replies.iter().zip(&self.targets) {
            if let Some(Value::Text(key)) = Value::parse(reply) {
                self.visible(*target, key, |name| {
                    found.get_or_insert_with(|| name.to_vec());
                });
            }
        }
        let mut out = Vec::new();
        match found {
            Some(name) => encode::bulk(&mut out, &name),
            None => out.extend_from_slice(if resp3 { b"_\r\n" } else { b"$-1\r\n" }),
        }
        Some(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn cursors() {
        assert_eq!(cursor(b"0"), Some((0, 0)));
        assert_eq!(cursor(((7u64 << LEG_BITS) + 3).to_string().as_bytes()), Some((3, 7)));
        assert_eq!(cursor(b"x"), None);
    }
}
