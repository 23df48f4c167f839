//! How long commands that block wait, which they say themselves.

use super::key_spec::is_word;
use super::{Args, Known, each_command};
use crate::resp::encode;
use std::time::Duration;

/// Where a command says how long it waits.
#[derive(Clone, Copy)]
enum TimePlace {
    /// Its last argument, in seconds.
    Last,
    /// Its first argument, in seconds.
    First,
    /// The argument behind BLOCK, in milliseconds.
    Option,
}

/// The commands that wait for keys, with the place of the time.
const PLACES: [(&str, TimePlace); 10] = [
    ("blmove", TimePlace::Last),
    ("blmpop", TimePlace::First),
    ("blpop", TimePlace::Last),
    ("brpop", TimePlace::Last),
    ("brpoplpush", TimePlace::Last),
    ("bzmpop", TimePlace::First),
    ("bzpopmax", TimePlace::Last),
    ("bzpopmin", TimePlace::Last),
    ("xread", TimePlace::Option),
    ("xreadgroup", TimePlace::Option),
];

/// The command in RESP with the rest of its time, when it has waited for so long. `None`: it has none,
/// or waits for ever. What is left is a millisecond at least, since zero stands for ever.
pub fn with_rest_of_time(command: &[u8], waited: Duration) -> Option<Vec<u8>> {
    let mut shortened = None;
    each_command(command, |args| shortened = shortened.take().or_else(|| shorten(args, waited)));
    shortened
}

fn shorten(args: &Args<'_>, waited: Duration) -> Option<Vec<u8>> {
    let name = Known::of(args)?.command.name;
    let (_, place) = PLACES.iter().find(|(known, _)| *known == name)?;
    let (index, unit) = match place {
        TimePlace::Last => (args.count.checked_sub(1)?, 1.0),
        TimePlace::First => (1, 1.0),
        TimePlace::Option => ((1..args.count).find(|index| is_word(args.get(*index), b"block"))? + 1, 1000.0),
    };
    let time: f64 = std::str::from_utf8(args.get(index)).ok()?.parse().ok()?;
    if !time.is_finite() || time <= 0.0 {
        return None;
    }
    let rest = (time / unit - waited.as_secs_f64()).max(0.001);
    let rest = match place {
        TimePlace::Option => format!("{:.0}", (rest * unit).ceil()),
        TimePlace::Last | TimePlace::First => format!("{rest:.3}"),
    };
    let mut words: Vec<&[u8]> = (0..args.count).map(|index| args.get(index)).collect();
    *words.get_mut(index)? = rest.as_bytes();
    let mut out = Vec::new();
    encode::command(&mut out, &words);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::super::{Flags, all};
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn what_is_left_is_what_was_said_without_what_has_passed() {
        for (line, rest) in [
            ("BLPOP a b 10", Some("BLPOP a b 7.500")),
            ("blpop a 2.5", Some("blpop a 0.001")),
            ("BRPOP a 1", Some("BRPOP a 0.001")),
            ("BLPOP a 0", None),
            ("BLPOP a -1", None),
            ("BLPOP a x", None),
            ("BLPOP a inf", None),
            ("BLPOP a 1e3", Some("BLPOP a 997.500")),
            ("BLMOVE a b LEFT LEFT 3", Some("BLMOVE a b LEFT LEFT 0.500")),
            ("BZMPOP 4 1 a MIN", Some("BZMPOP 1.500 1 a MIN")),
            ("XREAD COUNT 1 BLOCK 5000 STREAMS block $", Some("XREAD COUNT 1 BLOCK 2500 STREAMS block $")),
            ("XREAD BLOCK 0 STREAMS s $", None),
            ("XREAD COUNT 1 STREAMS s 0", None),
            ("XREADGROUP GROUP g c BLOCK 1 STREAMS s >", Some("XREADGROUP GROUP g c BLOCK 1 STREAMS s >")),
            ("GET a", None),
        ] {
            let encoded = |line: &str| {
                let mut out = Vec::new();
                encode::command(&mut out, &line.split(' ').map(str::as_bytes).collect::<Vec<_>>());
                out
            };
            assert_eq!(with_rest_of_time(&encoded(line), Duration::from_millis(2500)), rest.map(encoded), "{line}");
        }
    }

    #[test]
    fn every_command_that_blocks_for_a_key_is_known() {
        for command in all().iter().filter(|command| command.flags.contains(Flags::BLOCKING) && command.has_keys()) {
            assert!(PLACES.iter().any(|(name, _)| *name == command.name), "{}", command.name);
        }
    }
}
