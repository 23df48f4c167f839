//! The keys of commands whose grammar key specs can't express, read as servers execute the
//! commands.

use super::key_spec::{Arguments, Extract, KeyFlags, Keys, KeysError, is_word, needed};
use super::row::Command;

impl Command {
    /// Returns the arguments that are patterns (SORT's BY and GET) by which the command reads keys
    /// that depend on its data, so that nobody else can tell which keys. All arguments must have
    /// arrived, as for the keys of SORT.
    pub fn patterns<'a, A: Arguments + ?Sized>(&self, arguments: &'a A) -> Patterns<'a, A> {
        let next = if self.key_specs.extract == Extract::Sort { 2 } else { usize::MAX };
        Patterns { arguments, next }
    }
}

/// The arguments that are patterns: see [`Command::patterns`].
pub struct Patterns<'a, A: ?Sized> {
    arguments: &'a A,
    next: usize,
}

impl<A: Arguments + ?Sized> Iterator for Patterns<'_, A> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        while let Some(word) = self.arguments.argument(self.next) {
            let (at, option) = (self.next, SortOption::of(word));
            self.next += 1 + option.map_or(0, SortOption::values);
            if let Some(SortOption::By | SortOption::Get) = option
                // A pattern without a star names no other key: `BY nosort`, `GET #`.
                && self.arguments.argument(at + 1).is_some_and(|pattern| pattern.contains(&b'*'))
            {
                return Some(at + 1);
            }
        }
        None
    }
}

#[derive(Clone, Copy, PartialEq)]
enum SortOption {
    By,
    Get,
    Limit,
    Store,
}

impl SortOption {
    fn of(word: &[u8]) -> Option<SortOption> {
        let names: [(&[u8], SortOption); 4] = [
            (b"by", SortOption::By),
            (b"get", SortOption::Get),
            (b"limit", SortOption::Limit),
            (b"store", SortOption::Store),
        ];
        names.into_iter().find(|(name, _)| is_word(word, name)).map(|(_, option)| option)
    }

    fn values(self) -> usize {
        if self == SortOption::Limit { 2 } else { 1 }
    }
}

pub(super) fn sort<A: Arguments + ?Sized>(arguments: &A) -> Result<Keys, KeysError> {
    let mut store = None;
    let mut at = 2;
    while at < arguments.count() {
        let option = SortOption::of(needed(arguments, at)?);
        if option == Some(SortOption::Store) {
            store = Some(at + 1);
        }
        at += 1 + option.map_or(0, SortOption::values);
    }
    with_store(arguments, store)
}

pub(super) fn geo_radius<A: Arguments + ?Sized>(arguments: &A) -> Result<Keys, KeysError> {
    let mut store = None;
    let mut at = 5;
    while at < arguments.count() {
        let word = needed(arguments, at)?;
        if is_word(word, b"store") || is_word(word, b"storedist") {
            store = Some(at + 1);
            at += 1;
        }
        at += 1;
    }
    with_store(arguments, store)
}

/// Returns the source, argument 1, and the destination, which is overwritten.
fn with_store<A: Arguments + ?Sized>(arguments: &A, store: Option<usize>) -> Result<Keys, KeysError> {
    let mut keys = Keys::NONE;
    keys.push_one(1, KeyFlags::RO)?;
    if let Some(store) = store {
        if store >= arguments.count() {
            return Err(KeysError::Malformed);
        }
        keys.push_one(store, KeyFlags::OW)?;
    }
    Ok(keys)
}

pub(super) fn migrate<A: Arguments + ?Sized>(arguments: &A) -> Result<Keys, KeysError> {
    let mut keys = Keys::NONE;
    let mut at = 6;
    while at < arguments.count() {
        let word = needed(arguments, at)?;
        if is_word(word, b"keys") {
            if !needed(arguments, 3)?.is_empty() || at + 1 >= arguments.count() {
                return Err(KeysError::Malformed);
            }
            keys.push(at + 1, arguments.count(), 1, KeyFlags::RW)?;
            return Ok(keys);
        }
        at += if is_word(word, b"auth") {
            2
        } else if is_word(word, b"auth2") {
            3
        } else {
            1
        };
    }
    keys.push_one(3, KeyFlags::RW)?;
    Ok(keys)
}

/// Returns the first half of the arguments behind STREAMS.
pub(super) fn streams<A: Arguments + ?Sized>(command: &Command, arguments: &A) -> Result<Keys, KeysError> {
    let mut at = 1;
    loop {
        let word = needed(arguments, at)?;
        at += 1;
        if is_word(word, b"streams") {
            break;
        } else if is_word(word, b"block") || is_word(word, b"count") {
            at += 1;
        } else if is_word(word, b"group") {
            at += 2;
        } else if !is_word(word, b"noack") {
            return Err(KeysError::Malformed);
        }
    }
    let names_and_ids = arguments.count().saturating_sub(at);
    if names_and_ids == 0 || names_and_ids % 2 == 1 {
        return Err(KeysError::Malformed);
    }
    let flags = command.key_specs.specs.first().map_or(KeyFlags::RO, |spec| spec.flags);
    let mut keys = Keys::NONE;
    keys.push(at, at + names_and_ids / 2, 1, flags)?;
    Ok(keys)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::Known;

    #[test]
    fn patterns_are_reported() {
        let patterns = |request: &str| {
            let arguments: Vec<&str> = request.split(' ').collect();
            let Some(command) = Known::of(&arguments[..]).and_then(Known::row) else { panic!() };
            command.patterns(&arguments[..]).collect::<Vec<_>>()
        };
        assert_eq!(patterns("SORT k BY w_* GET # GET o_*->f STORE a*"), [3, 7]);
        assert_eq!(patterns("SORT k BY nosort GET #"), Vec::<usize>::new());
        assert_eq!(patterns("SORT_RO k get *"), [3]);
        assert_eq!(patterns("SORT k BY"), Vec::<usize>::new());
        assert_eq!(patterns("MGET k BY w_*"), Vec::<usize>::new());
    }
}
