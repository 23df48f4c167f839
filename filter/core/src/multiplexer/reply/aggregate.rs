//! One reply out of the replies of several: to the parts of a command whose keys belong to several places, and to a command
//! that concerns all of them.

use crate::command::Split;
use crate::multiplexer::reply::key_names::KeyNames;
use crate::resp::elements::Elements;
use crate::resp::encode;
use crate::resp::value::Value;

/// RequestPolicy replies become one. Where a part fails, all has failed, but for [`ResponsePolicy::Any`].
#[derive(Debug)]
pub enum ResponsePolicy {
    /// The sum of integers.
    Sum,
    /// The first one: they are all the same.
    Same,
    /// Values in the order of the keys: for each key, which part has it.
    Keys(Vec<usize>),
    /// The least integer, also each for itself in arrays of one length (WAITAOF).
    Least,
    /// The same for what is true everywhere (SCRIPT EXISTS).
    All,
    /// The same for sums, where a name stands before each integer (PUBSUB NUMSUB).
    SumPairs,
    /// The first one that is no error.
    Any,
    /// All elements of all arrays, each once.
    Union,
    /// All texts, one after the other (CLIENT LIST).
    Text,
    /// KeyNames of keys, as clients know them (KEYS).
    KeyNames(Box<KeyNames>),
    /// KeyNames of keys after a cursor, of which the parts before are none (SCAN).
    Scan(Box<KeyNames>),
    /// One of the names, if any (RANDOMKEY).
    Random(Box<KeyNames>),
    /// Servers' answers to a login, and what a client gets where it is let in, if that isn't what they say (HELLO).
    Login(Option<Vec<u8>>),
    /// The first one, without what it says of being a node of a Redis Cluster (INFO).
    Standalone,
}

/// What becomes of a command in parts.
#[derive(Debug)]
pub struct Aggregation {
    combine: ResponsePolicy,
    replies: Vec<Option<Vec<u8>>>,
    resp3: bool,
}

impl Aggregation {
    /// Of so many parts.
    pub fn new(combine: ResponsePolicy, parts: usize, resp3: bool) -> Aggregation {
        Aggregation { combine, replies: vec![None; parts], resp3 }
    }

    /// Of a command whose keys, in their order, belong to these of `parts` parts.
    pub fn of_keys(split: Split, owners: Vec<usize>, parts: usize, resp3: bool) -> Aggregation {
        let combine = match split {
            Split::Sum => ResponsePolicy::Sum,
            Split::Array => ResponsePolicy::Keys(owners),
            Split::Ok | Split::No => ResponsePolicy::Same,
        };
        Aggregation::new(combine, parts, resp3)
    }

    /// RequestPolicy many parts there are.
    pub fn parts(&self) -> u32 {
        self.replies.len() as u32
    }

    /// A part's reply; the whole reply when it was the last one.
    pub fn part(&mut self, part: usize, reply: Vec<u8>) -> Option<Vec<u8>> {
        *self.replies.get_mut(part)? = Some(reply);
        if self.replies.iter().any(Option::is_none) {
            return None;
        }
        let replies: Vec<Vec<u8>> = self.replies.iter_mut().filter_map(Option::take).collect();
        let is_error = |reply: &&Vec<u8>| matches!(reply.first(), Some(b'-' | b'!'));
        if let ResponsePolicy::Any = self.combine {
            let found = replies.iter().find(|reply| !is_error(reply)).or(replies.first());
            return Some(found.cloned().unwrap_or_default());
        }
        if let ResponsePolicy::Login(hello) = &self.combine {
            return Some(crate::multiplexer::execute::login::combine(&replies, hello.as_ref()).unwrap_or_default());
        }
        // What failed for some has failed.
        if let Some(error) = replies.iter().find(is_error) {
            return Some(error.clone());
        }
        let combined = match &self.combine {
            ResponsePolicy::Same | ResponsePolicy::Any | ResponsePolicy::Login(_) => replies.first().cloned(),
            ResponsePolicy::Keys(owners) => keys(owners, &replies),
            ResponsePolicy::Sum => numbers(&replies, |a, b| a.saturating_add(b)),
            ResponsePolicy::Least => numbers(&replies, i64::min),
            ResponsePolicy::All => numbers(&replies, |a, b| i64::from(a != 0 && b != 0)),
            ResponsePolicy::SumPairs => numbers(&replies, |a, b| a.saturating_add(b)),
            ResponsePolicy::Union => union(&replies),
            ResponsePolicy::Text => text(&replies, self.resp3),
            ResponsePolicy::KeyNames(names) => names.keys(&replies),
            ResponsePolicy::Scan(names) => names.scan(&replies),
            ResponsePolicy::Random(names) => names.one(&replies, self.resp3),
            ResponsePolicy::Standalone => {
                replies.first().map(|reply| crate::downstream::server_info::standalone(reply))
            }
        };
        Some(
            combined
                .unwrap_or_else(|| b"-ERR redis-mesh: the answers of several servers don't fit together\r\n".to_vec()),
        )
    }
}

fn keys(owners: &[usize], replies: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut elements: Vec<Elements<'_>> = replies.iter().map(|reply| Elements::of(reply)).collect();
    let mut out = Vec::with_capacity(replies.iter().map(Vec::len).sum());
    encode::array(&mut out, owners.len());
    for owner in owners {
        out.extend_from_slice(elements.get_mut(*owner)?.next()?);
    }
    Some(out)
}

/// Integers, or arrays of them and of names that are the same in all.
fn numbers(replies: &[Vec<u8>], combine: impl Fn(i64, i64) -> i64) -> Option<Vec<u8>> {
    fn fold<'a>(a: Value<'a>, b: Value<'a>, combine: &impl Fn(i64, i64) -> i64) -> Option<Value<'a>> {
        match (a, b) {
            (Value::Integer(a), Value::Integer(b)) => Some(Value::Integer(combine(a, b))),
            (Value::Text(a), Value::Text(b)) if a == b => Some(Value::Text(a)),
            (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
                let pairs = a.into_iter().zip(b).map(|(a, b)| fold(a, b, combine));
                pairs.collect::<Option<Vec<_>>>().map(Value::Array)
            }
            _ => None,
        }
    }
    let mut values = replies.iter().map(|reply| Value::parse(reply));
    let first = values.next()??;
    let folded = values.try_fold(first, |folded, value| fold(folded, value?, &combine))?;
    let mut out = Vec::new();
    write(&folded, &mut out)?;
    Some(out)
}

fn write(value: &Value<'_>, out: &mut Vec<u8>) -> Option<()> {
    match value {
        Value::Integer(number) => {
            out.extend_from_slice(format!(":{number}\r\n").as_bytes());
            Some(())
        }
        Value::Text(text) => {
            encode::bulk(out, text);
            Some(())
        }
        Value::Array(elements) => {
            encode::array(out, elements.len());
            elements.iter().try_for_each(|element| write(element, out))
        }
        Value::Error(_) | Value::Null => None,
    }
}

fn union(replies: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut all: Vec<&[u8]> = Vec::new();
    for reply in replies {
        all.extend(Elements::of(reply));
    }
    all.sort_unstable();
    all.dedup();
    let mut out = Vec::new();
    let kind = *replies.first()?.first()?;
    encode::header(&mut out, kind, all.len() as u64);
    out.extend(all.concat());
    Some(out)
}

fn text(replies: &[Vec<u8>], resp3: bool) -> Option<Vec<u8>> {
    let mut all = String::new();
    for reply in replies {
        all.push_str(&String::from_utf8_lossy(Value::parse(reply)?.text()?));
    }
    let mut out = Vec::new();
    encode::text(&mut out, resp3, &all);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(combine: ResponsePolicy, replies: &[&[u8]]) -> String {
        let mut merge = Aggregation::new(combine, replies.len(), false);
        let mut whole = None;
        // The last part first: in which order they come doesn't matter.
        for (part, reply) in replies.iter().enumerate().rev() {
            assert!(whole.is_none());
            whole = merge.part(part, reply.to_vec());
        }
        String::from_utf8_lossy(&whole.unwrap()).replace("\r\n", " ")
    }

    #[test]
    fn parts_become_one_reply() {
        assert_eq!(merged(ResponsePolicy::Sum, &[b":2\r\n", b":0\r\n", b":1\r\n"]), ":3 ");
        assert_eq!(merged(ResponsePolicy::Same, &[b"+OK\r\n", b"+OK\r\n"]), "+OK ");
        let arrays: &[&[u8]] = &[b"*2\r\n$1\r\na\r\n$-1\r\n", b"*1\r\n_\r\n"];
        assert_eq!(merged(ResponsePolicy::Keys(vec![0, 1, 0]), arrays), "*3 $1 a _ $-1 ");
        assert_eq!(merged(ResponsePolicy::All, &[b"*2\r\n:1\r\n:0\r\n", b"*2\r\n:1\r\n:1\r\n"]), "*2 :1 :0 ");
        assert_eq!(merged(ResponsePolicy::Least, &[b":2\r\n", b":1\r\n"]), ":1 ");
        let pairs: &[&[u8]] = &[b"*2\r\n$1\r\na\r\n:1\r\n", b"*2\r\n$1\r\na\r\n:2\r\n"];
        assert_eq!(merged(ResponsePolicy::SumPairs, pairs), "*2 $1 a :3 ");
        let sets: &[&[u8]] = &[b"*2\r\n$1\r\na\r\n$1\r\nb\r\n", b"*1\r\n$1\r\nb\r\n", b"*0\r\n"];
        assert_eq!(merged(ResponsePolicy::Union, sets), "*2 $1 a $1 b ");
        assert_eq!(merged(ResponsePolicy::Text, &[b"$1\r\na\r\n", b"=6\r\ntxt:b \r\n"]), "$3 ab  ");
        assert_eq!(merged(ResponsePolicy::Any, &[b"-NOTBUSY x\r\n", b"+OK\r\n"]), "+OK ");
        assert_eq!(merged(ResponsePolicy::Any, &[b"-NOTBUSY x\r\n", b"-NOTBUSY y\r\n"]), "-NOTBUSY x ");
    }

    #[test]
    fn a_part_that_fails_fails_all() {
        assert_eq!(merged(ResponsePolicy::Sum, &[b":2\r\n", b"-READONLY x\r\n"]), "-READONLY x ");
        assert!(merged(ResponsePolicy::Sum, &[b":2\r\n", b"+OK\r\n"]).contains("don't fit together"));
        assert!(merged(ResponsePolicy::Keys(vec![0, 0, 1]), &[b"*1\r\n:1\r\n", b"*1\r\n:1\r\n"]).contains("don't fit"));
    }
}
