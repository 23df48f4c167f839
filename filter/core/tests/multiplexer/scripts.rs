//! Scripts that a server doesn't know.

use crate::config::{compiled, two};
use crate::world::{World, command};

#[test]
fn scripts_are_loaded_where_they_are_not_known() {
    let mut world = World::new(9);
    let id = world.client(&compiled(&two()));
    let send = |world: &mut World, lines: &[&str]| {
        let bytes: Vec<u8> = lines.iter().flat_map(|line| command(&line.split(' ').collect::<Vec<_>>())).collect();
        world.send(id, &bytes);
        world.settle();
        world.received(id)
    };
    let sha = "82e0e2f7ee9fb0b6b9e5ec1b4a0d1d2e8e4ab1d8";
    let missing = "-NOSCRIPT No matching script. Please use EVAL. ";
    assert_eq!(send(&mut world, &[&format!("EVALSHA {sha} 1 k x")]), missing);
    let sha = send(&mut world, &["SCRIPT LOAD append"]).split(' ').nth(1).unwrap().to_owned();
    let call = format!("EVALSHA {sha} 1 k x");
    let flush = |world: &mut World| world.redis.values_mut().for_each(|redis| redis.scripts.clear());
    // In a pipeline: another server, and one that has lost the script.
    flush(&mut world);
    let elsewhere = format!("EVALSHA {sha} 1 a:k x");
    assert_eq!(send(&mut world, &[&call, "GET k", &elsewhere, "GET a:k"]), ":1 $1 x :1 $1 x ");
    // In a transaction over a new connection, to a server that has lost the script.
    flush(&mut world);
    world.connections.keys().copied().collect::<Vec<_>>().into_iter().for_each(|id| {
        world.connections.remove(&id);
        world.multiplexer.lost(id, world.now);
        world.drain();
    });
    assert_eq!(send(&mut world, &["MULTI", &call, "GET k", "EXEC"]), "+OK +QUEUED +QUEUED *2 :2 $2 xx ");
    // A server that has lost the script while the connection stays open. The words could be a
    // script's, so nothing is sent again.
    flush(&mut world);
    assert_eq!(send(&mut world, &[&call, "GET k"]), format!("{missing}$2 xx "));
    assert_eq!(send(&mut world, &[&call, "GET k"]), ":3 $3 xxx ");
    flush(&mut world);
    assert_eq!(send(&mut world, &["MULTI", &call, "EXEC"]), format!("+OK +QUEUED *1 {missing}"));
    assert_eq!(send(&mut world, &["MULTI", &call, "EXEC"]), "+OK +QUEUED *1 :4 ");
    // SCRIPT FLUSH applies to the scripts that are remembered here, too.
    assert_eq!(send(&mut world, &["SCRIPT FLUSH", &call]), format!("+OK {missing}"));
}
