//! What must be so when all changes have arrived.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use redis_mesh_tests::client::Client;

use super::behaviour::{Behaviour, HOSTS, KEYS, LOCKED};
use super::objects::{NAMESPACE, fqdn};
use super::world::World;
use crate::api::{ObjectName, condition};
use crate::mesh::eventually;
use crate::pod::Pod;

/// The time in which all changes arrive, restarts included.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until every answer and every status is as the objects say. From then on nothing else is possible for
/// hosts whose objects have no errors. Returns how long it took.
pub fn settle(world: &World<'_>) -> Result<Duration> {
    let begin = Instant::now();
    eventually(PATIENCE, || {
        world.board.ensure_clean()?;
        statuses(world)?;
        answers(world)
    })?;
    let objects = &world.objects;
    let mut possible = world.board.possible();
    for host in 0..HOSTS.len() {
        if let (behaviour, true) = objects.behaviour(host) {
            possible.hosts[host].settle(&behaviour);
        }
    }
    if objects.is_destination_valid() {
        possible.login.settle(&objects.has_destination);
    }
    drop(possible);
    Ok(begin.elapsed())
}

fn statuses(world: &World<'_>) -> Result<()> {
    let objects = &world.objects;
    let rules = (0..HOSTS.len()).filter_map(|host| {
        let rules = objects.rules[host].as_ref()?;
        Some((ObjectName::new("RedisService", NAMESPACE, &rules.name), objects.behaviour(host).1))
    });
    let name = ObjectName::new("RedisDestination", NAMESPACE, HOSTS[LOCKED]);
    let destination = objects.has_destination.then(|| (name, objects.is_destination_valid()));
    for (name, is_valid) in rules.chain(destination) {
        let object = world.mesh.api().get(&name)?.context("there is no such object")?;
        let programmed = condition(&object, "Programmed").with_context(|| format!("{name:?} has no status"))?;
        let expected = if is_valid { "True" } else { "False" };
        ensure!(programmed["status"] == expected, "{name:?} is {programmed}, not {expected}");
        ensure!(programmed["observedGeneration"] == object["metadata"]["generation"], "{name:?}: {programmed} is old");
    }
    Ok(())
}

fn answers(world: &World<'_>) -> Result<()> {
    for pod in world.clients() {
        for (host, name) in HOSTS.iter().enumerate() {
            let ((behaviour, true), Some(_)) = (world.objects.behaviour(host), world.objects.services[host]) else {
                continue;
            };
            // Two of them, since a listener that is replaced takes connections for a moment.
            for _ in 0..2 {
                answer(world, pod, host, &behaviour)
                    .with_context(|| format!("{name} asked by {}, with {:?}", pod.name().name, world.objects))?;
            }
        }
    }
    Ok(())
}

fn answer(world: &World<'_>, pod: &Pod, host: usize, behaviour: &Behaviour) -> Result<()> {
    let mut client = pod.client(&fqdn(HOSTS[host]))?;
    if let Some(password) = &behaviour.password {
        let reply = client.cmd(&["GET", KEYS[0]])?.tty();
        ensure!(reply == "(error) NOAUTH Authentication required.", "without a password: {reply}");
        let reply = client.cmd(&["AUTH", password])?.tty();
        ensure!(reply == "OK", "AUTH {password}: {reply}");
    }
    for (key, target) in KEYS.iter().zip(behaviour.targets) {
        read(&mut client, key, target, world)?;
    }
    Ok(())
}

fn read(client: &mut Client, key: &str, target: usize, world: &World<'_>) -> Result<()> {
    let objects = &world.objects;
    if target == LOCKED && !objects.is_destination_valid() {
        return Ok(());
    }
    let reply = client.cmd(&["GET", key])?;
    match target == LOCKED && !objects.has_destination {
        true => ensure!(reply.is_error() && reply.text().contains("NOAUTH"), "{key} without a login: {}", reply.tty()),
        false => ensure!(!reply.is_error() && reply.text() == HOSTS[target], "{key}: {}", reply.tty()),
    }
    Ok(())
}
