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
    way: Way,
}

/// A way to the admin interface.
#[derive(Debug)]
pub struct Way {
    url: String,
    is_away: Arc<AtomicBool>,
    is_mute: Arc<AtomicBool>,
}

impl Way {
    fn to(pod: &Pod) -> Result<Way> {
        let listener = TcpListener::bind((NODE, 0))?;
        let url = format!("http://{}", listener.local_addr()?);
        let (is_away, is_mute) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (namespace, is_refused, is_silent) = (pod.network_namespace().clone(), is_away.clone(), is_mute.clone());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (namespace, is_refused, is_silent) = (namespace.clone(), is_refused.clone(), is_silent.clone());
                // A connection that ends in the middle concerns nobody else.
                std::thread::spawn(move || pass(client, &namespace, &is_refused, &is_silent).ok());
            }
        });
        Ok(Way { url, is_away, is_mute })
    }

    /// The base URL of the admin interface.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Witness {
    /// Starts the pod and waits until its sidecar has its configuration.
    pub fn start(mesh: &Mesh) -> Result<Witness> {
        let pod = mesh.pod("witness", NAMESPACE, "witness", 70, true)?;
        let way = Way::to(&pod)?;
        Ok(Witness { pod, way })
    }

    /// Another way to the admin interface, which stays there when the first one is taken away.
    pub fn another_way(&self) -> Result<Way> {
        Way::to(&self.pod)
    }

    /// The base URL of the admin interface.
    pub fn url(&self) -> &str {
        self.way.url()
    }

    /// The pod.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Takes the way to the admin interface away, or brings it back.
    pub fn set_away(&self, is_away: bool) {
        self.way.is_away.store(is_away, Ordering::Relaxed);
    }

    /// Has the sidecar not say which clusters it lacks, or say it again.
    pub fn set_mute(&self, is_mute: bool) {
        self.way.is_mute.store(is_mute, Ordering::Relaxed);
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
fn pass(mut client: TcpStream, namespace: &Namespace, is_away: &AtomicBool, is_mute: &AtomicBool) -> Result<()> {
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
        let asks = String::from_utf8_lossy(&bytes[..read]).contains("dynamic_warming_clusters");
        if read == 0 || is_away.load(Ordering::Relaxed) || asks && is_mute.load(Ordering::Relaxed) {
            admin.shutdown(Shutdown::Both)?;
            return Ok(());
        }
        admin.write_all(&bytes[..read])?;
    }
}
