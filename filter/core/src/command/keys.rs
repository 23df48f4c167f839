//! The arguments of a request that are keys.
//!
//! The key specs are the servers' own and are read as servers read them. Where a server executes a
//! command by another grammar than its specs say (XREADGROUP with its options in an unusual order,
//! a repeated STORE), the grammar decides, since a command with an overlooked key would go to the
//! wrong server.

use super::attributes::Flags;
use super::grammar;
use super::key_spec::{
    Arguments, Begin, Extract, Find, KeyCountError, KeyFlags, KeySpec, Keys, KeysError, is_word, needed,
};
use super::row::Command;
use super::{Known, each_command};

/// Calls `each` for each key of the commands in `bytes`, which are arrays of bulk strings.
pub fn each_key(bytes: &[u8], mut each: impl FnMut(&[u8])) {
    each_command(bytes, |args| {
        let keys = Known::of(args).and_then(|known| known.command.keys(args).ok());
        keys.iter().flat_map(Keys::iter).for_each(|key| each(args.get(key.index)));
    });
}

/// Calls `each` for each argument of the commands in `bytes` by which a node of a Redis Cluster tells the
/// slot of the command: its keys, or its shard channels.
pub fn each_of_slot(bytes: &[u8], mut each: impl FnMut(&[u8])) {
    each_command(bytes, |args| {
        let keys = Known::of(args).and_then(|known| match known.command.has_keys() {
            true => known.command.keys(args).ok(),
            false => known.command.keys_by_specs(args, &[]).ok(),
        });
        keys.iter().flat_map(Keys::iter).for_each(|key| each(args.get(key.index)));
    });
}

impl Command {
    /// Returns the arguments that are keys, without channels and without the keys that SORT's
    /// patterns reach ([`Command::patterns`]).
    ///
    /// `self` is the row of the subcommand where there is one. Argument 0 is the command's name.
    pub fn keys<A: Arguments + ?Sized>(&self, arguments: &A) -> Result<Keys, KeysError> {
        if !self.accepts(arguments.count()) {
            return Err(KeysError::Malformed);
        }
        match self.key_specs.extract {
            Extract::Specs => self.keys_by_specs(arguments, &[KeyFlags::NOT_KEY]),
            Extract::Sort => grammar::sort(arguments),
            Extract::GeoRadius => grammar::geo_radius(arguments),
            Extract::Streams => grammar::streams(self, arguments),
            Extract::Migrate => grammar::migrate(arguments),
        }
    }

    /// The number of arguments that have to come behind keys that another argument counts, such as LEFT
    /// or RIGHT behind those of LMPOP.
    pub fn arguments_behind_counted_keys(&self) -> usize {
        let behind = |spec: &KeySpec| match (spec.begin, spec.find) {
            (Begin::Index(begin), Find::KeyNum { first, step: 1, .. }) => {
                let first = usize::try_from(begin).ok()? + usize::try_from(first).ok()?;
                Some(usize::from(self.arity.unsigned_abs()).saturating_sub(first + 1))
            }
            _ => None,
        };
        self.key_specs.specs.iter().find_map(behind).unwrap_or_default()
    }

    /// True if the command can have keys.
    pub fn has_keys(&self) -> bool {
        self.key_specs.specs.iter().any(|spec| !spec.flags.contains(KeyFlags::NOT_KEY))
    }

    fn keys_by_specs<A: Arguments + ?Sized>(&self, arguments: &A, but: &[KeyFlags]) -> Result<Keys, KeysError> {
        let count = arguments.count();
        let mut keys = Keys::NONE;
        for spec in self.key_specs.specs {
            if but.iter().any(|flag| spec.flags.contains(*flag)) {
                continue;
            }
            if spec.flags.contains(KeyFlags::INCOMPLETE) {
                return Err(KeysError::Unknown);
            }
            let begin = match spec.begin {
                Begin::Index(index) => usize::try_from(index).map_err(|_| KeysError::Unknown)?,
                Begin::Keyword(word, from) => match find_keyword(arguments, word, from)? {
                    Some(at) => at + 1,
                    None => continue,
                },
                Begin::Unknown => return Err(KeysError::Unknown),
            };
            let (first, end, step) = match spec.find {
                Find::Range { last, step, limit } => {
                    (begin, range_end(begin, count, last, limit).ok_or(KeysError::Malformed)?, positive(step)?)
                }
                Find::KeyNum { number, first, step } => {
                    let number = key_number(arguments, begin + positive(number)?)?;
                    if number == 0 && !self.flags.contains(Flags::NO_MANDATORY_KEYS) {
                        return Err(KeysError::Count(KeyCountError::TooFew));
                    }
                    let (first, step) = (begin + positive(first)?, positive(step)?);
                    if number == 0 {
                        (first, first, step)
                    } else {
                        let last = (number - 1).checked_mul(step).and_then(|length| length.checked_add(first));
                        (first, last.ok_or(KeysError::Malformed)? + 1, step)
                    }
                }
                Find::Unknown => return Err(KeysError::Unknown),
            };
            if end > count && matches!(spec.find, Find::KeyNum { .. }) {
                return Err(KeysError::Count(KeyCountError::TooMany));
            }
            if end > count || (end == first && matches!(spec.begin, Begin::Keyword(..))) {
                return Err(KeysError::Malformed);
            }
            // The last key of MSET has no value: Redis executes nothing, so no part of it may be sent.
            if end > first && step > 1 && end - 1 - (end - 1 - first) % step + step > count {
                return Err(KeysError::Unpaired);
            }
            keys.push(first, end, step, spec.flags)?;
        }
        Ok(keys)
    }
}

/// Finds a keyword, forwards to the end, or backwards from a place before the end down to argument
/// 2.
fn find_keyword<A: Arguments + ?Sized>(arguments: &A, word: &str, from: i8) -> Result<Option<usize>, KeysError> {
    let count = arguments.count();
    let matches = |index| needed(arguments, index).map(|argument| is_word(argument, word.as_bytes()));
    match usize::try_from(from) {
        Ok(from) => {
            for index in from..count {
                if matches(index)? {
                    return Ok(Some(index));
                }
            }
        }
        Err(_) => {
            let from = count.saturating_sub(usize::from(from.unsigned_abs()));
            for index in (2..=from).rev() {
                if matches(index)? {
                    return Ok(Some(index));
                }
            }
        }
    }
    Ok(None)
}

/// Returns one past the last key of a range, which may be empty only at the end of the arguments
/// (PFMERGE without sources).
fn range_end(first: usize, count: usize, last: i8, limit: i8) -> Option<usize> {
    let end = match (usize::try_from(last), limit) {
        (Ok(last), _) => first + last + 1,
        (Err(_), 0 | 1) => (count + 1).checked_sub(usize::from(last.unsigned_abs()))?,
        (Err(_), _) => {
            let share = count.checked_sub(first)? / usize::try_from(limit).ok()?;
            (first + share + 1).checked_sub(usize::from(last.unsigned_abs()))?
        }
    };
    (end > first || (end == first && first == count)).then_some(end)
}

fn positive(number: i8) -> Result<usize, KeysError> {
    usize::try_from(number).map_err(|_| KeysError::Unknown)
}

/// Reads a number of keys as servers do: decimal digits, no plus, no leading zero.
fn key_number<A: Arguments + ?Sized>(arguments: &A, index: usize) -> Result<usize, KeysError> {
    let text = needed(arguments, index)?;
    let wrong = |what| Err(KeysError::Count(what));
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    let is_zero = digits == b"0" && !is_negative;
    let well_formed = is_zero || matches!(digits, [b'1'..=b'9', ..]) && digits.iter().all(u8::is_ascii_digit);
    let number = digits.iter().try_fold(0i64, |number, digit| {
        let (digit, ten) = (i64::from(digit.wrapping_sub(b'0')), number.checked_mul(10)?);
        // The lowest integer has no positive counterpart.
        if is_negative { ten.checked_sub(digit) } else { ten.checked_add(digit) }
    });
    match number.filter(|_| well_formed) {
        None => wrong(KeyCountError::NotInteger),
        Some(..0) => wrong(KeyCountError::TooFew),
        // This also keeps every later sum small.
        Some(number) => match usize::try_from(number) {
            Ok(number) if number <= arguments.count() => Ok(number),
            _ => wrong(KeyCountError::TooMany),
        },
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::super::{KeyAccess, Known};
    use super::*;

    fn keys(request: &str) -> Result<Vec<usize>, KeysError> {
        let arguments: Vec<&str> = request.split(' ').map(|word| if word == "''" { "" } else { word }).collect();
        let Some(command) = Known::of(&arguments[..]).and_then(Known::row) else { panic!("{request}") };
        let keys = command.keys(&arguments[..])?;
        let found: Vec<usize> = keys.iter().map(|key| key.index).collect();
        assert_eq!(keys.len(), found.len());
        Ok(found)
    }

    #[test]
    fn keys_of_requests() {
        let table: &[(&str, &[usize])] = &[
            ("PING", &[]),
            ("GET k", &[1]),
            ("MGET a b c", &[1, 2, 3]),
            ("MSET a 1 b 2", &[1, 3]),
            ("BLPOP a b 0", &[1, 2]),
            ("OBJECT ENCODING k", &[2]),
            ("BITOP AND d a b", &[2, 3, 4]),
            ("EVAL s 0", &[]),
            ("EVAL s 0 x", &[]),
            ("EVAL s 2 a b c", &[3, 4]),
            ("ZUNION 2 a b WEIGHTS 1 2", &[2, 3]),
            ("ZUNIONSTORE d 2 a b", &[1, 3, 4]),
            ("BLMPOP 0 2 a b LEFT", &[3, 4]),
            ("MSETEX 2 a 1 b 2 NX", &[2, 4]),
            ("PFMERGE d", &[1]),
            ("PFMERGE d a b", &[1, 2, 3]),
            ("PUBLISH c m", &[]),
            ("SPUBLISH c m", &[]),
            ("SSUBSCRIBE c d", &[]),
            ("SORT k", &[1]),
            ("SORT k BY store GET store LIMIT 0 store", &[1]),
            ("SORT k BY w_* GET # STORE d", &[1, 7]),
            ("SORT k STORE get STORE d", &[1, 5]),
            ("SORT_RO k BY x", &[1]),
            ("GEORADIUS k 1 2 3 m", &[1]),
            ("GEORADIUS k 1 2 3 m STORE a STOREDIST b", &[1, 9]),
            ("GEORADIUSBYMEMBER k m 3 m store a", &[1, 6]),
            ("GEORADIUS_RO k 1 2 3 m", &[1]),
            ("XREAD STREAMS a b 0 0", &[2, 3]),
            ("XREAD COUNT 1 BLOCK 5 streams a 0", &[6]),
            ("XREADGROUP GROUP streams streams STREAMS a >", &[5]),
            ("XREADGROUP COUNT 1 GROUP STREAMS x NOACK STREAMS k id", &[8]),
            ("MIGRATE h 1 k 0 5", &[3]),
            ("MIGRATE h 1 '' 0 5 AUTH keys KEYS a b", &[9, 10]),
            ("MIGRATE h 1 '' 0 5 AUTH2 keys keys KEYS a", &[10]),
            ("MEMORY USAGE k", &[2]),
            ("XGROUP CREATE k g 0", &[2]),
            ("LCS a b", &[1, 2]),
        ];
        for (request, expected) in table {
            assert_eq!(keys(request).as_deref(), Ok(*expected), "{request}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_an_error() {
        for request in [
            "GET",
            "GET a b",
            "SORT k STORE",
            "GEORADIUS k 1 2 3 m STORE",
            "XREAD COUNT 1 STREAMS",
            "XREAD STREAMS a b 0",
            "XREAD nonsense STREAMS a 0",
            "MIGRATE h 1 k 0 5 KEYS a",
            "MIGRATE h 1 '' 0 5 KEYS",
        ] {
            assert_eq!(keys(request), Err(KeysError::Malformed), "{request}");
        }
        use KeyCountError::{NotInteger, TooFew, TooMany};
        for (request, what) in [
            ("EVAL s 2 a", TooMany),
            ("EVAL s -1 a", TooFew),
            ("EVAL s -0 a", NotInteger),
            ("EVAL s 01 a", NotInteger),
            ("EVAL s +1 a", NotInteger),
            ("EVAL s x a", NotInteger),
            ("EVAL s - a", NotInteger),
            ("EVAL s '' a", NotInteger),
            ("EVAL s 9223372036854775807 a", TooMany),
            ("EVAL s 9223372036854775808 a", NotInteger),
            ("EVAL s -9223372036854775808 a", TooFew),
            ("EVAL s -9223372036854775809 a", NotInteger),
            ("EVAL s 4294967295 a", TooMany),
            ("ZUNION 0 a", TooFew),
            ("ZUNION 3 a b", TooMany),
        ] {
            assert_eq!(keys(request), Err(KeysError::Count(what)), "{request}");
        }
        for request in ["MSET a 1 b", "MSET a 1 b 2 c", "MSETNX a 1 b", "MSETEX 2 a 1 b"] {
            assert_eq!(keys(request), Err(KeysError::Unpaired), "{request}");
        }
    }

    #[test]
    fn arguments_may_still_be_arriving() {
        struct Partial<'a>(&'a [&'a str], usize);
        impl Arguments for Partial<'_> {
            fn count(&self) -> usize {
                self.1
            }
            fn argument(&self, index: usize) -> Option<&[u8]> {
                self.0.get(index).map(|argument| argument.as_bytes())
            }
        }
        let keys = |there: &[&str], count| {
            let arguments = Partial(there, count);
            let Some(command) = Known::of(&arguments).and_then(Known::row) else { panic!() };
            command.keys(&arguments).map(|keys| keys.iter().map(|key| key.index).collect::<Vec<_>>())
        };
        assert_eq!(keys(&["set", "k"], 3), Ok(vec![1]));
        assert_eq!(keys(&["eval", "s"], 5), Err(KeysError::Missing(2)));
        assert_eq!(keys(&["eval", "s", "1"], 5), Ok(vec![3]));
        assert_eq!(keys(&["sort", "k"], 5), Err(KeysError::Missing(2)));
    }

    #[test]
    fn access_is_known() {
        let access = |request: &str| {
            let arguments: Vec<&str> = request.split(' ').collect();
            let Some(command) = Known::of(&arguments[..]).and_then(Known::row) else { panic!() };
            command.keys(&arguments[..]).unwrap().iter().map(|key| key.access).collect::<Vec<_>>()
        };
        assert_eq!(access("GET k"), [KeyAccess::Read]);
        assert_eq!(access("DEL k"), [KeyAccess::Remove]);
        assert_eq!(access("INCR k"), [KeyAccess::ReadWrite]);
        assert_eq!(access("SDIFFSTORE d a"), [KeyAccess::Overwrite, KeyAccess::Read]);
    }
}
