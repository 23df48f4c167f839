//! Clients that don't read their replies.

use crate::config::{compiled, one, two};
use crate::world::{World, command};
use redis_mesh_core::multiplexer::{ClientId, ConnectionId};
use std::time::Duration;

/// A client whose host says that it takes no bytes as soon as it has got some.
fn unread(world: &mut World) -> ClientId {
    let id = world.client(&compiled(&two()));
    world.send(id, &command(&["SET", "b", "v"]));
    world.settle();
    world.multiplexer.downstream_full(id, true);
    world.drain();
    id
}

fn later(world: &mut World, time: Duration) {
    world.now += time;
    world.multiplexer.tick(world.now);
    world.drain();
}

/// The connection over which Redis is kept from sending.
fn paused(world: &World) -> ConnectionId {
    assert_eq!(world.paused.len(), 1, "{:?}", world.connections.keys());
    *world.paused.first().unwrap()
}

#[test]
fn a_client_that_writes_all_before_it_reads_has_its_commands_executed() {
    let mut world = World::new(1);
    let id = unread(&mut world);
    let commands: Vec<u8> = (0..3000).flat_map(|n| command(&["APPEND", "b", &(n % 10).to_string()])).collect();
    world.send(id, &commands);
    assert!(!world.clients[&id].waiting.is_empty(), "most clients read on soon");
    later(&mut world, Duration::from_millis(20));
    world.settle();
    assert!(world.clients[&id].waiting.is_empty());
    assert_eq!(world.redis["two"].keys[&b"b"[..]].len(), 3001);
    // What isn't read lies at Redis, and doesn't hold up anybody else.
    let own = paused(&world);
    assert!(world.connections[&own].1.output.len() > 10_000);
    let other = world.client(&compiled(&two()));
    world.send(other, &command(&["GET", "c"]));
    world.settle();
    assert_eq!(world.received(other), "$-1 ");
    world.received(id);
    world.multiplexer.downstream_full(id, false);
    world.drain();
    world.settle();
    let expected: String = (2..3002).map(|n| format!(":{n} ")).collect();
    let first = world.received(id);
    assert!(expected.ends_with(&first) && first.len() > 10_000, "{first}");
    // It shares connections again, and its own waits for the next one that needs it.
    let opened = world.opened;
    world.send(id, &command(&["GET", "b"]));
    world.settle();
    assert!(world.received(id).starts_with("$3001 "));
    assert_eq!(world.opened, opened);
    assert_eq!(world.multiplexer.load().idle, 1);
}

#[test]
fn commands_that_need_another_connection_wait_for_the_answers() {
    let mut world = World::new(2);
    let id = unread(&mut world);
    world.send(id, &command(&["APPEND", "b", "x"]).repeat(50));
    world.send(id, &command(&["WATCH", "b"]));
    world.send(id, &[command(&["MULTI"]), command(&["APPEND", "b", "y"]), command(&["EXEC"])].concat());
    later(&mut world, Duration::from_millis(20));
    world.settle();
    world.multiplexer.downstream_full(id, false);
    world.drain();
    world.settle();
    let got = world.received(id);
    assert!(got.ends_with(":50 :51 +OK +OK +QUEUED *1 :52 "), "{got}");
}

#[test]
fn a_client_that_is_gone_leaves_nothing() {
    let mut world = World::new(3);
    let id = unread(&mut world);
    world.send(id, &command(&["APPEND", "b", "x"]).repeat(50));
    later(&mut world, Duration::from_millis(20));
    world.settle();
    let own = paused(&world);
    world.multiplexer.closed(id);
    world.drain();
    assert!(!world.connections.contains_key(&own));
    assert!(world.multiplexer.load().is_idle(), "{:?}", world.multiplexer.load());
}

#[test]
fn what_a_lost_connection_owed_is_told() {
    let lost = "-ERR redis-mesh: the connection to two was lost; the command may have been executed ";
    let mut told = 0;
    for seed in 0..20 {
        let mut world = World::new(seed);
        let id = unread(&mut world);
        world.send(id, &command(&["APPEND", "b", "x"]).repeat(50));
        later(&mut world, Duration::from_millis(20));
        world.settle();
        let own = paused(&world);
        world.connections.remove(&own);
        world.multiplexer.lost(own, world.now);
        world.drain();
        world.multiplexer.downstream_full(id, false);
        world.drain();
        world.settle();
        // After a part of a reply nothing true could be said.
        let is_told = world.received(id).ends_with(lost);
        assert_ne!(is_told, world.clients[&id].is_closed, "seed {seed}");
        told += usize::from(is_told);
    }
    assert!((1..20).contains(&told), "{told}");
}

#[test]
fn a_shared_connection_becomes_that_of_the_client_who_does_not_read_large_replies() {
    let mut world = World::new(5);
    let config = compiled(&one());
    let (id, other) = (world.client(&config), world.client(&config));
    world.send(other, &command(&["SET", "c", "v"]));
    let large = "x".repeat(100_000);
    world.send(id, &command(&["SET", "b", &large]));
    world.settle();
    world.received(id);
    world.send(id, &command(&["GET", "b"]).repeat(16));
    let shared = *world.connections.keys().next().unwrap();
    // The first bytes of the replies fill the client's connection.
    while world.received(id).is_empty() {
        world.arrive();
    }
    world.multiplexer.downstream_full(id, true);
    world.drain();
    world.settle();
    assert!(world.paused.contains(&shared));
    // What the client has asked for since waits behind it at Redis.
    world.send(id, &command(&["GET", "b"]).repeat(16));
    world.settle();
    let before = world.received(id).len();
    assert!(before < 17 * large.len(), "{before}");
    // Others get another connection.
    world.send(other, &command(&["GET", "c"]));
    world.settle();
    assert_eq!(world.received(other), "+OK $1 v ");
    world.multiplexer.downstream_full(id, false);
    world.drain();
    world.settle();
    let all = before + world.received(id).len();
    assert!(all > 31 * large.len(), "{all}");
}

#[test]
fn a_shared_connection_goes_on_until_others_have_their_replies() {
    let mut world = World::new(5);
    let config = compiled(&one());
    let (id, other) = (world.client(&config), world.client(&config));
    let large = "x".repeat(100_000);
    world.send(id, &command(&["SET", "b", &large]));
    world.settle();
    world.send(id, &command(&["GET", "b"]).repeat(16));
    let shared = *world.connections.keys().next().unwrap();
    world.send(other, &command(&["SET", "c", "v"]));
    world.received(id);
    while world.received(id).is_empty() {
        world.arrive();
    }
    world.multiplexer.downstream_full(id, true);
    world.drain();
    // A command that follows must not overtake, and goes over another connection.
    world.send(other, &command(&["GET", "c"]));
    world.settle();
    assert_eq!(world.received(other), "+OK $1 v ");
    assert!(world.paused.is_empty() && !world.connections.contains_key(&shared));
}

#[test]
fn a_shared_connection_stops_when_nobody_who_waits_reads() {
    let mut world = World::new(5);
    let config = compiled(&one());
    let (first, second) = (world.client(&config), world.client(&config));
    let large = "x".repeat(100_000);
    world.send(first, &command(&["SET", "b", &large]));
    world.settle();
    world.received(first);
    world.send(first, &command(&["GET", "b"]).repeat(16));
    world.send(second, &command(&["GET", "b"]).repeat(16));
    let shared = *world.connections.keys().next().unwrap();
    world.multiplexer.downstream_full(second, true);
    while world.received(first).is_empty() {
        world.arrive();
    }
    world.multiplexer.downstream_full(first, true);
    world.drain();
    world.settle();
    assert!(world.paused.contains(&shared));
    assert_eq!(world.received(second), "");
    // The second one's replies come behind those of the first.
    world.multiplexer.downstream_full(second, false);
    world.drain();
    world.settle();
    assert!(world.received(first).len() > 15 * large.len());
    assert!(world.received(second).len() > 16 * large.len());
    world.multiplexer.downstream_full(first, false);
    world.drain();
    world.send(first, &command(&["GET", "c"]));
    world.settle();
    assert_eq!(world.received(first), "$-1 ");
}

#[test]
fn what_nobody_reads_is_bounded_while_others_wait_behind_it() {
    let mut world = World::new(5);
    let limit = 1_500_000;
    world.multiplexer.backlogs().most_kept = limit;
    let (first, large) = (world.client(&compiled(&one())), "x".repeat(100_000));
    world.send(first, &command(&["SET", "b", &large]));
    world.settle();
    let unread = [first, world.client(&compiled(&one())), world.client(&compiled(&one()))];
    let reads = world.client(&compiled(&one()));
    // Much was asked for at once, before anybody knew how much comes.
    for id in unread {
        world.send(id, &command(&["GET", "b"]).repeat(15));
        world.multiplexer.downstream_full(id, true);
    }
    world.send(reads, &command(&["GET", "c"]));
    world.settle();
    assert_eq!(world.received(reads), "$-1 ");
    let received: Vec<usize> = unread.iter().map(|id| world.received(*id).len()).collect();
    let closed: Vec<bool> = unread.iter().map(|id| world.clients[id].is_closed).collect();
    assert!(closed.contains(&true) && closed.contains(&false), "{closed:?} {received:?}");
    let kept = received.iter().zip(&closed).filter(|(_, is_closed)| !**is_closed).map(|(bytes, _)| bytes);
    assert!(kept.sum::<usize>() <= limit + large.len(), "{closed:?} {received:?}");
    // Whoever is left goes on.
    let left = unread[closed.iter().position(|is_closed| !is_closed).unwrap()];
    world.multiplexer.downstream_full(left, false);
    world.send(left, &command(&["GET", "c"]));
    world.settle();
    assert!(world.received(left).ends_with("$-1 "));
}

#[test]
fn a_host_that_cannot_keep_redis_from_sending_holds_requests() {
    let mut world = World::new(6);
    world.multiplexer.backlogs().turn_off();
    let id = unread(&mut world);
    world.send(id, &command(&["APPEND", "b", "x"]));
    later(&mut world, Duration::from_secs(1));
    world.settle();
    assert!(!world.clients[&id].waiting.is_empty());
    assert_eq!(world.opened, 1);
}

/// Connects a client that has a large value at the server `two`, and returns it with the shared
/// connection.
fn with_large_value(world: &mut World) -> (ClientId, ConnectionId) {
    let id = world.client(&compiled(&two()));
    world.send(id, &command(&["SET", "b", &"x".repeat(100_000)]));
    world.settle();
    world.received(id);
    (id, *world.connections.keys().next().unwrap())
}

#[test]
fn a_connection_is_not_taken_over_while_a_part_of_a_command_is_under_way_elsewhere() {
    let mut world = World::new(7);
    let (id, _) = with_large_value(&mut world);
    world.send(id, &command(&["SET", "a:k", "old"]));
    world.settle();
    world.received(id);
    let slow = *world.connections.iter().find(|(_, (name, _))| name == "one").unwrap().0;
    world.paused.insert(slow);
    let opened = world.opened;
    world.send(id, &[command(&["GET", "b"]).repeat(16), command(&["MSET", "c", "new", "a:k", "new"])].concat());
    while world.received(id).is_empty() {
        world.arrive();
    }
    world.multiplexer.downstream_full(id, true);
    world.drain();
    world.settle();
    world.send(id, &command(&["GET", "a:k"]));
    later(&mut world, Duration::from_secs(1));
    world.settle();
    assert_eq!(world.opened, opened, "nothing overtakes");
    world.paused.remove(&slow);
    world.multiplexer.downstream_full(id, false);
    world.drain();
    world.settle();
    assert!(world.received(id).ends_with("+OK $3 new "));
}

#[test]
fn nothing_is_kept_for_a_client_that_is_cut_off() {
    for is_full in [false, true] {
        let mut world = World::new(10);
        let (id, _) = with_large_value(&mut world);
        world.send(id, &command(&["SET", "a:k", "value"]));
        world.settle();
        world.received(id);
        let slow = *world.connections.iter().find(|(_, (name, _))| name == "one").unwrap().0;
        world.paused.insert(slow);
        world.send(id, &[command(&["GET", "a:k"]), command(&["GET", "b"]).repeat(5)].concat());
        world.settle();
        let half = world.connections.get_mut(&slow).unwrap().1.output.drain(..6).collect::<Vec<_>>();
        world.multiplexer.reply(slow, &half, world.now);
        world.drain();
        assert_eq!(world.received(id), "$5 va");
        // The beginning of a request stays, too.
        world.send(id, &[b"*2\r\n$3\r\nGET\r\n$100000\r\n".to_vec(), vec![b'x'; 50_000]].concat());
        assert!(world.multiplexer.load().bytes > 550_000);
        world.multiplexer.downstream_full(id, is_full);
        world.connections.remove(&slow);
        world.multiplexer.lost(slow, world.now);
        world.drain();
        assert!(world.clients[&id].is_closed);
        // The host hasn't told that it is gone.
        let load = world.multiplexer.load();
        assert_eq!((load.clients, load.bytes, world.received(id)), (1, 0, String::new()));
        world.multiplexer.closed(id);
        assert!(world.multiplexer.load().is_idle());
    }
}

#[test]
fn a_connection_for_whose_end_another_waits_goes_on() {
    let mut world = World::new(8);
    let (id, shared) = with_large_value(&mut world);
    later(&mut world, Duration::from_millis(59_900));
    world.send(id, &[command(&["GET", "b"]).repeat(16), command(&["ECHO", "x"])].concat());
    world.paused.insert(shared);
    world.settle();
    // The connection has reached its greatest age, and has a successor.
    later(&mut world, Duration::from_millis(200));
    world.settle();
    assert_eq!(world.opened, 2);
    world.paused.remove(&shared);
    while world.received(id).is_empty() {
        world.arrive();
    }
    world.multiplexer.downstream_full(id, true);
    world.drain();
    let other = world.client(&compiled(&two()));
    world.send(other, &command(&["GET", "c"]));
    world.settle();
    assert_eq!(world.received(other), "$-1 ");
}

#[test]
fn answers_of_the_multiplexers_own_are_written_before_more_is_taken() {
    let mut world = World::new(9);
    let id = world.client(&compiled(&two()));
    world.send(id, &command(&["COMMAND"]));
    let one = world.received(id);
    let many = command(&["COMMAND"]).repeat(200);
    let taken = world.multiplexer.read(id, &many, world.now);
    let held = world.multiplexer.load().bytes;
    assert!(taken < many.len() && held < 2 * 1024 * 1024, "{taken} {held}");
    world.drain();
    world.send(id, &many[taken..]);
    assert!(world.received(id) == one.repeat(200));
}
