//! The aggregation of several replies into one: of the replies to the parts of a command whose
//! keys have several targets, and of the replies to a command that was sent to several servers (a
//! fan-out).

use crate::command::Split;
use crate::downstream::auth::has_no_password;
use crate::downstream::server_info::standalone;
use crate::multiplexer::reply::key_names::KeyNames;
use crate::resp::elements::Elements;
use crate::resp::encode;
use crate::resp::value::Value;

/// The way in which several replies become one, after the response policies of Redis
/// (<https://redis.io/docs/latest/develop/reference/command-tips/#response_policy>).
///
/// If one of the replies is an error, so is the whole, except with [`ResponsePolicy::Any`] and
/// [`ResponsePolicy::Login`].
#[derive(Debug)]
pub enum ResponsePolicy {
    /// The sum of integers (`agg_sum`).
    Sum,
    /// The first reply, since all of them are the same (`all_succeeded`).
    Same,
    /// The elements of arrays in the order of the command's keys. For each key, the number of the
    /// part that contains it.
    Keys(Vec<usize>),
    /// The least of the integers (`agg_min`); of arrays, the least for each position (WAITAOF).
    Least,
    /// The logical AND of the integers 0 and 1 (`agg_logical_and`); of arrays, for each position
    /// (SCRIPT EXISTS).
    All,
    /// Arrays in which names and integers alternate, with the sum of the integers of each name
    /// (PUBSUB NUMSUB).
    SumPairs,
    /// The first reply that isn't an error, or the first error if there is none
    /// (`one_succeeded`).
    Any,
    /// The elements of all arrays, each of them once (PUBSUB CHANNELS).
    Union,
    /// The keys in all arrays, by the names that the client has for them (KEYS).
    KeyNames(Box<KeyNames>),
    /// The cursor and the keys of one server, by the names that the client has for them (SCAN).
    Scan(Box<KeyNames>),
    /// One of the keys, by the name that the client has for it, or null (RANDOMKEY).
    Random(Box<KeyNames>),
    /// The replies of servers to a login. If the client is let in, it gets the given reply
    /// (HELLO), or that of a server if none is given (AUTH).
    Login(Option<Vec<u8>>),
    /// The first reply, as a Redis would give it that is no node of a Redis Cluster (INFO).
    Standalone,
}

/// The replies to one command that have arrived so far, and the policy that makes one of them.
#[derive(Debug)]
pub struct Aggregation {
    policy: ResponsePolicy,
    /// The reply to each part; absent while it is outstanding.
    replies: Vec<Option<Vec<u8>>>,
    /// How many of them are outstanding.
    outstanding: usize,
    /// Bytes of those that have arrived.
    held: usize,
    resp3: bool,
}

impl Aggregation {
    /// Returns an aggregation of `parts` replies.
    pub fn new(policy: ResponsePolicy, parts: usize, resp3: bool) -> Aggregation {
        Aggregation { policy, replies: vec![None; parts], outstanding: parts, held: 0, resp3 }
    }

    /// Returns the aggregation for a command that was split by its keys. `owners` holds for each
    /// key, in the order of the command, the number of the part that contains it.
    pub fn of_keys(split: Split, owners: Vec<usize>, parts: usize, resp3: bool) -> Aggregation {
        let policy = match split {
            Split::Sum => ResponsePolicy::Sum,
            Split::Array => ResponsePolicy::Keys(owners),
            Split::Ok | Split::No => ResponsePolicy::Same,
        };
        Aggregation::new(policy, parts, resp3)
    }

    /// Returns the number of replies, whether they have arrived or not.
    pub fn parts(&self) -> u32 {
        self.replies.len() as u32
    }

    /// Returns the number of bytes of the replies that have arrived.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes the complete reply to one part. Returns the aggregated reply if it was the last one.
    pub fn part(&mut self, part: usize, reply: Vec<u8>) -> Option<Vec<u8>> {
        let place = self.replies.get_mut(part)?;
        self.held += reply.len();
        match place.replace(reply) {
            Some(before) => self.held -= before.len(),
            None => self.outstanding -= 1,
        }
        if self.outstanding > 0 {
            return None;
        }
        self.held = 0;
        let replies: Vec<Vec<u8>> = self.replies.iter_mut().filter_map(Option::take).collect();
        Some(
            self.aggregate(&replies)
                .unwrap_or_else(|| b"-ERR redis-mesh: the answers of several servers don't fit together\r\n".to_vec()),
        )
    }

    /// Returns the aggregated reply, or nothing if the replies aren't of the type that the policy
    /// needs.
    fn aggregate(&self, replies: &[Vec<u8>]) -> Option<Vec<u8>> {
        let is_error = |reply: &&Vec<u8>| matches!(reply.first(), Some(b'-' | b'!'));
        let error = replies.iter().find(is_error);
        match &self.policy {
            ResponsePolicy::Any => {
                let found = replies.iter().find(|reply| !is_error(reply)).or(replies.first());
                Some(found.cloned().unwrap_or_default())
            }
            ResponsePolicy::Login(hello) => Some(login(replies, hello.as_ref()).unwrap_or_default()),
            // A command that has failed at one server has failed.
            _ if error.is_some() => error.cloned(),
            ResponsePolicy::Same => replies.first().cloned(),
            ResponsePolicy::Keys(owners) => by_key(owners, replies),
            ResponsePolicy::Sum | ResponsePolicy::SumPairs => fold(replies, i64::saturating_add),
            ResponsePolicy::Least => fold(replies, i64::min),
            ResponsePolicy::All => fold(replies, |a, b| i64::from(a != 0 && b != 0)),
            ResponsePolicy::Union => union(replies),
            ResponsePolicy::KeyNames(key_names) => key_names.keys(replies),
            ResponsePolicy::Scan(key_names) => key_names.scan(replies),
            ResponsePolicy::Random(key_names) => key_names.one(replies, self.resp3),
            ResponsePolicy::Standalone => replies.first().map(|reply| standalone(reply)),
        }
    }
}

/// Returns an array with an element for each key, taken from the array of the part that contains
/// it.
fn by_key(owners: &[usize], replies: &[Vec<u8>]) -> Option<Vec<u8>> {
    let mut elements: Vec<Elements<'_>> = replies.iter().map(|reply| Elements::of(reply)).collect();
    let mut out = Vec::with_capacity(replies.iter().map(Vec::len).sum());
    encode::array(&mut out, owners.len());
    for owner in owners {
        out.extend_from_slice(elements.get_mut(*owner)?.next()?);
    }
    Some(out)
}

/// Folds integers with `fold`, or arrays of one length element by element. Texts have to be the
/// same in all replies.
fn fold(replies: &[Vec<u8>], fold: impl Fn(i64, i64) -> i64) -> Option<Vec<u8>> {
    let mut values = replies.iter().map(|reply| Value::parse(reply));
    let first = values.next()??;
    let folded = values.try_fold(first, |folded, value| fold_values(folded, value?, &fold))?;
    let mut out = Vec::new();
    write(&folded, &mut out)?;
    Some(out)
}

fn fold_values<'a>(a: Value<'a>, b: Value<'a>, fold: &impl Fn(i64, i64) -> i64) -> Option<Value<'a>> {
    match (a, b) {
        (Value::Integer(a), Value::Integer(b)) => Some(Value::Integer(fold(a, b))),
        (Value::Text(a), Value::Text(b)) if a == b => Some(Value::Text(a)),
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let pairs = a.into_iter().zip(b).map(|(a, b)| fold_values(a, b, fold));
            pairs.collect::<Option<Vec<_>>>().map(Value::Array)
        }
        _ => None,
    }
}

/// Writes what [`fold`] gives; errors and null have no place in it.
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

/// Returns the elements of all arrays in bytewise order, each of them once. The type, array or
/// set, is that of the first reply.
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

/// Returns the answer of several servers to a login: all that ask for one have to let the client
/// in. `hello` is what a client that is let in gets in place of the server's reply.
fn login(replies: &[Vec<u8>], hello: Option<&Vec<u8>>) -> Option<Vec<u8>> {
    let refusal = |reply: &&Vec<u8>| reply.first() == Some(&b'-') && !has_no_password(reply);
    if let Some(refusal) = replies.iter().find(refusal) {
        return Some(refusal.clone());
    }
    let accepted = replies.iter().find(|reply| reply.first() != Some(&b'-'));
    accepted.map(|reply| hello.unwrap_or(reply)).or(replies.first()).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::multiplexer::config::ListenerConfig;
    use crate::multiplexer::reply::scan_cursor::ScanPosition;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn aggregated(policy: ResponsePolicy, replies: &[&str]) -> String {
        aggregated_in(false, policy, replies)
    }

    /// Aggregates replies in which a space stands for CRLF.
    fn aggregated_in(resp3: bool, policy: ResponsePolicy, replies: &[&str]) -> String {
        let mut aggregation = Aggregation::new(policy, replies.len(), resp3);
        assert_eq!(aggregation.parts() as usize, replies.len());
        let mut whole = None;
        // The last part comes first: the order of arrival doesn't matter.
        for (part, reply) in replies.iter().enumerate().rev() {
            assert!(whole.is_none());
            whole = aggregation.part(part, reply.replace(' ', "\r\n").into_bytes());
        }
        String::from_utf8_lossy(&whole.unwrap()).replace("\r\n", " ")
    }

    const MISFIT: &str = "-ERR redis-mesh: the answers of several servers don't fit together ";

    /// Two servers: keys at the first are known to clients with `a:` before them.
    fn key_names(targets: &[usize], pattern: Option<&[u8]>) -> Box<KeyNames> {
        let document = serde_json::json!({"name": "n", "revision": 1, "hosts": [{
            "host": "h:6379", "path": "native",
            "targets": [
                {"destination": "a:6379", "upstream": {"cluster": "a"}},
                {"destination": "b:6379", "upstream": {"cluster": "b"}},
            ],
            "routes": [
                {"match": {"prefix": "a:"}, "target": 0, "removePrefix": true},
                {"match": "any", "target": 1},
            ],
        }]});
        let config = ListenerConfig::from_json(document.to_string().as_bytes()).unwrap().host;
        Box::new(KeyNames::new(config, targets.to_vec(), pattern.map(<[u8]>::to_vec), ScanPosition::default()))
    }

    #[test]
    fn sum() {
        assert_eq!(aggregated(ResponsePolicy::Sum, &[":2 ", ":0 ", ":1 "]), ":3 ");
        assert_eq!(aggregated(ResponsePolicy::Sum, &[":7 "]), ":7 ");
        let large = format!(":{} ", i64::MAX);
        assert_eq!(aggregated(ResponsePolicy::Sum, &[&large, ":1 "]), large);
        for misfit in ["+OK ", "_ ", "*1 :1 ", "$1 1 ", ":x ", ""] {
            assert_eq!(aggregated(ResponsePolicy::Sum, &[":2 ", misfit]), MISFIT, "{misfit}");
        }
    }

    #[test]
    fn same() {
        assert_eq!(aggregated(ResponsePolicy::Same, &["+OK ", "+OK "]), "+OK ");
        assert_eq!(aggregated(ResponsePolicy::Same, &["+1 ", "+2 "]), "+1 ");
    }

    #[test]
    fn keys() {
        let arrays = ["*2 $1 a $-1 ", "*1 _ "];
        assert_eq!(aggregated(ResponsePolicy::Keys(vec![0, 1, 0]), &arrays), "*3 $1 a _ $-1 ");
        assert_eq!(aggregated(ResponsePolicy::Keys(vec![1, 0]), &arrays), "*2 _ $1 a ");
        // An array is too short, isn't there, or is none.
        assert_eq!(aggregated(ResponsePolicy::Keys(vec![0, 0, 1]), &["*1 :1 ", "*1 :1 "]), MISFIT);
        assert_eq!(aggregated(ResponsePolicy::Keys(vec![0, 2]), &["*1 :1 ", "*1 :1 "]), MISFIT);
        assert_eq!(aggregated(ResponsePolicy::Keys(vec![0, 1]), &["*1 :1 ", ":1 "]), MISFIT);
    }

    #[test]
    fn least() {
        assert_eq!(aggregated(ResponsePolicy::Least, &[":2 ", ":1 "]), ":1 ");
        assert_eq!(aggregated(ResponsePolicy::Least, &["*2 :1 :0 ", "*2 :0 :-3 "]), "*2 :0 :-3 ");
        assert_eq!(aggregated(ResponsePolicy::Least, &["*2 :1 :0 ", "*1 :0 "]), MISFIT);
    }

    #[test]
    fn all() {
        assert_eq!(aggregated(ResponsePolicy::All, &["*3 :1 :0 :0 ", "*3 :1 :1 :0 "]), "*3 :1 :0 :0 ");
        assert_eq!(aggregated(ResponsePolicy::All, &[":2 ", ":7 "]), ":1 ");
    }

    #[test]
    fn sum_pairs() {
        assert_eq!(
            aggregated(ResponsePolicy::SumPairs, &["*4 $1 a :1 $1 b :0 ", "*4 $1 a :2 $1 b :0 "]),
            "*4 $1 a :3 $1 b :0 "
        );
        assert_eq!(aggregated(ResponsePolicy::SumPairs, &["*0 ", "*0 "]), "*0 ");
        assert_eq!(aggregated(ResponsePolicy::SumPairs, &["*2 $1 a :1 ", "*2 $1 b :2 "]), MISFIT);
    }

    #[test]
    fn any() {
        assert_eq!(aggregated(ResponsePolicy::Any, &["-NOTBUSY ", "+OK "]), "+OK ");
        assert_eq!(aggregated(ResponsePolicy::Any, &["+1 ", "+2 "]), "+1 ");
        assert_eq!(aggregated(ResponsePolicy::Any, &["-NOTBUSY-1 ", "-NOTBUSY-2 "]), "-NOTBUSY-1 ");
    }

    #[test]
    fn union() {
        assert_eq!(aggregated(ResponsePolicy::Union, &["*2 $1 b $1 a ", "*1 $1 b ", "*0 "]), "*2 $1 a $1 b ");
        assert_eq!(aggregated(ResponsePolicy::Union, &["~1 $1 a ", "~1 $1 a "]), "~1 $1 a ");
        // A reply that is no array has no elements.
        assert_eq!(aggregated(ResponsePolicy::Union, &["*1 $1 a ", ":1 "]), "*1 $1 a ");
    }

    #[test]
    fn key_names_of_all_servers() {
        let policy = |pattern| ResponsePolicy::KeyNames(key_names(&[0, 1], pattern));
        assert_eq!(aggregated(policy(None), &["*2 $1 k $1 l ", "*1 $1 k "]), "*3 $3 a:k $3 a:l $1 k ");
        assert_eq!(aggregated(policy(Some(b"*k")), &["*2 $1 k $1 l ", "*1 $1 k "]), "*2 $3 a:k $1 k ");
        // No key routes to the second server under this name.
        assert_eq!(aggregated(policy(None), &["*0 ", "*1 $3 a:k "]), "*0 ");
        assert_eq!(aggregated(policy(None), &["*1 :1 ", "*0 "]), MISFIT);
    }

    #[test]
    fn scan() {
        let policy = || ResponsePolicy::Scan(key_names(&[0], None));
        assert_eq!(aggregated(policy(), &["*2 $1 0 *1 $1 k "]), "*2 $1 0 *1 $3 a:k ");
        assert_eq!(aggregated(policy(), &["*1 $1 0 "]), MISFIT);
    }

    #[test]
    fn random() {
        let policy = || ResponsePolicy::Random(key_names(&[0, 1], None));
        assert_eq!(aggregated(policy(), &["$1 k ", "$1 l "]), "$3 a:k ");
        assert_eq!(aggregated(policy(), &["$-1 ", "$1 l "]), "$1 l ");
        assert_eq!(aggregated(policy(), &["$-1 ", "$3 a:l "]), "$-1 ");
        assert_eq!(aggregated_in(true, policy(), &["_ ", "_ "]), "_ ");
    }

    #[test]
    fn login() {
        let (auth, hello) = (|| ResponsePolicy::Login(None), || ResponsePolicy::Login(Some(b"%0\r\n".to_vec())));
        let raw = |policy, replies: &[&str]| {
            let mut aggregation = Aggregation::new(policy, replies.len(), false);
            let parts = replies.iter().enumerate();
            let whole =
                parts.filter_map(|(part, reply)| aggregation.part(part, format!("{reply}\r\n").into_bytes())).last();
            String::from_utf8(whole.unwrap()).unwrap()
        };
        let no_password = "-ERR AUTH <password> called without any password configured for the default user.";
        assert_eq!(raw(auth(), &["+OK", "+OK"]), "+OK\r\n");
        assert_eq!(raw(hello(), &["+OK", "+OK"]), "%0\r\n");
        assert_eq!(raw(hello(), &["+OK", "-WRONGPASS x"]), "-WRONGPASS x\r\n");
        // A server without a password lets everybody in, but doesn't decide alone.
        assert_eq!(raw(hello(), &[no_password, "+OK"]), "%0\r\n");
        assert_eq!(raw(hello(), &[no_password, no_password]), format!("{no_password}\r\n"));
        assert_eq!(raw(auth(), &[no_password, "-WRONGPASS x"]), "-WRONGPASS x\r\n");
    }

    #[test]
    fn standalone() {
        let show = |reply: &str| {
            let mut aggregation = Aggregation::new(ResponsePolicy::Standalone, 1, false);
            String::from_utf8(aggregation.part(0, reply.as_bytes().to_vec()).unwrap()).unwrap()
        };
        let info = "# Server\r\nredis_mode:cluster\r\n# Cluster\r\ncluster_enabled:1\r\n";
        let expected = "# Server\r\nredis_mode:standalone\r\n# Cluster\r\ncluster_enabled:0\r\n";
        let bulk = |text: &str| format!("${}\r\n{text}\r\n", text.len());
        let verbatim = |text: &str| format!("={}\r\ntxt:{text}\r\n", text.len() + 4);
        assert_eq!(show(&bulk(info)), bulk(expected));
        assert_eq!(show(&verbatim(info)), verbatim(expected));
        for unchanged in [bulk(expected), verbatim(expected), bulk("cluster_enabled:10\r\n"), "_\r\n".into()] {
            assert_eq!(show(&unchanged), unchanged);
        }
    }

    #[test]
    fn an_error_in_one_reply_is_the_whole_reply() {
        let policies = [
            ResponsePolicy::Sum,
            ResponsePolicy::Same,
            ResponsePolicy::Keys(vec![0, 1]),
            ResponsePolicy::Least,
            ResponsePolicy::All,
            ResponsePolicy::SumPairs,
            ResponsePolicy::Union,
            ResponsePolicy::KeyNames(key_names(&[0, 1], None)),
            ResponsePolicy::Scan(key_names(&[0], None)),
            ResponsePolicy::Random(key_names(&[0, 1], None)),
            ResponsePolicy::Standalone,
        ];
        for policy in policies {
            let name = format!("{policy:?}");
            assert_eq!(aggregated(policy, &[":2 ", "-READONLY "]), "-READONLY ", "{name}");
        }
        assert_eq!(aggregated(ResponsePolicy::Sum, &["!1 x ", "-READONLY "]), "!1 x ");
    }

    #[test]
    fn a_command_that_was_split_has_the_policy_of_its_kind() {
        let whole = |split, replies: [&str; 2]| {
            let mut aggregation = Aggregation::of_keys(split, vec![1, 0], 2, false);
            assert!(aggregation.part(0, replies[0].replace(' ', "\r\n").into_bytes()).is_none());
            let whole = aggregation.part(1, replies[1].replace(' ', "\r\n").into_bytes());
            String::from_utf8(whole.unwrap()).unwrap().replace("\r\n", " ")
        };
        assert_eq!(whole(Split::Sum, [":1 ", ":2 "]), ":3 ");
        assert_eq!(whole(Split::Array, ["*1 :1 ", "*1 :2 "]), "*2 :2 :1 ");
        assert_eq!(whole(Split::Ok, ["+OK ", "+OK "]), "+OK ");
        assert_eq!(whole(Split::No, ["+OK ", "+OK "]), "+OK ");
    }

    /// With work for each part that grows with the number of parts, this takes minutes.
    #[test]
    fn a_command_of_very_many_parts_takes_no_time() {
        let parts = 100_000;
        let mut aggregation = Aggregation::new(ResponsePolicy::Sum, parts, false);
        let whole = (0..parts).filter_map(|part| aggregation.part(part, b":1\r\n".to_vec()));
        assert_eq!(whole.collect::<Vec<_>>(), [b":100000\r\n".to_vec()]);
    }

    #[test]
    fn a_part_that_there_is_not_is_ignored() {
        let mut aggregation = Aggregation::new(ResponsePolicy::Sum, 2, false);
        assert_eq!(aggregation.part(2, b":1\r\n".to_vec()), None);
        assert_eq!(aggregation.part(0, b":1\r\n".to_vec()), None);
        // The last reply to a part counts.
        assert_eq!(aggregation.part(0, b":5\r\n".to_vec()), None);
        assert_eq!(aggregation.part(1, b":1\r\n".to_vec()), Some(b":6\r\n".to_vec()));
    }

    #[test]
    fn all_that_ask_have_to_let_in() {
        let (ok, wrong) = ("+OK\r\n", "-WRONGPASS x\r\n");
        let none = "-ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?\r\n";
        let check = |replies: &[&str], hello: Option<&str>, expected: &str| {
            let replies: Vec<Vec<u8>> = replies.iter().map(|reply| reply.as_bytes().to_vec()).collect();
            let combined = super::login(&replies, hello.map(|hello| hello.as_bytes().to_vec()).as_ref()).unwrap();
            assert_eq!(String::from_utf8(combined).unwrap(), expected);
        };
        check(&[ok], None, ok);
        check(&[ok, none], None, ok);
        check(&[none, ok], Some("%0\r\n"), "%0\r\n");
        check(&[none, none], None, none);
        check(&[ok, wrong], None, wrong);
        check(&[none, wrong], Some("%0\r\n"), wrong);
    }
}
