//! Which commands arrive at a mirror, compared with what `redis-mesh explain` says of each.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use redis_mesh_core::command::{self, Begin, Command, Find};
use redis_mesh_tests::cli;
use redis_mesh_tests::client::Client;
use redis_mesh_tests::envoy::{Envoy, Options};
use redis_mesh_tests::native;
use redis_mesh_tests::net::Subnet;
use redis_mesh_tests::process::wait_until;
use redis_mesh_tests::scene::Scene;

use crate::PATIENCE;
use crate::scripted;

/// The names of the commands that have arrived at a server, with their first arguments.
type Arrived = Arc<Mutex<Vec<String>>>;

/// A server that answers `+OK` to everything and executes nothing, so that SHUTDOWN, REPLICAOF and
/// FLUSHALL can be tried, too.
fn server(addr: SocketAddr) -> Result<Arrived> {
    let (listener, arrived) = (TcpListener::bind(addr)?, Arrived::default());
    let all = arrived.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let arrived = all.clone();
            thread::spawn(move || answer(stream, &arrived));
        }
    });
    Ok(arrived)
}

fn answer(mut stream: TcpStream, arrived: &Arrived) {
    let (mut input, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        input.extend_from_slice(&buffer[..length]);
        let mut at = 0;
        while let Some((words, length)) = scripted::command(&input[at..]) {
            let shown = words[..words.len().min(2)].join(" ");
            at += length;
            if shown != "PING" {
                arrived.lock().unwrap().push(shown);
            }
            if stream.write_all(b"+OK\r\n").is_err() {
                return;
            }
        }
        input.drain(..at);
    }
}

/// A request with as many arguments as a command needs at least.
fn request(command: &Command) -> Vec<String> {
    let mut words: Vec<String> = command.name.split('|').map(str::to_owned).collect();
    words.resize(usize::from(command.arity.unsigned_abs()).max(words.len()), "k".to_owned());
    for spec in command.key_specs.specs {
        if let (Begin::Index(begin), Find::KeyNum { number, first, .. }) = (spec.begin, spec.find) {
            let (number, first) = ((begin + number) as usize, (begin + first) as usize);
            let length = words.len().max(first + 1);
            words.resize(length, "k".to_owned());
            words[number] = "1".to_owned();
        }
    }
    words
}

#[test]
fn explain_tells_of_every_command_whether_it_is_mirrored() -> Result<()> {
    let subnet = Subnet::claim()?;
    server(subnet.redis(21))?;
    let mirrors = [server(subnet.redis(22))?, server(subnet.redis(23))?];
    let mut scene = Scene::on(&subnet);
    scene.service("front", 1, &[21]).service("data", 2, &[22]).service("all", 3, &[23]);
    let all = "{route: {host: all}, includeAdmin: true, excludeReadCommands: true}";
    scene.rules(
        "front",
        "native",
        &format!("redis: [{{route: {{host: front}}, mirror: [{{route: {{host: data}}}}, {all}]}}]"),
    );
    let module = native::build()?;
    let config = cli::render_envoy_text(scene.manifests(), &["--module", &module.to_string_lossy()])?;
    let envoy = Envoy::start_with(&config, &Options { concurrency: 1, ..Options::default() })?;
    std::fs::write(envoy.dir().join("mirrors.yaml"), scene.manifests())?;
    let mut marker = Client::connect(subnet.redis(1))?;
    let (mut differences, mut mirrored) = (Vec::new(), [0, 0]);
    let rows = command::all().iter().flat_map(|row| std::iter::once(row).chain(row.subcommands));
    for (number, row) in rows.filter(|row| row.subcommands.is_empty()).enumerate() {
        let request = request(row);
        mirrors.iter().for_each(|arrived| arrived.lock().unwrap().clear());
        let mut client = Client::connect(subnet.redis(1))?;
        client.send(&request)?;
        // Until it has been answered, unless it isn't.
        let _ = client.read_within(Duration::from_millis(300));
        let name = format!("marker-{number}");
        marker.cmd(&["SET", &name, "x"])?;
        let line = format!("SET {name}");
        let is_there = || mirrors.iter().all(|arrived| arrived.lock().unwrap().contains(&line));
        wait_until("the marker", PATIENCE, is_there)?;
        let mut args = vec!["explain", "-f", "mirrors.yaml", "--host", "front", "--"];
        args.extend(request.iter().map(String::as_str));
        let said = cli::run_in(envoy.dir(), &args)?;
        for (index, (host, arrived)) in ["data", "all"].into_iter().zip(&mirrors).enumerate() {
            let has_arrived = arrived.lock().unwrap().len() > 1;
            let line = |line: &&str| line.contains(&format!(" {host}.")) && line.contains("100 % of such commands");
            if has_arrived != said.stdout.lines().any(|said| line(&said)) {
                differences.push(format!("{host}: {request:?} arrived: {has_arrived}\n{}{}", said.stdout, said.stderr));
            }
            mirrored[index] += usize::from(has_arrived);
        }
    }
    println!("{mirrored:?} commands are mirrored");
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    ensure!(mirrored[0] > 150 && mirrored[1] > 100, "{mirrored:?}");
    Ok(())
}
