//! The data of a Redis, and the commands that concern only data.

use redis_mesh_core::resp::encode;
use std::collections::{BTreeMap, VecDeque};

/// The index of a database, and the name of a key.
pub type Key = (u32, Vec<u8>);
/// The arguments of a command, with its name as the first one.
pub type Args = Vec<Vec<u8>>;

/// The value of a key.
#[derive(Clone, Debug)]
pub enum Value {
    Text(Vec<u8>),
    List(VecDeque<Vec<u8>>),
}

/// The outcome of BLPOP if a key exists.
pub enum Popped {
    /// The name of a list, and the element that was removed from it.
    Element(Vec<u8>, Vec<u8>),
    WrongType,
}

/// The keys and values of a server.
#[derive(Clone, Default)]
pub struct Store {
    pub keys: BTreeMap<Key, Value>,
}

pub const WRONG_TYPE: &[u8] = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n";

/// Returns the indexes of the arguments that are keys.
pub fn keys(args: &Args) -> Vec<usize> {
    match args[0].to_ascii_lowercase().as_slice() {
        b"set" | b"append" | b"incrby" | b"getrange" | b"rpush" | b"lrange" => vec![1],
        b"mget" | b"del" | b"exists" | b"watch" => (1..args.len()).collect(),
        b"mset" => (1..args.len()).step_by(2).collect(),
        b"blpop" => (1..args.len() - 1).collect(),
        b"rename" => vec![1, 2],
        _ => Vec::new(),
    }
}

/// Returns true if a command only reads.
pub fn is_read(args: &Args) -> bool {
    matches!(args[0].to_ascii_lowercase().as_slice(), b"getrange" | b"lrange" | b"mget" | b"exists" | b"scan")
}

/// Returns null in place of a string.
pub fn null(resp3: bool) -> &'static [u8] {
    if resp3 { b"_\r\n" } else { b"$-1\r\n" }
}

/// Returns null in place of an array.
pub fn null_array(resp3: bool) -> &'static [u8] {
    if resp3 { b"_\r\n" } else { b"*-1\r\n" }
}

/// Returns the position of a key in the order of SCAN, which doesn't depend on other keys.
fn hash(key: &[u8]) -> u32 {
    key.iter().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

impl Store {
    /// Executes a command, and appends the keys that it has changed to `changed`. Returns `None`
    /// if the command doesn't concern data only.
    #[allow(clippy::too_many_lines, reason = "one arm for each command")]
    pub fn execute(&mut self, db: u32, resp3: bool, args: &Args, changed: &mut Vec<Vec<u8>>) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let key = |index: usize| (db, args[index].clone());
        match args[0].to_ascii_lowercase().as_slice() {
            b"set" => {
                self.keys.insert(key(1), Value::Text(args[2].clone()));
                changed.push(args[1].clone());
                out.extend_from_slice(b"+OK\r\n");
            }
            b"mset" => {
                for pair in args[1..].chunks(2) {
                    self.keys.insert((db, pair[0].clone()), Value::Text(pair[1].clone()));
                    changed.push(pair[0].clone());
                }
                out.extend_from_slice(b"+OK\r\n");
            }
            b"append" => match self.keys.entry(key(1)).or_insert_with(|| Value::Text(Vec::new())) {
                Value::Text(text) => {
                    text.extend_from_slice(&args[2]);
                    encode::integer(&mut out, text.len() as u64);
                    changed.push(args[1].clone());
                }
                Value::List(_) => return Some(WRONG_TYPE.to_vec()),
            },
            b"incrby" => {
                let held = match self.keys.get(&key(1)) {
                    None => Some(0),
                    Some(Value::Text(text)) => std::str::from_utf8(text).ok().and_then(|text| text.parse::<u64>().ok()),
                    Some(Value::List(_)) => return Some(WRONG_TYPE.to_vec()),
                };
                let Some(held) = held else {
                    return Some(b"-ERR value is not an integer or out of range\r\n".to_vec());
                };
                let by: u64 = std::str::from_utf8(&args[2]).unwrap().parse().unwrap();
                self.keys.insert(key(1), Value::Text((held + by).to_string().into_bytes()));
                changed.push(args[1].clone());
                encode::integer(&mut out, held + by);
            }
            // The end is beyond the end of each value, so that the whole value is the reply.
            b"getrange" => match self.keys.get(&key(1)) {
                None => encode::bulk(&mut out, b""),
                Some(Value::Text(text)) => encode::bulk(&mut out, text),
                Some(Value::List(_)) => return Some(WRONG_TYPE.to_vec()),
            },
            b"mget" => {
                encode::array(&mut out, args.len() - 1);
                for index in 1..args.len() {
                    match self.keys.get(&key(index)) {
                        Some(Value::Text(text)) => encode::bulk(&mut out, text),
                        _ => out.extend_from_slice(null(resp3)),
                    }
                }
            }
            b"del" => {
                let mut count = 0;
                for key in &args[1..] {
                    if self.keys.remove(&(db, key.clone())).is_some() {
                        changed.push(key.clone());
                        count += 1;
                    }
                }
                encode::integer(&mut out, count);
            }
            b"exists" => {
                let count = (1..args.len()).filter(|index| self.keys.contains_key(&key(*index))).count();
                encode::integer(&mut out, count as u64);
            }
            b"rpush" => match self.keys.entry(key(1)).or_insert_with(|| Value::List(VecDeque::new())) {
                Value::List(list) => {
                    list.push_back(args[2].clone());
                    changed.push(args[1].clone());
                    encode::integer(&mut out, list.len() as u64);
                }
                Value::Text(_) => return Some(WRONG_TYPE.to_vec()),
            },
            b"lrange" => match self.keys.get(&key(1)) {
                None => encode::array(&mut out, 0),
                Some(Value::List(list)) => {
                    encode::array(&mut out, list.len());
                    list.iter().for_each(|element| encode::bulk(&mut out, element));
                }
                Some(Value::Text(_)) => return Some(WRONG_TYPE.to_vec()),
            },
            b"scan" => self.scan(db, &args[1], &mut out),
            _ => return None,
        }
        Some(out)
    }

    /// Returns two keys at a time, or more if several have the same position.
    fn scan(&self, db: u32, cursor: &[u8], out: &mut Vec<u8>) {
        let from: u64 = std::str::from_utf8(cursor).unwrap().parse().unwrap();
        let of_db = self.keys.keys().filter(|(of, _)| *of == db).map(|(_, key)| key);
        let mut all: Vec<(u32, &Vec<u8>)> = of_db.map(|key| (hash(key), key)).collect();
        all.retain(|(hash, _)| u64::from(*hash) >= from);
        all.sort_unstable();
        let end = all.get(1).map(|(hash, _)| *hash);
        let found: Vec<&Vec<u8>> =
            all.iter().take_while(|(hash, _)| end.is_none_or(|end| *hash <= end)).map(|(_, key)| *key).collect();
        let next = if found.len() < all.len() { end.map_or(0, |end| u64::from(end) + 1) } else { 0 };
        encode::array(out, 2);
        encode::bulk(out, next.to_string().as_bytes());
        encode::array(out, found.len());
        found.iter().for_each(|key| encode::bulk(out, key));
    }

    /// Removes the first element of the first list that exists (BLPOP).
    pub fn pop(&mut self, db: u32, keys: &[Vec<u8>]) -> Option<Popped> {
        for key in keys {
            let at = (db, key.clone());
            match self.keys.get_mut(&at) {
                Some(Value::List(list)) => {
                    let element = list.pop_front()?;
                    if list.is_empty() {
                        self.keys.remove(&at);
                    }
                    return Some(Popped::Element(key.clone(), element));
                }
                Some(Value::Text(_)) => return Some(Popped::WrongType),
                None => {}
            }
        }
        None
    }
}
