//! Requests whose ends don't come.

use crate::config::{compiled, two};
use crate::world::{World, command};
use redis_mesh_core::multiplexer::ClientId;

const MEGABYTE: usize = 1024 * 1024;

/// Sends this many megabytes of a value.
fn send_value(world: &mut World, id: ClientId, megabytes: usize) {
    let piece = vec![b'v'; MEGABYTE];
    for _ in 0..megabytes {
        assert_eq!(world.multiplexer.read(id, &piece, world.now), MEGABYTE);
        world.drain();
    }
}

#[test]
fn whoever_has_sent_the_most_of_a_request_without_its_end_loses_the_connection() {
    let mut world = World::new(1);
    let (hostile, other) = (world.client(&compiled(&two())), world.client(&compiled(&two())));
    for id in [hostile, other] {
        world.send(id, &command(&["ECHO", "x"]));
        world.send(id, b"*3\r\n$3\r\nSET\r\n$1\r\nb\r\n$419430400\r\n");
    }
    send_value(&mut world, hostile, 399);
    send_value(&mut world, other, 113);
    assert_eq!(world.received(hostile), "$1 x ");
    let bytes = world.multiplexer.load().bytes;
    assert!((512 * MEGABYTE..514 * MEGABYTE).contains(&bytes), "{bytes}");
    send_value(&mut world, other, 4);
    let error = "-ERR redis-mesh: the requests that aren't complete are more than 513 MB on this worker ";
    assert_eq!(world.received(hostile), error);
    assert!(world.clients[&hostile].is_closed);
    // What follows of it is ignored, and the other is served.
    send_value(&mut world, hostile, 2);
    assert!(world.multiplexer.load().bytes < 120 * MEGABYTE);
    send_value(&mut world, other, 400 - 117);
    world.send(other, b"\r\n");
    world.settle();
    assert_eq!(world.received(other), "$1 x +OK ");
    assert_eq!(world.redis["two"].keys[&b"b"[..]].len(), 400 * MEGABYTE);
    assert!(!world.clients[&other].is_closed);
}
