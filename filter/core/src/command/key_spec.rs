//! The vocabulary in which the table says where a command's keys are
//! (<https://redis.io/docs/latest/develop/reference/key-specs/>), and the keys that are found.

use std::fmt;

use super::bits::bits;

/// The arguments of a request, the command's name first. They may still be arriving.
pub trait Arguments {
    /// Returns the number of arguments, those included that haven't arrived.
    fn count(&self) -> usize;
    /// Returns an argument; `None`: it hasn't arrived, or there are fewer.
    fn argument(&self, index: usize) -> Option<&[u8]>;
}

impl<T: AsRef<[u8]>> Arguments for [T] {
    fn count(&self) -> usize {
        self.len()
    }
    fn argument(&self, index: usize) -> Option<&[u8]> {
        self.get(index).map(AsRef::as_ref)
    }
}

bits! {
    /// What a command does with a key.
    KeyFlags(u16) {
        /// Reads the value, nothing else.
        RO = "RO",
        /// Reads and changes it.
        RW = "RW",
        /// Overwrites it without reading.
        OW = "OW",
        /// Deletes it.
        RM = "RM",
        ACCESS = "access",
        UPDATE = "update",
        INSERT = "insert",
        DELETE = "delete",
        /// A channel, which Redis Cluster places like a key.
        NOT_KEY = "not_key",
        /// The spec doesn't find all keys.
        INCOMPLETE = "incomplete",
        /// What is done depends on the arguments.
        VARIABLE_FLAGS = "variable_flags",
    }
}

/// What a command does with a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyAccess {
    /// The key is read.
    Read,
    /// The key is read and changed, or one of the two, depending on the arguments.
    ReadWrite,
    /// The key is overwritten without being read.
    Overwrite,
    /// The key is deleted.
    Remove,
}

/// Where the search for keys begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Begin {
    /// At an argument.
    Index(i8),
    /// Behind a word, which is searched from an argument on. A negative number counts from the
    /// end, and the search goes backwards.
    Keyword(&'static str, i8),
    /// A key spec can't express it.
    Unknown,
}

/// Which arguments from there on are keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Find {
    /// Every step-th argument up to the last, which is relative to the first; a negative one is
    /// relative to the end of the arguments. With a limit of 2 only the first half of the
    /// arguments counts, with one of 3 the first third.
    Range {
        /// The last key.
        last: i8,
        /// The distance between keys.
        step: i8,
        /// The divisor; 0 and 1: none.
        limit: i8,
    },
    /// As many arguments as another argument says.
    KeyNum {
        /// The argument that holds the number of keys, relative to the beginning.
        number: i8,
        /// The first key, relative to the beginning.
        first: i8,
        /// The distance between keys.
        step: i8,
    },
    /// A key spec can't express it.
    Unknown,
}

/// Shortens the rows of the table.
pub(super) const fn range(last: i8, step: i8, limit: i8) -> Find {
    Find::Range { last, step, limit }
}

/// Shortens the rows of the table.
pub(super) const fn keynum(number: i8, first: i8, step: i8) -> Find {
    Find::KeyNum { number, first, step }
}

/// One of a command's key specs.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec {
    /// What the command does with these keys.
    pub flags: KeyFlags,
    /// Where the keys begin.
    pub begin: Begin,
    /// Which arguments from there on are keys.
    pub find: Find,
}

/// How a command's keys are found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extract {
    /// By the key specs.
    Specs,
    /// SORT key [BY p] [LIMIT o n] [GET p …] [STORE key]
    Sort,
    /// GEORADIUS and GEORADIUSBYMEMBER: STORE and STOREDIST, of which the last counts.
    GeoRadius,
    /// XREAD and XREADGROUP: options in any order, then STREAMS.
    Streams,
    /// MIGRATE host port key|"" db timeout … [KEYS key …]
    Migrate,
}

/// The reason why the keys of a request can't be told. Such a request must not be sent anywhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeysError {
    /// This argument is needed to tell the keys, and hasn't arrived.
    Missing(usize),
    /// The arguments contradict the command's grammar, or there are too few.
    Malformed,
    /// The number of keys is wrong.
    Count(KeyCountError),
    /// A key lacks the argument that belongs to it.
    Unpaired,
    /// The command's keys can't be told from its arguments.
    Unknown,
}

/// What is wrong with a number of keys.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyCountError {
    /// It is no integer of 64 bits in the form that servers take.
    NotInteger,
    /// It is negative, or 0 where the command needs a key.
    TooFew,
    /// There are fewer arguments.
    TooMany,
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KeysError::Missing(_) => "not all arguments are there",
            KeysError::Malformed | KeysError::Count(_) => "syntax error",
            KeysError::Unpaired => "wrong number of arguments",
            KeysError::Unknown => "the command's keys can't be told",
        })
    }
}

/// An argument that is a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// Index of the argument.
    pub index: usize,
    /// What the command does with the key.
    pub access: KeyAccess,
    /// The flags of the key spec that the key belongs to.
    pub flags: KeyFlags,
}

#[derive(Clone, Copy, Default)]
struct Range {
    first: usize,
    /// One past the last key.
    end: usize,
    step: usize,
    flags: KeyFlags,
}

/// The keys of a request, in the order of the specs (as a rule the order of the arguments).
#[derive(Clone, Copy)]
pub struct Keys {
    ranges: [Range; Keys::MOST_RANGES],
    used: usize,
}

impl Keys {
    /// The largest number of key specs that a command has; the generator of the table checks this.
    #[doc(hidden)]
    pub const MOST_RANGES: usize = 3;

    pub(super) const NONE: Keys =
        Keys { ranges: [Range { first: 0, end: 0, step: 1, flags: KeyFlags(0) }; Keys::MOST_RANGES], used: 0 };

    pub(super) fn push(&mut self, first: usize, end: usize, step: usize, flags: KeyFlags) -> Result<(), KeysError> {
        let range = self.ranges.get_mut(self.used).ok_or(KeysError::Unknown)?;
        *range = Range { first, end, step: step.max(1), flags };
        self.used += 1;
        Ok(())
    }

    pub(super) fn push_one(&mut self, index: usize, flags: KeyFlags) -> Result<(), KeysError> {
        self.push(index, index + 1, 1, flags)
    }

    /// Returns the keys one by one.
    pub fn iter(&self) -> impl Iterator<Item = Key> + '_ {
        self.ranges.iter().take(self.used).flat_map(|range| {
            let (access, flags) = (range.flags.access(), range.flags);
            (range.first..range.end).step_by(range.step).map(move |index| Key { index, access, flags })
        })
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.ranges.iter().take(self.used).map(|range| range.end.saturating_sub(range.first).div_ceil(range.step)).sum()
    }

    /// True if there is no key.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the first key.
    pub fn first(&self) -> Option<Key> {
        self.iter().next()
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl KeyFlags {
    fn access(self) -> KeyAccess {
        if self.contains(KeyFlags::RW) {
            KeyAccess::ReadWrite
        } else if self.contains(KeyFlags::OW) {
            KeyAccess::Overwrite
        } else if self.contains(KeyFlags::RM) {
            KeyAccess::Remove
        } else {
            KeyAccess::Read
        }
    }
}

/// Returns an argument that is needed to tell the keys.
pub(super) fn needed<A: Arguments + ?Sized>(arguments: &A, index: usize) -> Result<&[u8], KeysError> {
    if index >= arguments.count() {
        return Err(KeysError::Malformed);
    }
    arguments.argument(index).ok_or(KeysError::Missing(index))
}

/// True if an argument is `word`, in any case. Servers compare options as C strings, so an
/// argument ends at a NUL.
pub(super) fn is_word(argument: &[u8], word: &[u8]) -> bool {
    let Some((head, rest)) = argument.split_at_checked(word.len()) else { return false };
    head.eq_ignore_ascii_case(word) && matches!(rest, [] | [0, ..])
}
