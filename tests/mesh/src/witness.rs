//! A proxy that the controller asks what it has taken, as it asks the sidecar of its own pod.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use redis_mesh_tests::netns::Namespace;
use serde_json::Value;

use crate::mesh::Mesh;
use crate::network::NODE;
use crate::operator::controller::NAMESPACE;
use crate::pod::Pod;

const PATIENCE: Duration = Duration::from_secs(5);

/// A pod in the controller's namespace, with a way to the admin interface of its sidecar, which listens
/// on the pod's loopback device only.
#[derive(Debug)]
pub struct Witness {
    pod: Pod,
    url: String,
    is_away: Arc<AtomicBool>,
}

impl Witness {
    /// Starts the pod and waits until its sidecar has its configuration.
    pub fn start(mesh: &Mesh) -> Result<Witness> {
        let pod = mesh.pod("witness", NAMESPACE, "witness", 70, true)?;
        let listener = TcpListener::bind((NODE, 0))?;
        let url = format!("http://{}", listener.local_addr()?);
        let is_away = Arc::new(AtomicBool::new(false));
        let (namespace, is_refused) = (pod.network_namespace().clone(), is_away.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (namespace, is_refused) = (namespace.clone(), is_refused.clone());
                // A connection that ends in the middle concerns nobody else.
                std::thread::spawn(move || pass(client, &namespace, &is_refused).ok());
            }
        });
        Ok(Witness { pod, url, is_away })
    }

    /// The base URL of the admin interface.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The pod.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Takes the way to the admin interface away, or brings it back.
    pub fn set_away(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::Relaxed);
    }

    /// The metadata of the marker that the sidecar has.
    pub fn marker(&self) -> Result<Value> {
        let marker = self.pod.sidecar()?.cluster("redis-mesh-marker")?.context("there is no marker")?;
        Ok(marker["metadata"]["filter_metadata"]["redis-mesh"].clone())
    }

    /// Ends the pod.
    pub fn delete(self) -> Result<()> {
        self.pod.delete()
    }
}

/// Passes a connection on, until either end closes it or the way is taken away.
fn pass(mut client: TcpStream, namespace: &Namespace, is_away: &AtomicBool) -> Result<()> {
    if is_away.load(Ordering::Relaxed) {
        return Ok(());
    }
    let mut admin = namespace.connect(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 15000), PATIENCE)?;
    let (mut from, mut to) = (admin.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        let result = std::io::copy(&mut from, &mut to);
        to.shutdown(Shutdown::Both).and(result.map(drop)).ok()
    });
    let mut bytes = [0; 4096];
    loop {
        let read = client.read(&mut bytes)?;
        if read == 0 || is_away.load(Ordering::Relaxed) {
            admin.shutdown(Shutdown::Both)?;
            return Ok(());
        }
        admin.write_all(&bytes[..read])?;
    }
}
