//! The pods, and the objects in the cluster as they are changed.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use redis_mesh_tests::redis::Redis;
use serde_json::Value;

use super::behaviour::{CALM, HOSTS, KEYS, LOCKED};
use super::clients::{Board, Crowd};
use super::objects::{LOGIN_SECRET, NAMESPACE, Objects, Rules, clients_secret, destination, secret, service};
use crate::api::ObjectName;
use crate::mesh::{Mesh, eventually};
use crate::operator::{Controller, Operator, controller};
use crate::pod::{Pod, Shape};

/// The passwords that the Redis of the locked host accepts.
pub const LOGINS: [&str; 3] = ["of-blue-0", "of-blue-1", "of-blue-2"];
/// The last number of the address of the host without rules.
const CALM_ADDRESS: u8 = 119;
/// The last number of the first host's pod.
const PODS: u8 = 80;

/// The time in which a Service has a listener that was that of another one: after a kill it takes 15 s until a
/// controller leads again.
const LISTENER: Duration = Duration::from_secs(60);

/// Everything of a run.
#[derive(Debug)]
pub struct World<'a> {
    /// The mesh.
    pub mesh: &'a mut Mesh,
    /// What the clients know.
    pub board: Arc<Board>,
    /// The objects in the cluster.
    pub objects: Objects,
    /// The options of the controller.
    pub options: controller::Options,
    /// The pods of the hosts.
    servers: Vec<(Pod, Redis)>,
    /// A second client, whose sidecar has the dynamic module.
    native: Option<Pod>,
}

impl<'a> World<'a> {
    /// Starts the pods of the hosts, and if wanted a second client with the dynamic module.
    pub fn start(mesh: &'a mut Mesh, options: controller::Options, with_native: bool) -> Result<World<'a>> {
        let mut servers = Vec::new();
        for (number, name) in HOSTS.iter().chain([&CALM]).enumerate() {
            let pod = mesh.pod(name, NAMESPACE, name, PODS + number as u8, false)?;
            let redis = pod.redis((number == LOCKED).then_some(LOGINS[0]))?;
            for key in KEYS {
                redis.cmd(&["SET", key, name])?;
            }
            servers.push((pod, redis));
        }
        for login in LOGINS {
            servers[LOCKED].1.cmd(&["ACL", "SETUSER", "default", &format!(">{login}")])?;
        }
        let native = with_native.then(|| {
            let shape =
                Shape { name: "chaos-native", namespace: NAMESPACE, app: "n", host: 90, sidecar: true, module: true };
            Pod::start(&mesh.plane, &mesh.network, &shape)
        });
        let (board, objects) = (Arc::new(Board::new()), Objects::default());
        let mut world = World { mesh, board, objects, options, servers, native: native.transpose()? };
        let options = world.options.clone();
        world.controller()?.restart_as(options)?;
        world.apply(&service(CALM, CALM_ADDRESS, PODS + HOSTS.len() as u8))?;
        for host in 0..HOSTS.len() {
            world.create_service(host, 120 + host as u8)?;
        }
        Ok(world)
    }

    /// Starts clients of all hosts.
    pub fn crowd(&self, seed: u64) -> Result<Crowd> {
        let calm = Ipv4Addr::new(10, 96, 0, CALM_ADDRESS);
        self.wait_listener(CALM, calm)?;
        let pods: Vec<_> = self.clients().map(|pod| pod.network_namespace().clone()).collect();
        Ok(Crowd::start(&self.board, &pods, calm, seed))
    }

    /// The pods of clients.
    pub fn clients(&self) -> impl Iterator<Item = &Pod> {
        [&self.mesh.client].into_iter().chain(&self.native)
    }

    /// The controller.
    pub fn controller(&mut self) -> Result<&mut Controller> {
        match &mut self.mesh.operator {
            Operator::Controller(controller) => Ok(controller),
            Operator::Rendered(_) => bail!("there is no controller"),
        }
    }

    /// Starts the controller without waiting for it.
    pub fn launch(&mut self) -> Result<()> {
        let options = self.options.clone();
        self.controller()?.begin_as(options)
    }

    /// Deletes the objects and ends the pods.
    pub fn end(mut self) -> Result<()> {
        for host in 0..HOSTS.len() {
            self.set_rules(host, None)?;
            self.set_secret(host, None)?;
        }
        self.set_destination(false)?;
        self.set_login(None)?;
        for host in HOSTS.iter().chain([&CALM]) {
            self.mesh.delete(&of_service(host))?;
        }
        for (pod, redis) in self.servers.drain(..) {
            drop(redis);
            pod.delete()?;
        }
        self.native.take().map_or(Ok(()), Pod::delete)
    }

    /// Applies manifests without telling anybody.
    fn apply(&self, manifests: &[Value]) -> Result<()> {
        manifests.iter().try_for_each(|manifest| self.mesh.api().apply_object(manifest).map(drop))
    }

    /// Makes what follows from the objects possible for clients.
    fn open(&self) {
        let mut possible = self.board.possible();
        for host in 0..HOSTS.len() {
            // Of objects with errors the last good state holds, which is possible already.
            if let Some(behaviour) = self.objects.sayable(host) {
                possible.hosts[host].open(behaviour);
            }
        }
        possible.login.open(self.objects.has_destination);
    }

    /// Writes or deletes the rules of a host.
    pub fn set_rules(&mut self, host: usize, rules: Option<Rules>) -> Result<()> {
        let before = std::mem::replace(&mut self.objects.rules[host], rules);
        self.open();
        let now = &self.objects.rules[host];
        if let Some(before) = before
            && now.as_ref().is_none_or(|rules| rules.name != before.name)
        {
            self.mesh.api().delete(&ObjectName::new("RedisService", NAMESPACE, &before.name))?;
        }
        now.as_ref().map_or(Ok(()), |rules| self.apply(&[rules.manifest(host)]))
    }

    /// Gives the rules of a host another name: the new object is there before the old one goes.
    pub fn rename(&mut self, host: usize, rules: Rules) -> Result<()> {
        let before = self.objects.rules[host].replace(rules.clone()).context("no rules to rename")?;
        self.open();
        self.apply(&[rules.manifest(host)])?;
        self.mesh.api().delete(&ObjectName::new("RedisService", NAMESPACE, &before.name))
    }

    /// Writes or deletes the Secret of a host's clients.
    pub fn set_secret(&mut self, host: usize, password: Option<String>) -> Result<()> {
        self.objects.secrets[host] = password;
        if self.objects.secrets[host].is_some() {
            self.open();
        }
        self.write_secret(&clients_secret(host), self.objects.secrets[host].as_deref())
    }

    /// Writes or deletes the Secret of the RedisDestination.
    pub fn set_login(&mut self, login: Option<String>) -> Result<()> {
        self.objects.login = login;
        self.write_secret(LOGIN_SECRET, self.objects.login.as_deref())
    }

    fn write_secret(&self, name: &str, password: Option<&str>) -> Result<()> {
        match password {
            Some(password) => self.apply(&[secret(name, password)]),
            None => self.mesh.api().delete(&ObjectName::new("Secret", NAMESPACE, name)),
        }
    }

    /// Writes or deletes the RedisDestination.
    pub fn set_destination(&mut self, exists: bool) -> Result<()> {
        self.objects.has_destination = exists;
        self.open();
        match exists {
            true => self.apply(&[destination()]),
            false => self.mesh.api().delete(&ObjectName::new("RedisDestination", NAMESPACE, HOSTS[LOCKED])),
        }
    }

    /// Deletes the Service of a host. Clients don't connect meanwhile.
    pub fn delete_service(&mut self, host: usize) -> Result<()> {
        self.board.set_address(host, None);
        self.objects.services[host] = None;
        for name in of_service(HOSTS[host]) {
            self.mesh.api().delete(&name)?;
        }
        self.mesh.sync()
    }

    /// Creates the Service of a host at an address. Clients connect as soon as every sidecar has a listener
    /// that leads to it, since before that no rules can hold: Istio lets pass what it doesn't know.
    pub fn create_service(&mut self, host: usize, address: u8) -> Result<()> {
        self.objects.services[host] = Some(address);
        self.apply(&service(HOSTS[host], address, PODS + host as u8))?;
        let ip = Ipv4Addr::new(10, 96, 0, address);
        self.wait_listener(HOSTS[host], ip)?;
        self.mesh.sync()?;
        self.board.set_address(host, Some(ip));
        Ok(())
    }

    /// Waits until every client's sidecar has a listener of a host.
    fn wait_listener(&self, host: &str, ip: Ipv4Addr) -> Result<()> {
        let name = format!("{ip}_6379");
        eventually(LISTENER, || {
            for pod in self.clients() {
                let listener = pod.sidecar()?.listener(&name)?.with_context(|| format!("no listener {name}"))?;
                ensure!(listener.to_string().contains(host), "the listener {name} is not of {host}: {listener}");
            }
            Ok(())
        })
        .with_context(|| format!("waiting for the listener of {host}"))
    }

    /// Makes the API server unreachable for a while.
    pub fn without_api(&mut self, time: Duration) -> Result<()> {
        self.mesh.plane.stop_api_server();
        std::thread::sleep(time);
        self.mesh.plane.start_api_server()
    }
}

/// The objects of a Service.
fn of_service(name: &str) -> [ObjectName; 2] {
    [ObjectName::new("Service", NAMESPACE, name), ObjectName::new("EndpointSlice", NAMESPACE, &format!("{name}-1"))]
}
