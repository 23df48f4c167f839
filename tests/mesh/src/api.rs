//! The API server, reached through `kubectl proxy`, which is fast enough for polling; a `kubectl`
//! for each request is not.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use redis_mesh_tests::http::{self, Request, Response};
use serde_json::{Value, json};

/// Kind, `apiVersion`, plural, and whether the kind is namespaced.
const KINDS: &[(&str, &str, &str, bool)] = &[
    ("ConfigMap", "v1", "configmaps", true),
    ("Event", "v1", "events", true),
    ("Namespace", "v1", "namespaces", false),
    ("Pod", "v1", "pods", true),
    ("Secret", "v1", "secrets", true),
    ("Service", "v1", "services", true),
    ("ServiceAccount", "v1", "serviceaccounts", true),
    ("EndpointSlice", "discovery.k8s.io/v1", "endpointslices", true),
    ("Lease", "coordination.k8s.io/v1", "leases", true),
    ("Role", "rbac.authorization.k8s.io/v1", "roles", true),
    ("RoleBinding", "rbac.authorization.k8s.io/v1", "rolebindings", true),
    ("ClusterRole", "rbac.authorization.k8s.io/v1", "clusterroles", false),
    ("ClusterRoleBinding", "rbac.authorization.k8s.io/v1", "clusterrolebindings", false),
    ("CustomResourceDefinition", "apiextensions.k8s.io/v1", "customresourcedefinitions", false),
    ("WasmPlugin", "extensions.istio.io/v1alpha1", "wasmplugins", true),
    ("EnvoyFilter", "networking.istio.io/v1alpha3", "envoyfilters", true),
    ("DestinationRule", "networking.istio.io/v1", "destinationrules", true),
    ("Gateway", "networking.istio.io/v1", "gateways", true),
    ("VirtualService", "networking.istio.io/v1", "virtualservices", true),
    ("ServiceEntry", "networking.istio.io/v1", "serviceentries", true),
    ("PeerAuthentication", "security.istio.io/v1", "peerauthentications", true),
    ("AuthorizationPolicy", "security.istio.io/v1", "authorizationpolicies", true),
    ("Telemetry", "telemetry.istio.io/v1", "telemetries", true),
    ("RedisService", "redis.aeraki.io/v1alpha1", "redisservices", true),
    ("RedisDestination", "redis.aeraki.io/v1alpha1", "redisdestinations", true),
];

/// The field manager of the tests.
const MANAGER: &str = "mesh-tests";

/// The API server as an administrator.
#[derive(Clone, Debug)]
pub struct Api {
    proxy: SocketAddr,
}

/// An object's kind, namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// The kind, such as `EnvoyFilter`.
    pub kind: String,
    /// The namespace; empty for kinds that aren't namespaced.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectName {
    /// Creates a name from its parts.
    pub fn new(kind: &str, namespace: &str, name: &str) -> ObjectName {
        ObjectName { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }

    /// Returns the name of an object.
    pub fn of(object: &Value) -> Result<ObjectName> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let (kind, metadata) = (text(&object["kind"]), &object["metadata"]);
        let (_, _, _, namespaced) = row(&kind)?;
        let namespace = match (namespaced, text(&metadata["namespace"])) {
            (false, _) => String::new(),
            (true, namespace) if namespace.is_empty() => "default".into(),
            (true, namespace) => namespace,
        };
        Ok(ObjectName { kind, namespace, name: text(&metadata["name"]) })
    }

    fn path(&self) -> Result<String> {
        Ok(format!("{}/{}", collection(&self.kind, &self.namespace)?, self.name))
    }
}

impl Api {
    /// Uses the `kubectl proxy` on this port of the loopback address.
    pub fn through(port: u16) -> Api {
        Api { proxy: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port) }
    }

    /// Reads an object. `None` if there is no such object.
    pub fn get(&self, name: &ObjectName) -> Result<Option<Value>> {
        let response = self.ask("GET", &name.path()?, "", &[])?;
        if response.status == 404 {
            return Ok(None);
        }
        body(response, || format!("getting {name:?}")).map(Some)
    }

    /// Lists all objects of a kind, in all namespaces.
    pub fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let response = self.ask("GET", &collection(kind, "")?, "", &[])?;
        let mut list = body(response, || format!("listing every {kind}"))?;
        let (_, api_version, _, _) = row(kind)?;
        let Value::Array(mut items) = list["items"].take() else { bail!("a list of {kind} without items") };
        for item in &mut items {
            // The API server leaves out what the list says.
            item["kind"] = kind.into();
            item["apiVersion"] = api_version.into();
        }
        Ok(items)
    }

    /// Applies manifests server-side and takes over fields of other managers.
    pub fn apply(&self, manifests: &str) -> Result<Vec<ObjectName>> {
        documents(manifests)?.iter().map(|object| self.apply_object(object)).collect()
    }

    /// Applies one object.
    pub fn apply_object(&self, object: &Value) -> Result<ObjectName> {
        let name = ObjectName::of(object)?;
        let path = format!("{}?fieldManager={MANAGER}&force=true", name.path()?);
        let response = self.ask("PATCH", &path, "application/apply-patch+yaml", object.to_string().as_bytes())?;
        body(response, || format!("applying {name:?}"))?;
        Ok(name)
    }

    /// Changes an object by a JSON merge patch.
    pub fn merge(&self, name: &ObjectName, patch: &Value) -> Result<Value> {
        self.merge_at(name, &name.path()?, patch)
    }

    /// Changes an object's status by a JSON merge patch.
    pub fn merge_status(&self, name: &ObjectName, status: &Value) -> Result<Value> {
        self.merge_at(name, &format!("{}/status", name.path()?), &json!({ "status": status }))
    }

    fn merge_at(&self, name: &ObjectName, path: &str, patch: &Value) -> Result<Value> {
        let response = self.ask("PATCH", path, "application/merge-patch+json", patch.to_string().as_bytes())?;
        body(response, || format!("changing {name:?}"))
    }

    /// Deletes an object. An object that does not exist is no error.
    pub fn delete(&self, name: &ObjectName) -> Result<()> {
        let response = self.ask("DELETE", &name.path()?, "", &[])?;
        if response.status == 404 {
            return Ok(());
        }
        body(response, || format!("deleting {name:?}")).map(drop)
    }

    /// Requests a token of a ServiceAccount for an audience.
    pub fn token(&self, namespace: &str, account: &str, audience: Option<&str>) -> Result<String> {
        let path = format!("{}/token", ObjectName::new("ServiceAccount", namespace, account).path()?);
        let mut spec = json!({ "expirationSeconds": 24 * 3600 });
        if let Some(audience) = audience {
            spec["audiences"] = json!([audience]);
        }
        let request = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
        let response = self.ask("POST", &path, "application/json", request.to_string().as_bytes())?;
        let answer = body(response, || format!("asking for a token of {namespace}/{account}"))?;
        answer["status"]["token"].as_str().map(str::to_string).context("a TokenRequest without a token")
    }

    /// Whether the API server reports that it is ready.
    pub fn is_ready(&self) -> bool {
        self.ask("GET", "/readyz", "", &[]).is_ok_and(|response| response.status == 200)
    }

    fn ask(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Result<Response> {
        let request = Request { method, path, content_type, body, patience: Duration::from_secs(30) };
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            let response =
                http::request(self.proxy, &request).with_context(|| format!("{method} {path} on the API server"))?;
            // Too many requests: what it says of a kind whose CRD is only just known.
            if response.status != 429 || Instant::now() > end {
                return Ok(response);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Parses the documents of a YAML stream.
pub fn documents(manifests: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(manifests).map_err(|error| anyhow!("not YAML: {error}\n{manifests}"))?;
    Ok(documents.into_iter().filter(|document| !document.is_null()).collect())
}

/// Returns the condition of this type in an object's status.
pub fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object["status"]["conditions"].as_array()?.iter().find(|condition| condition["type"] == kind)
}

fn row(kind: &str) -> Result<(&'static str, &'static str, &'static str, bool)> {
    let row = KINDS.iter().find(|(name, ..)| *name == kind);
    row.copied().with_context(|| format!("the testbed doesn't know the kind {kind:?}"))
}

fn collection(kind: &str, namespace: &str) -> Result<String> {
    let (_, api_version, plural, _) = row(kind)?;
    let root = if api_version.contains('/') { "/apis" } else { "/api" };
    Ok(match namespace {
        "" => format!("{root}/{api_version}/{plural}"),
        namespace => format!("{root}/{api_version}/namespaces/{namespace}/{plural}"),
    })
}

fn body(response: Response, what: impl Fn() -> String) -> Result<Value> {
    let value: Value = serde_json::from_str(&response.body).unwrap_or_default();
    if response.status >= 300 {
        let message = value["message"].as_str().unwrap_or(response.body.trim_end());
        bail!("{}: {} {message}", what(), response.status);
    }
    Ok(value)
}
