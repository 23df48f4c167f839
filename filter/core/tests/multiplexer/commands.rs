//! What becomes of commands: they are routed, split, sent as a transaction, or answered here.

use crate::config::{compiled, two};
use crate::world::{World, check};
use redis_mesh_core::wire;

#[test]
fn commands_go_where_their_keys_route() {
    check(&["SET a:1 x", "SET b y", "GET a:1", "GET b", "GET a:2"], "+OK +OK $1 x $1 y $-1 ");
    let mut world = World::new(1);
    let id = world.client(&compiled(&two()));
    world.send(id, b"SET a:1 x\r\nSET b y\r\n");
    world.settle();
    assert_eq!(world.redis["one"].keys.len(), 1);
    assert_eq!(world.redis["two"].keys.len(), 1);
    // What the login may do is asked over a connection of its own.
    assert_eq!(world.opened, 3);
}

#[test]
fn commands_over_several_destinations_are_split() {
    check(
        &["MSET a:1 x b y a:2 z", "MGET b a:2 a:1 c", "DEL a:1 b c", "MGET a:1 b a:2"],
        "+OK *4 $1 y $1 z $1 x $-1 :2 *3 $-1 $-1 $1 z ",
    );
    // A key without a value: as Redis, nothing is executed.
    check(&["MSET a:1 x b", "MGET a:1 b"], "-ERR wrong number of arguments for 'mset' command *2 $-1 $-1 ");
    check(&["RENAME a:1 b"], "-CROSSSLOT redis-mesh: keys route to different destinations ");
}

#[test]
fn transactions_go_in_one_piece() {
    check(&["MULTI", "SET a:1 x", "APPEND a:1 y", "EXEC", "GET a:1"], "+OK +QUEUED +QUEUED *2 +OK :2 $2 xy ");
    check(&["MULTI", "SET a:1 x", "DISCARD", "GET a:1"], "+OK +QUEUED +OK $-1 ");
    check(&["MULTI", "MULTI", "EXEC", "EXEC"], "+OK -ERR MULTI calls can not be nested *0 -ERR EXEC without MULTI ");
    check(
        &["MULTI", "SET a:1 x", "SET b y", "EXEC", "GET a:1"],
        "+OK +QUEUED -CROSSSLOT redis-mesh: keys route to different destinations -EXECABORT Transaction discarded because of previous errors. $-1 ",
    );
    check(
        &["MULTI", "GET", "EXEC"],
        "+OK -ERR wrong number of arguments for 'get' command -EXECABORT Transaction discarded because of previous errors. ",
    );
}

#[test]
fn commands_that_need_no_server_are_answered_here() {
    check(
        &["ECHO x", "ECHO y", "CLIENT SETNAME me", "CLIENT GETNAME", "SELECT 0", "NOSUCH 1", "GET", "SYNC"],
        "$1 x $1 y +OK $2 me +OK -ERR unknown command 'NOSUCH', with args beginning with: '1'  -ERR wrong number of arguments for 'get' command -ERR redis-mesh: SYNC needs the direct data path ",
    );
    // Nobody is told to which address to go.
    check(
        &["CLIENT MAINT_NOTIFICATIONS ON", "client maint_notifications\0 ON moving-endpoint-type internal-ip"],
        "-ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP. -ERR unknown subcommand 'maint_notifications\0'. Try CLIENT HELP. ",
    );
    let mut world = World::new(1);
    let id = world.client(&compiled(&two()));
    world.send(id, b"SET b 1\r\nQUIT\r\nGET b\r\n");
    world.settle();
    assert_eq!(world.received(id), "+OK +OK ");
    assert!(world.clients[&id].is_closed);
}

#[test]
fn who_has_not_logged_in_can_have_little_kept() {
    let mut host = two();
    host.client_auth =
        Some(wire::ClientAuth { username: None, salt: "00".repeat(16), password_sha256: vec!["00".repeat(32)] });
    for (bytes, error) in
        [(&b"*2\r\n$3\r\nGET\r\n$314572800\r\n"[..], "invalid bulk length"), (b"*11\r\n", "invalid multibulk length")]
    {
        let mut world = World::new(15);
        let id = world.client(&compiled(&host));
        world.send(id, bytes);
        assert_eq!(world.received(id), format!("-ERR Protocol error: {error} "));
        assert!(world.clients[&id].is_closed);
    }
}
