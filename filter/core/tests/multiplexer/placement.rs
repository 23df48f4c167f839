//! A destination with several servers that is no Redis Cluster.

use crate::config::{compiled, placed};
use crate::redis::Redis;
use crate::world::{World, command};
use redis_mesh_core::maglev::key_hash::key_hash;
use redis_mesh_core::maglev::table::{MaglevTable, Member};
use redis_mesh_core::multiplexer::{ClientId, Output};
use redis_mesh_core::wire::KeyHash;

/// The members with these numbers.
fn members(numbers: &[u8]) -> Vec<Member> {
    numbers.iter().map(|number| Member { address: ([10, 0, 0, *number], 6379).into(), weight: 1 }).collect()
}

/// A world with servers 1 to 3, of which these are members.
fn world(numbers: &[u8]) -> World {
    let mut world = World::new(1);
    world.redis.extend(members(&[1, 2, 3]).iter().map(|member| (member.address.to_string(), Redis::default())));
    world.multiplexer.set_members("three", members(numbers), world.now);
    world
}

/// The number of the member that has a key.
fn place(numbers: &[u8], key: &str) -> u8 {
    numbers[MaglevTable::new(&members(numbers)).unwrap().member(key_hash(KeyHash::Key, key.as_bytes()))]
}

/// Keys of a member.
fn keys_of(numbers: &[u8], number: u8) -> impl Iterator<Item = String> {
    (0..).map(|key: u32| key.to_string()).filter(move |key| place(numbers, key) == number)
}

fn ask(world: &mut World, client: ClientId, line: &str) -> String {
    world.send(client, &command(&line.split(' ').collect::<Vec<_>>()));
    world.settle();
    world.received(client)
}

fn holders(world: &World, key: &str) -> Vec<String> {
    let has = |redis: &Redis| redis.keys.contains_key(key.as_bytes());
    world.redis.iter().filter(|(_, redis)| has(redis)).map(|(name, _)| name.clone()).collect()
}

#[test]
fn each_key_is_on_the_member_that_has_its_hash() {
    let mut world = world(&[1, 2, 3]);
    let client = world.client(&compiled(&placed()));
    for key in (0..60).map(|key| key.to_string()) {
        assert_eq!(ask(&mut world, client, &format!("SET {key} v{key}")), "+OK ");
        assert_eq!(holders(&world, &key), [format!("10.0.0.{}:6379", place(&[1, 2, 3], &key))]);
    }
    assert_eq!(ask(&mut world, client, "MGET 1 2 3 4 5 6"), "*6 $2 v1 $2 v2 $2 v3 $2 v4 $2 v5 $2 v6 ");
    assert_eq!(ask(&mut world, client, "DEL 1 2 3 4 5 6"), ":6 ");
    assert_eq!(world.opened, 3);
}

#[test]
fn a_transaction_goes_to_one_server() {
    let mut world = world(&[1, 2, 3]);
    let client = world.client(&compiled(&placed()));
    let of = |number: u8| keys_of(&[1, 2, 3], number).take(2).collect::<Vec<_>>();
    let (together, elsewhere) = (of(1), of(2));
    let apart = "-CROSSSLOT redis-mesh: keys are on different servers of their destination ";
    let line = format!("SINTER {} {}", together[0], elsewhere[0]);
    assert_eq!(ask(&mut world, client, &line), apart);
    assert_eq!(ask(&mut world, client, "MULTI"), "+OK ");
    for key in &together {
        assert_eq!(ask(&mut world, client, &format!("SET {key} v")), "+QUEUED ");
    }
    assert_eq!(ask(&mut world, client, "EXEC"), "*2 +OK +OK ");
    assert_eq!(ask(&mut world, client, "MULTI"), "+OK ");
    assert_eq!(ask(&mut world, client, &format!("SET {} v", together[0])), "+QUEUED ");
    assert_eq!(ask(&mut world, client, &format!("SET {} v", elsewhere[0])), apart);
    assert!(ask(&mut world, client, "EXEC").starts_with("-EXECABORT"));
}

#[test]
fn keys_move_when_a_member_leaves() {
    let mut world = world(&[1, 2, 3]);
    let client = world.client(&compiled(&placed()));
    let key = keys_of(&[1, 2, 3], 2).next().unwrap();
    ask(&mut world, client, &format!("SET {key} before"));
    let now = world.now;
    world.multiplexer.set_members("three", members(&[1, 3]), now);
    world.drain();
    assert!(world.connections.values().all(|(name, _)| name != "10.0.0.2:6379"), "the connection is closed");
    ask(&mut world, client, &format!("SET {key} after"));
    assert_eq!(holders(&world, &key), ["10.0.0.2:6379".to_owned(), format!("10.0.0.{}:6379", place(&[1, 3], &key))]);
    // Without any healthy member, keys have no other place.
    world.multiplexer.set_members("three", Vec::new(), now);
    assert_eq!(ask(&mut world, client, &format!("GET {key}")), "$5 after ");
}

/// Sends SCAN with a cursor. Returns the next cursor and the names, or the error.
fn scan(world: &mut World, client: ClientId, cursor: &str) -> Result<(String, Vec<String>), String> {
    let reply = ask(world, client, &format!("SCAN {cursor}"));
    let words: Vec<String> = reply.split(' ').map(str::to_owned).collect();
    match words[0].as_str() {
        "*2" => Ok((words[2].clone(), words.iter().skip(5).step_by(2).filter(|name| **name != *"").cloned().collect())),
        _ => Err(reply),
    }
}

/// Goes on with a SCAN to its end.
fn scan_on(world: &mut World, client: ClientId, cursor: &str) -> Result<Vec<String>, String> {
    let (mut cursor, mut all) = scan(world, client, cursor)?;
    while cursor != "0" {
        let (next, names) = scan(world, client, &cursor)?;
        all.extend(names);
        cursor = next;
    }
    all.sort();
    Ok(all)
}

#[test]
fn a_scan_finds_all_keys_or_says_that_the_servers_have_changed() {
    let mut world = world(&[1, 2, 3]);
    let client = world.client(&compiled(&placed()));
    let mut keys: Vec<String> = (0..90).map(|key| key.to_string()).collect();
    keys.sort();
    for key in &keys {
        ask(&mut world, client, &format!("SET {key} v"));
    }
    assert_eq!(scan_on(&mut world, client, "0"), Ok(keys.clone()));
    // The second server of three is asked when the first one goes: the third one isn't left out.
    let (mut cursor, mut found) = scan(&mut world, client, "0").unwrap();
    while found.len() < 35 {
        let (next, names) = scan(&mut world, client, &cursor).unwrap();
        found.extend(names);
        cursor = next;
    }
    let now = world.now;
    let changed =
        "-ERR redis-mesh: the servers behind this SCAN, or what they hold, have changed; begin again with cursor 0 ";
    for left in [&[2, 3][..], &[1, 3], &[3]] {
        world.multiplexer.set_members("three", members(left), now);
        world.drain();
        assert_eq!(scan(&mut world, client, &cursor), Err(changed.to_owned()), "{left:?}");
    }
    let expected: Vec<String> = keys.iter().filter(|key| holders(&world, key) == ["10.0.0.3:6379"]).cloned().collect();
    assert_eq!(scan_on(&mut world, client, "0"), Ok(expected));
    // They are the same again.
    world.multiplexer.set_members("three", members(&[1, 2, 3]), now);
    world.drain();
    found.extend(scan_on(&mut world, client, &cursor).unwrap());
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 90);
}

#[test]
fn a_single_member_has_all_keys() {
    let mut world = world(&[2]);
    let client = world.client(&compiled(&placed()));
    for line in ["MULTI", "SET 1 v", "SET 2 v"] {
        ask(&mut world, client, line);
    }
    assert_eq!(ask(&mut world, client, "EXEC"), "*2 +OK +OK ");
    assert_eq!(holders(&world, "2"), ["10.0.0.2:6379"]);
}

#[test]
fn no_key_goes_anywhere_before_the_members_are_known() {
    let mut world = world(&[]);
    let config = compiled(&placed());
    let asked = |output| output == Some(Output::FindMembers("three".into()));
    let client = world.client(&config);
    assert!(asked(world.multiplexer.poll()));
    world.multiplexer.read(client, &command(&["GET", "1"]), world.now);
    assert!(asked(world.multiplexer.poll()), "it is asked for again");
    world.drain();
    assert_eq!(world.opened, 0);
    let client = world.client(&config);
    let now = world.now;
    world.multiplexer.set_members("three", members(&[1, 2]), now);
    assert_eq!(ask(&mut world, client, "SET 1 v"), "+OK ");
}
