//! What a client does over connections of its own, while a node sends it elsewhere.

use crate::scripted::{Arrived, Scripted};
use redis_mesh_core::cluster::slot::slot;

/// An error that sends a client to a node.
fn elsewhere(kind: &str, node: u8) -> Vec<u8> {
    format!("-{kind} {} 10.0.0.{node}:6379\r\n", slot(b"{b}")).into_bytes()
}

/// Checks which commands have come to which nodes, and returns them.
fn arrived(side: &mut Scripted, expected: &[(u8, &str)]) -> Vec<Arrived> {
    let all = side.arrived();
    let shown: Vec<(u8, &str)> = all.iter().map(|arrived| (arrived.node, arrived.words.as_str())).collect();
    assert_eq!(shown, expected);
    all
}

/// Each would go over a connection of its own, and might be executed before what was sent before it.
#[test]
fn commands_that_are_sent_on_stay_in_order_when_nothing_is_watched_any_more() {
    let mut side = Scripted::new(true);
    side.send(&["WATCH {b}x", "APPEND {b}x 1", "APPEND {b}x 2", "UNWATCH"]);
    let watch = arrived(&mut side, &[(1, "WATCH {b}x")]);
    side.reply(watch[0].connection, b"+OK\r\n");
    let appends = arrived(&mut side, &[(1, "APPEND {b}x 1"), (1, "APPEND {b}x 2"), (1, "UNWATCH")]);
    side.received();
    side.reply(appends[0].connection, &elsewhere("ASK", 2).repeat(2));
    side.reply(appends[0].connection, b"+OK\r\n");
    let asked = arrived(&mut side, &[(2, "APPEND {b}x 1"), (2, "ASKING"), (2, "APPEND {b}x 2")]);
    assert_eq!(asked[0].connection, asked[2].connection);
    side.reply(asked[0].connection, b":1\r\n+OK\r\n:2\r\n");
    assert_eq!(side.received(), ":1 :2 +OK ");
}

/// The client has chosen another protocol, and tracks, since it watches keys over a connection that is to
/// be used again.
#[test]
fn a_command_that_is_sent_to_the_node_of_watched_keys_finds_the_client_as_it_is() {
    let mut side = Scripted::new(true);
    side.send(&["WATCH {b}x"]);
    let watch = arrived(&mut side, &[(1, "WATCH {b}x")]);
    side.reply(watch[0].connection, &elsewhere("ASK", 2));
    let watch = arrived(&mut side, &[(2, "WATCH {b}x")]);
    side.reply(watch[0].connection, b"+OK\r\n");
    side.send(&["HELLO 3", "CLIENT TRACKING ON", "GET a"]);
    let get = arrived(&mut side, &[(1, "GET a")]);
    side.reply(get[0].connection, format!("-ASK {} 10.0.0.2:6379\r\n", slot(b"a")).as_bytes());
    let again = arrived(&mut side, &[(2, "GET a")]);
    assert_eq!(side.own(again[0].connection), ["PING", "ASKING", "HELLO 3", "CLIENT TRACKING ON", "ASKING"]);
    side.received();
    side.reply(again[0].connection, b"_\r\n");
    assert_eq!(side.received(), "_ >2 $10 invalidate _ ", "ASKING has to be the command right before");
}

/// The node refuses what comes before the slot is its own, and executes what comes after that.
#[test]
fn commands_behind_watched_keys_that_are_on_their_way_go_one_after_the_other() {
    let mut side = Scripted::new(true);
    side.send(&["WATCH {b}x"]);
    let watch = arrived(&mut side, &[(1, "WATCH {b}x")]);
    side.reply(watch[0].connection, &elsewhere("ASK", 2));
    let watch = arrived(&mut side, &[(2, "WATCH {b}x")]);
    side.reply(watch[0].connection, b"+OK\r\n");
    side.send(&["SET {b}x 1", "MULTI", "APPEND {b}x 2", "EXEC"]);
    let set = arrived(&mut side, &[(2, "SET {b}x 1")]);
    side.reply(set[0].connection, b"+OK\r\n");
    assert_eq!(side.arrived().len(), 3, "MULTI to EXEC go there at once");
}

/// Servers tell of it for a while.
#[test]
fn a_client_that_has_ended_to_track_is_told_nothing_more() {
    let mut side = Scripted::new(false);
    side.send(&["HELLO 3", "WATCH x"]);
    let watch = arrived(&mut side, &[(0, "WATCH x")]);
    side.reply(watch[0].connection, b"+OK\r\n");
    side.send(&["CLIENT TRACKING ON", "CLIENT TRACKING OFF"]);
    assert!(side.arrived().is_empty());
    assert!(side.received().ends_with("+OK +OK "));
    side.reply(watch[0].connection, b">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n");
    assert_eq!(side.received(), "");
    assert!(side.own(watch[0].connection).contains(&"CLIENT TRACKING OFF".to_owned()));
}

/// The flag that CLIENT CACHING sets is taken back by the next command, which is the first part.
#[test]
fn all_parts_of_a_command_are_tracked() {
    let mut side = Scripted::new(true);
    side.send(&["HELLO 3", "CLIENT TRACKING ON OPTIN", "CLIENT CACHING YES", "MGET a b"]);
    let parts = arrived(&mut side, &[(1, "MGET a"), (1, "CLIENT CACHING YES"), (1, "MGET b")]);
    let own = side.own(parts[0].connection);
    assert_eq!(own.last().map(String::as_str), Some("CLIENT CACHING YES"));
}

/// A connection that was chosen for one part of a command was closed for that of another part.
#[test]
fn no_part_of_a_command_loses_its_connection() {
    let mut side = Scripted::new(true);
    side.send(&["WATCH {b}x"]);
    let watch = arrived(&mut side, &[(1, "WATCH {b}x")]);
    side.reply(watch[0].connection, b"+OK\r\n");
    side.send(&["HELLO 3", "CLIENT TRACKING ON", "DEL a {b}y"]);
    let parts = arrived(&mut side, &[(1, "DEL a"), (1, "DEL {b}y")]);
    side.received();
    side.reply(parts[0].connection, b":1\r\n:1\r\n");
    assert!(side.received().ends_with(":2 "));
}
