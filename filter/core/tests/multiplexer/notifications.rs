//! Notifications of changes of keys, of which each server tells for itself.

use crate::config::{compiled, stripped, two};
use crate::world::{World, command};
use redis_mesh_core::multiplexer::ClientId;
use std::collections::BTreeSet;

/// A server says something to all who have subscribed to this there; a space stands for CRLF.
fn say(world: &mut World, server: &str, subscription: &str, frame: &str) {
    for (name, connection) in world.connections.values_mut() {
        if name == server && connection.subscriptions.contains(subscription.as_bytes()) {
            connection.output.extend(frame.replace(' ', "\r\n").into_bytes());
        }
    }
    world.settle();
}

/// A pattern's message.
fn message(pattern: &str, channel: &str, text: &str) -> String {
    let bulks = ["pmessage", pattern, channel, text].map(|word| format!("${} {word} ", word.len()));
    format!("*4 {}", bulks.concat())
}

fn ask(world: &mut World, client: ClientId, line: &str) -> String {
    world.send(client, &command(&line.split(' ').collect::<Vec<_>>()));
    world.settle();
    world.received(client)
}

/// What clients have subscribed to at a server.
fn subscribed(world: &World, server: &str) -> Vec<String> {
    let here = world.connections.values().filter(|(name, _)| name == server);
    let all: BTreeSet<Vec<u8>> = here.flat_map(|(_, connection)| connection.subscriptions.clone()).collect();
    all.into_iter().map(|name| String::from_utf8(name).unwrap()).collect()
}

#[test]
fn all_servers_tell_of_their_keys() {
    for seed in 0..20 {
        let mut world = World::new(seed);
        let client = world.client(&compiled(&two()));
        let events = "__keyevent@0__:*";
        let told = ask(&mut world, client, &format!("PSUBSCRIBE {events} n*"));
        assert_eq!(told, format!("*3 $10 psubscribe $16 {events} :1 *3 $10 psubscribe $2 n* :2 "));
        assert_eq!(
            (subscribed(&world, "one"), subscribed(&world, "two")),
            (vec![events.into()], vec![events.into(), "n*".into()])
        );
        let set = |key: &str| message(events, "__keyevent@0__:set", key);
        for (server, key, is_told) in
            [("one", "a:1", true), ("two", "b", true), ("one", "b", false), ("two", "a:1", false)]
        {
            say(&mut world, server, events, &set(key));
            assert_eq!(world.received(client), if is_told { set(key) } else { String::new() }, "{server} {key}");
        }
        say(&mut world, "two", "n*", &message("n*", "news", "hi"));
        assert_eq!(world.received(client), message("n*", "news", "hi"));
        let told = ask(&mut world, client, "PUNSUBSCRIBE");
        assert_eq!(told, format!("*3 $12 punsubscribe $16 {events} :1 *3 $12 punsubscribe $2 n* :0 "));
        assert!(subscribed(&world, "one").is_empty() && subscribed(&world, "two").is_empty());
        assert_eq!(ask(&mut world, client, "SET b v"), "+OK ");
    }
}

#[test]
fn what_is_published_comes_from_one_server() {
    let mut world = World::new(7);
    let client = world.client(&compiled(&two()));
    assert_eq!(ask(&mut world, client, "PSUBSCRIBE *"), "*3 $10 psubscribe $1 * :1 ");
    for (server, is_told) in [("one", false), ("two", true)] {
        say(&mut world, server, "*", &message("*", "news", "hi"));
        assert_eq!(world.received(client), if is_told { message("*", "news", "hi") } else { String::new() });
    }
    let del = message("*", "__keyspace@0__:a:1", "del");
    say(&mut world, "one", "*", &del);
    assert_eq!(world.received(client), del);
}

#[test]
fn keys_have_the_names_of_the_client() {
    let mut world = World::new(7);
    let client = world.client(&compiled(&stripped()));
    ask(&mut world, client, "PSUBSCRIBE __keyspace@0__:a:* __keyspace@0__:a:1*");
    assert_eq!(subscribed(&world, "one"), ["__keyspace@0__:*"], "one for both");
    say(&mut world, "one", "__keyspace@0__:*", &message("__keyspace@0__:*", "__keyspace@0__:12", "set"));
    let both = ["__keyspace@0__:a:*", "__keyspace@0__:a:1*"];
    assert_eq!(world.received(client), both.map(|pattern| message(pattern, "__keyspace@0__:a:12", "set")).concat());
    say(&mut world, "two", "__keyspace@0__:*", &message("__keyspace@0__:*", "__keyspace@0__:12", "set"));
    assert_eq!(world.received(client), "", "that is no key with such a name");
    ask(&mut world, client, "PUNSUBSCRIBE __keyspace@0__:a:*");
    say(&mut world, "one", "__keyspace@0__:*", &message("__keyspace@0__:*", "__keyspace@0__:12", "set"));
    assert_eq!(world.received(client), message("__keyspace@0__:a:1*", "__keyspace@0__:a:12", "set"));
    // A channel of one key is at the server of the key alone.
    let told = ask(&mut world, client, "SUBSCRIBE __keyspace@0__:a:k __keyspace@0__:b");
    assert_eq!(told, "*3 $9 subscribe $18 __keyspace@0__:a:k :2 *3 $9 subscribe $16 __keyspace@0__:b :3 ");
    assert_eq!(subscribed(&world, "one"), ["__keyspace@0__:*", "__keyspace@0__:k"]);
    assert_eq!(subscribed(&world, "two"), ["__keyspace@0__:*", "__keyspace@0__:b"]);
    say(&mut world, "one", "__keyspace@0__:k", "*3 $7 message $16 __keyspace@0__:k $3 del ");
    assert_eq!(world.received(client), "*3 $7 message $18 __keyspace@0__:a:k $3 del ");
}

#[test]
fn a_client_that_would_miss_something_is_closed() {
    let mut world = World::new(7);
    let client = world.client(&compiled(&two()));
    ask(&mut world, client, "PSUBSCRIBE __keyevent@0__:*");
    let of_one =
        world.connections.iter().find(|(_, (name, connection))| name == "one" && !connection.subscriptions.is_empty());
    let of_one = *of_one.unwrap().0;
    world.connections.remove(&of_one);
    world.multiplexer.lost(of_one, world.now);
    world.drain();
    assert!(world.clients[&client].is_closed);
}

#[test]
fn new_rules_are_followed() {
    let mut world = World::new(7);
    let one_only = compiled(&crate::config::one());
    let client = world.client(&compiled(&two()));
    ask(&mut world, client, "PSUBSCRIBE __keyevent@0__:*");
    // The same destinations with the roles exchanged: what is heard of their keys changes.
    world.multiplexer.update(&compiled(&crate::config::turned()));
    world.drain();
    let is_closed = world.clients[&client].is_closed;
    assert!(is_closed, "the home of what is published has moved");
    let client = world.client(&one_only);
    ask(&mut world, client, "PSUBSCRIBE __keyevent@0__:*");
    say(&mut world, "one", "__keyevent@0__:*", &message("__keyevent@0__:*", "__keyevent@0__:set", "any"));
    assert_eq!(world.received(client), message("__keyevent@0__:*", "__keyevent@0__:set", "any"));
}
