//! The names of keys in the replies to commands that ask several servers for keys (KEYS, SCAN,
//! RANDOMKEY), and in what a server pushes about changed keys.
//!
//! A server knows its keys by other names than the client where a route removes a prefix, and may
//! hold keys that no route leads to.

use crate::command::glob::{Case, glob};
use crate::multiplexer::config::HostConfig;
use crate::multiplexer::reply::scan_cursor::ScanPosition;
use crate::resp::elements::Elements;
use crate::resp::encode;
use crate::resp::value::Value;
use std::sync::Arc;

/// What is needed to give the keys in a reply the names that the client has for them.
#[derive(Debug)]
pub struct KeyNames {
    config: Arc<HostConfig>,
    /// The target of each part of the command, an index into [`HostConfig::targets`].
    targets: Vec<usize>,
    /// The pattern that the client's names have to match (MATCH of SCAN, the argument of KEYS).
    pattern: Option<Vec<u8>>,
    /// Where a SCAN stands.
    position: ScanPosition,
}

impl KeyNames {
    /// Returns the names for the replies of these targets, one for each part of a command.
    /// `position` is where a SCAN stands.
    pub fn new(
        config: Arc<HostConfig>,
        targets: Vec<usize>,
        pattern: Option<Vec<u8>>,
        position: ScanPosition,
    ) -> KeyNames {
        KeyNames { config, targets, pattern, position }
    }

    /// Returns true if each key has to be looked at, since servers may hold keys that no route
    /// leads to, or by other names than the clients.
    pub fn decide(config: &HostConfig) -> bool {
        !matches!(&*config.routes, [route] if !route.remove_prefix && config.router.any() == Some(0))
    }

    /// Returns the names by which the client reaches a key of a target.
    pub fn of_key(config: Arc<HostConfig>, target: usize, key: &[u8]) -> Vec<Vec<u8>> {
        let mut names = Vec::new();
        KeyNames::new(config, Vec::new(), None, ScanPosition::default())
            .visible(target, key, |name| names.push(name.to_vec()));
        names
    }

    /// Calls `each` with the names by which the client reaches a key of a target.
    fn visible(&self, target: usize, key: &[u8], mut each: impl FnMut(&[u8])) {
        let matches = |name: &[u8]| self.pattern.as_ref().is_none_or(|pattern| glob(pattern, name, Case::Sensitive));
        if !KeyNames::decide(&self.config) {
            if matches(key) {
                each(key);
            }
            return;
        }
        // The servers of one destination have the keys of the same routes.
        let upstream = |target| self.config.targets.get(self.config.origin(target)).map(|target| &target.upstream);
        for (index, route) in self.config.routes.iter().enumerate() {
            // The upstreams are compared, since targets may differ in nothing but their mirrors.
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

    /// Appends an array with the names of all keys in these arrays, one array for each target.
    fn collect(&self, arrays: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
        let (mut count, mut names) = (0, Vec::new());
        for (array, target) in arrays.iter().zip(&self.targets) {
            for element in Elements::of(array) {
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

    /// Returns the reply to KEYS, given the replies of all targets.
    pub fn keys(&self, replies: &[Vec<u8>]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        self.collect(&replies.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut out)?;
        Some(out)
    }

    /// Returns the reply to SCAN, given the reply of one server: the next cursor, and names
    /// (<https://redis.io/docs/latest/commands/scan/>). There is none if the server's cursor
    /// doesn't fit into the client's.
    pub fn scan(&self, replies: &[Vec<u8>]) -> Option<Vec<u8>> {
        let mut elements = Elements::of(replies.first()?);
        let Value::Text(cursor) = Value::parse(elements.next()?)? else { return None };
        let cursor: u64 = std::str::from_utf8(cursor).ok()?.parse().ok()?;
        let next = self.position.next(cursor)?;
        let mut out = Vec::new();
        encode::array(&mut out, 2);
        encode::bulk(&mut out, next.to_string().as_bytes());
        self.collect(&[elements.next()?], &mut out)?;
        Some(out)
    }

    /// Returns a server's push about changed keys with the client's names
    /// (<https://redis.io/docs/latest/develop/reference/client-side-caching/>). There is none if
    /// the push is another one, or concerns all keys, so that it can be written as it is. It is empty
    /// if the client wants none of the keys.
    pub fn invalidated(&self, push: &[u8], is_wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let mut elements = Elements::of_push(push);
        let (kind, keys) = (elements.next()?, elements.next()?);
        if Value::parse(kind)?.text()? != b"invalidate" || keys.first() != Some(&b'*') {
            return None;
        }
        let (target, mut count, mut names) = (self.targets.first()?, 0, Vec::new());
        for element in Elements::of(keys) {
            let Some(Value::Text(key)) = Value::parse(element) else { return None };
            self.visible(*target, key, |name| {
                if is_wanted(name) {
                    count += 1;
                    encode::bulk(&mut names, name);
                }
            });
        }
        if count == 0 {
            return Some(Vec::new());
        }
        let mut out = Vec::new();
        encode::header(&mut out, b'>', 2);
        out.extend_from_slice(kind);
        encode::array(&mut out, count);
        out.append(&mut names);
        Some(out)
    }

    /// Returns the reply to RANDOMKEY, given the replies of all targets: the first key that the
    /// client can reach, or null.
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
    use crate::multiplexer::config::ListenerConfig;
    use crate::multiplexer::reply::scan_cursor::{ClientCursor, ScannedServers};
    use serde_json::json;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// Targets 0 and 1 are the same server with different mirrors, 2 is another one.
    fn config(routes: serde_json::Value) -> Arc<HostConfig> {
        let target = |cluster: &str| json!({"destination": "d:6379", "upstream": {"cluster": cluster}});
        let mut mirrored = target("a");
        mirrored["mirrors"] = json!([{"destination": "m:6379", "perMillion": 1, "upstream": {"cluster": "m"}}]);
        let document = json!({"name": "n", "revision": 1, "hosts": [{
            "host": "h:6379", "path": "native",
            "targets": [target("a"), mirrored, target("b")],
            "routes": routes,
        }]});
        ListenerConfig::from_json(document.to_string().as_bytes()).unwrap().host
    }

    /// `x:` and `y:` are removed before keys of one server; another one has the keys with `z:`.
    fn several() -> Arc<HostConfig> {
        config(json!([
            {"match": {"prefix": "x:"}, "target": 0, "removePrefix": true},
            {"match": {"prefix": "y:"}, "target": 1, "removePrefix": true},
            {"match": {"prefix": "x:z:"}, "target": 2},
            {"match": {"prefix": "z:"}, "target": 2},
        ]))
    }

    fn names(config: Arc<HostConfig>, targets: &[usize], pattern: Option<&str>) -> KeyNames {
        KeyNames::new(
            config,
            targets.to_vec(),
            pattern.map(|pattern| pattern.as_bytes().to_vec()),
            ScanPosition::default(),
        )
    }

    /// A reply in which a space stands for CRLF.
    fn reply(text: &str) -> Vec<u8> {
        text.replace(' ', "\r\n").into_bytes()
    }

    fn shown(reply: Option<Vec<u8>>) -> Option<String> {
        reply.map(|reply| String::from_utf8(reply).unwrap().replace("\r\n", " "))
    }

    #[test]
    fn keys_are_looked_at_where_names_or_routes_differ() {
        let decide = |routes| KeyNames::decide(&config(routes));
        assert!(!decide(json!([{"match": "any", "target": 0}])));
        assert!(decide(json!([{"match": {"prefix": "x:"}, "target": 0}])));
        assert!(decide(json!([{"match": {"prefix": "x:"}, "target": 0, "removePrefix": true}])));
        assert!(decide(json!([{"match": "any", "target": 0}, {"match": {"prefix": "x:"}, "target": 0}])));
    }

    #[test]
    fn a_key_has_all_names_that_lead_to_it() {
        let visible = |target: usize, key: &str, pattern: Option<&str>| {
            let mut all = Vec::new();
            let each = |name: &[u8]| all.push(String::from_utf8(name.to_vec()).unwrap());
            names(several(), &[target], pattern).visible(target, key.as_bytes(), each);
            all
        };
        for target in [0, 1] {
            assert_eq!(visible(target, "k", None), ["x:k", "y:k"]);
            assert_eq!(visible(target, "k", Some("y:*")), ["y:k"]);
            // The longer prefix leads `x:z:k` to the other server.
            assert_eq!(visible(target, "z:k", None), ["y:z:k"]);
        }
        assert_eq!(visible(2, "z:k", None), ["z:k"]);
        assert_eq!(visible(2, "x:z:k", None), ["x:z:k"]);
        assert_eq!(visible(2, "x:z:k", Some("z:*")), Vec::<String>::new());
        // No route leads to these.
        assert_eq!(visible(2, "k", None), Vec::<String>::new());
        assert_eq!(visible(2, "y:k", None), Vec::<String>::new());
    }

    #[test]
    fn keys_of_all_targets() {
        let keys = |pattern, replies: [&str; 2]| shown(names(several(), &[0, 2], pattern).keys(&replies.map(reply)));
        assert_eq!(keys(None, ["*1 $1 k ", "*2 $3 z:k $1 k "]).unwrap(), "*3 $3 x:k $3 y:k $3 z:k ");
        assert_eq!(keys(Some("[xz]:*"), ["*1 $1 k ", "*1 $3 z:k "]).unwrap(), "*2 $3 x:k $3 z:k ");
        assert_eq!(keys(None, ["~1 $1 k ", "*0 "]).unwrap(), "*2 $3 x:k $3 y:k ");
        assert_eq!(keys(None, ["*1 $-1 ", "*0 "]), None);
        // A reply that is no array has no keys.
        assert_eq!(keys(None, ["+OK ", ":1 "]).unwrap(), "*0 ");
    }

    #[test]
    fn one_route_for_all_keys_leaves_names_as_they_are() {
        let one = || config(json!([{"match": "any", "target": 0}]));
        let keys = |pattern| shown(names(one(), &[0], pattern).keys(&[reply("*2 $1 k $3 x:k ")])).unwrap();
        assert_eq!((keys(None), keys(Some("x*"))), ("*2 $1 k $3 x:k ".into(), "*1 $3 x:k ".into()));
    }

    #[test]
    fn a_scan_goes_from_server_to_server() {
        let servers = ScannedServers::new(2, b"");
        let at = |cursor: &str| servers.position(ClientCursor::parse(cursor.as_bytes()).unwrap()).unwrap();
        let scan = |cursor: &str, text: &str| {
            let reply = shown(KeyNames::new(several(), vec![0], None, at(cursor)).scan(&[reply(text)]))?;
            let (_, rest) = reply.split_once(' ')?.1.split_once(' ')?;
            rest.split_once(' ').map(|(next, keys)| (next.to_owned(), keys.to_owned()))
        };
        let (next, keys) = scan("0", "*2 $1 5 *1 $1 k ").unwrap();
        assert_eq!((at(&next).server, at(&next).cursor, &*keys), (0, 5, "*2 $3 x:k $3 y:k "));
        let (next, _) = scan(&next, "*2 $1 0 *0 ").unwrap();
        assert_eq!((at(&next).server, at(&next).cursor), (1, 0));
        assert_eq!(scan(&next, "*2 $1 0 *0 ").unwrap(), ("0".to_owned(), "*0 ".to_owned()));
        let largest = "*2 $20 18446744073709551615 *0 ";
        for text in ["*2 :0 *0 ", "*2 $1 x *0 ", "*1 $1 0 ", "*2 $1 0 *1 :1 ", "*0 ", "+OK ", "", largest] {
            assert_eq!(scan("0", text), None, "{text}");
        }
    }

    #[test]
    fn changed_keys_have_all_names_that_lead_to_them() {
        let push = |text: &str| shown(names(several(), &[0], None).invalidated(&reply(text), |_| true));
        assert_eq!(push(">2 $10 invalidate *1 $1 k ").unwrap(), ">2 $10 invalidate *2 $3 x:k $3 y:k ");
        assert_eq!(push(">2 $10 invalidate *2 $3 z:k $1 l ").unwrap(), ">2 $10 invalidate *3 $5 y:z:k $3 x:l $3 y:l ");
        assert_eq!(push(">2 +invalidate *0 ").unwrap(), "");
        for text in [
            ">2 $10 invalidate _ ",
            ">2 $10 invalidate *1 :1 ",
            ">3 $7 message $1 a *0 ",
            ">1 $10 invalidate ",
            ">0 ",
            "",
        ] {
            assert_eq!(push(text), None, "{text}");
        }
        let other = names(several(), &[2], None).invalidated(&reply(">2 $10 invalidate *1 $1 k "), |_| true);
        assert_eq!(shown(other).unwrap(), "");
        let some = names(several(), &[0], None).invalidated(&reply(">2 $10 invalidate *1 $1 k "), |key| key == b"y:k");
        assert_eq!(shown(some).unwrap(), ">2 $10 invalidate *1 $3 y:k ");
    }

    #[test]
    fn one_key_that_the_client_can_reach() {
        let one =
            |replies: [&str; 2], resp3| shown(names(several(), &[2, 0], None).one(&replies.map(reply), resp3)).unwrap();
        assert_eq!(one(["$1 k ", "$1 l "], false), "$3 x:l ");
        assert_eq!(one(["$3 z:k ", "$1 l "], false), "$3 z:k ");
        assert_eq!(one(["$1 k ", "$-1 "], false), "$-1 ");
        assert_eq!(one([":1 ", "_ "], true), "_ ");
    }
}
