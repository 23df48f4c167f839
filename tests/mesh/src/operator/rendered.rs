//! A person who runs `redis-mesh render istio
//! kubectl apply --prune`.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use redis_mesh_tests::{cli, workspace};
use serde_json::{Value, json};

use crate::api::{ObjectName, documents};
use crate::control_plane::{ControlPlane, ROOT_NAMESPACE};
use crate::filter_server::FilterServer;

/// The kinds of objects that are rendered from.
const INPUTS: &[&str] = &["Service", "EndpointSlice", "ServiceEntry", "Secret", "RedisService", "RedisDestination"];

const OURS: [&str; 2] = ["RedisService", "RedisDestination"];

/// The person's options, and the objects that they have applied.
#[derive(Debug)]
pub struct Rendered {
    filter: FilterServer,
    applied: BTreeSet<ObjectName>,
    /// Further arguments of `render istio`, such as `--delivery per-host`.
    pub arguments: Vec<String>,
    revision: u64,
    /// The input of the last run, with the arguments.
    seen: Value,
}

impl Rendered {
    /// Creates an operator that has applied nothing.
    pub fn new() -> Result<Rendered> {
        Ok(Rendered {
            filter: FilterServer::start()?,
            applied: BTreeSet::new(),
            arguments: Vec::new(),
            revision: 0,
            seen: Value::Null,
        })
    }

    /// Renders the objects in the cluster, applies the result, and deletes objects that are no
    /// longer part of it.
    pub fn sync(&mut self, plane: &ControlPlane) -> Result<()> {
        let seen = json!([self.read(plane)?, self.arguments]);
        if seen == self.seen {
            return Ok(());
        }
        let objects = self.render(plane)?;
        let applied = objects.iter().map(|object| plane.api().apply_object(object)).collect::<Result<_>>()?;
        self.prune(plane, applied)?;
        self.seen = seen;
        Ok(())
    }

    /// Returns the objects that would be applied.
    pub fn render(&mut self, plane: &ControlPlane) -> Result<Vec<Value>> {
        let items = self.read(plane)?;
        // There is nothing to render then, and render says that as an error.
        if !items.iter().any(|item| OURS.iter().any(|kind| item["kind"] == **kind)) {
            return Ok(Vec::new());
        }
        let input = workspace::scratch("rendered")?.join("cluster.json");
        std::fs::write(&input, json!({ "apiVersion": "v1", "kind": "List", "items": items }).to_string())?;
        self.revision += 1;
        let (input, revision) = (input.to_str().context("a path that is no text")?, self.revision.to_string());
        let mut arguments = vec!["render", "istio", "-f", input, "--show-secrets", "--revision", &revision];
        arguments.extend(["--filter-url", self.filter.url(), "--filter-sha256", self.filter.sha256()]);
        arguments.extend(["--root-namespace", ROOT_NAMESPACE, "--handshake-key", "of the mesh testbed"]);
        arguments.extend(self.arguments.iter().map(String::as_str));
        documents(&cli::run(&arguments)?.success()?.stdout)
    }

    fn read(&self, plane: &ControlPlane) -> Result<Vec<Value>> {
        let mut items = Vec::new();
        for kind in INPUTS {
            items.extend(plane.api().list(kind)?);
        }
        // The control plane's own, of which no RedisService speaks.
        items.retain(|item| item["metadata"]["namespace"] != ROOT_NAMESPACE);
        for item in &mut items {
            if let Some(metadata) = item["metadata"].as_object_mut() {
                metadata.remove("managedFields");
            }
        }
        Ok(items)
    }

    /// Deletes objects that were applied before and are not among these.
    pub fn prune(&mut self, plane: &ControlPlane, now: BTreeSet<ObjectName>) -> Result<()> {
        for gone in self.applied.difference(&now) {
            plane.api().delete(gone)?;
        }
        self.applied = now;
        Ok(())
    }
}
