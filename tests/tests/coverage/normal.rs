//! Replies that differ from one time to the next, and how they are compared.

use redis_mesh_tests::reply::Reply;

use crate::facts::named;
use crate::lane::Answer;

/// The comparison of replies that differ from one time to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Normal {
    /// Numbers are ignored.
    Numbers,
    /// Integers may differ a little.
    Near,
    /// The order of elements is ignored.
    Unordered,
    /// Texts and numbers don't count, only how many there are of what.
    Shape,
    /// Of texts with a field in each line the names count.
    Names,
    /// Only the type is compared.
    Type,
}

/// Commands, how their replies are compared, and why.
const NORMALS: &[(&str, Normal, &str)] = &[
    ("time", Normal::Numbers, "time passes"),
    ("ttl pttl httl hpttl lastsave", Normal::Near, "time passes"),
    ("xpending xinfo|consumers xinfo|stream object|idletime", Normal::Numbers, "time passes"),
    ("client|id client|info hello", Normal::Numbers, "every connection has a number, and an age"),
    ("client|list", Normal::Type, "connections come and go"),
    ("info", Normal::Names, "it counts, and time passes"),
    ("memory|stats memory|malloc-stats memory|doctor memory|usage", Normal::Type, "memory comes and goes"),
    ("role", Normal::Numbers, "it counts what goes to replicas"),
    ("debug", Normal::Numbers, "it tells addresses"),
    ("randomkey srandmember hrandfield zrandmember spop", Normal::Shape, "it is random"),
    ("acl|genpass", Normal::Shape, "it is random"),
    ("lolwut", Normal::Type, "it is random"),
    ("xadd", Normal::Numbers, "the time is in an id"),
    ("latency|histogram", Normal::Type, "it measures"),
    ("keys scan sscan smembers sinter sunion sdiff hgetall hkeys hvals", Normal::Unordered, "there is no order"),
];

/// Whether two answers are the same under the comparison of their command.
pub fn same(command: &str, expected: &[Answer], answers: &[Answer]) -> bool {
    let normal = NORMALS.iter().find(|(names, ..)| named(names, command)).map(|(_, normal, _)| *normal);
    let same = |pair: (&Answer, &Answer)| match (normal, pair) {
        (Some(normal), (Answer::Reply(a), Answer::Reply(b))) => a == b || alike(normal, a, b),
        (_, (a, b)) => a == b,
    };
    expected.len() == answers.len() && expected.iter().zip(answers).all(same)
}

fn alike(normal: Normal, a: &Reply, b: &Reply) -> bool {
    if std::mem::discriminant(a) != std::mem::discriminant(b) {
        return false;
    }
    if a.is_error() {
        return a == b;
    }
    match (normal, a, b) {
        (Normal::Near, Reply::Integer(a), Reply::Integer(b)) => (a - b).abs() <= 300_000,
        (Normal::Unordered, Reply::Array(a) | Reply::Set(a), Reply::Array(b) | Reply::Set(b)) => {
            let sorted = |items: &[Reply]| {
                let mut items: Vec<Vec<u8>> = items.iter().map(|item| sorted(item).encode()).collect();
                items.sort();
                items
            };
            sorted(a) == sorted(b)
        }
        (Normal::Type, Reply::Array(a), Reply::Array(b)) => {
            a.iter().zip(b).all(|(a, b)| std::mem::discriminant(a) == std::mem::discriminant(b))
        }
        (Normal::Type, ..) => true,
        (_, Reply::Array(a) | Reply::Set(a) | Reply::Push(a), Reply::Array(b) | Reply::Set(b) | Reply::Push(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a == b || alike(normal, a, b))
        }
        (_, Reply::Map(a), Reply::Map(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.0 == b.0 && (a.1 == b.1 || alike(normal, &a.1, &b.1)))
        }
        (Normal::Numbers, ..) => without_numbers(&a.encode()) == without_numbers(&b.encode()),
        (Normal::Names, ..) => names(&a.text()) == names(&b.text()),
        (Normal::Shape, ..) => true,
        _ => a == b,
    }
}

fn sorted(reply: &Reply) -> Reply {
    match reply {
        Reply::Array(items) => {
            let mut items: Vec<Reply> = items.iter().map(sorted).collect();
            items.sort_by_key(Reply::encode);
            Reply::Array(items)
        }
        Reply::Set(items) => match sorted(&Reply::Array(items.clone())) {
            Reply::Array(items) => Reply::Set(items),
            other => other,
        },
        other => other.clone(),
    }
}

/// Numbers, in whatever base, are one; so is the length before a text that has some.
fn without_numbers(wire: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(wire);
    let body = text.split_once("\r\n").filter(|_| wire.starts_with(b"$") || wire.starts_with(b"="));
    let body = body.map_or(&*text, |(_, body)| body);
    let words = body.split(|c: char| !c.is_ascii_alphanumeric() && c != '.');
    let is_number = |word: &str| word.starts_with(|c: char| c.is_ascii_digit());
    words.map(|word| if is_number(word) { "0".to_owned() } else { word.to_owned() }).collect()
}

fn names(text: &str) -> Vec<&str> {
    text.lines().map(|line| line.split(':').next().unwrap_or(line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command: &str, a: &str, b: &str, expected: bool) {
        let answer = |wire: &str| vec![Answer::Reply(Reply::read(&mut wire.as_bytes()).unwrap())];
        assert_eq!(same(command, &answer(a), &answer(b)), expected);
    }

    #[test]
    fn only_what_changes_may_differ() {
        check("get", "$1\r\na\r\n", "$1\r\nb\r\n", false);
        check("ttl", ":1000\r\n", ":999\r\n", true);
        check("ttl", ":1000000\r\n", ":-1\r\n", false);
        check("ttl", ":-2\r\n", "$-1\r\n", false);
        check("keys", "*2\r\n+a\r\n+b\r\n", "*2\r\n+b\r\n+a\r\n", true);
        check("keys", "*2\r\n+a\r\n+b\r\n", "*2\r\n+b\r\n+b\r\n", false);
        check("spop", "*1\r\n+a\r\n", "*1\r\n+b\r\n", true);
        check("spop", "*1\r\n+a\r\n", "*0\r\n", false);
        check("xadd", "$3\r\n1-0\r\n", "$4\r\n12-0\r\n", true);
        check("xadd", "-ERR 1\r\n", "-ERR 2\r\n", false);
        check("info", "$5\r\na:1\r\n\r\n", "$5\r\nb:1\r\n\r\n", false);
    }
}
