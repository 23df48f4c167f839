//! Istio's root namespace, as Istio's own mesh configuration names it.
//!
//! What is written into another namespace has no effect for the mesh, and what is deleted from the
//! right one is in force. So nothing is written before the namespace is known.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{Api, Client};
use serde::Deserialize;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::discovery::DiscoverySelectors;
use crate::exports::DefaultExports;

use super::request::{RequestError, with_timeout};

/// The time between two looks at the mesh configuration.
const PERIOD: Duration = Duration::from_secs(30);
/// The time between two attempts while the root namespace isn't known.
const RETRY: Duration = Duration::from_secs(2);
/// The key of the mesh configuration in its ConfigMap.
const KEY: &str = "mesh";
/// The setting of proxies by which they serve addresses of both families.
const DUAL_STACK: &str = "ISTIO_DUAL_STACK";
/// The root namespace where the mesh configuration names none
/// (<https://istio.io/latest/docs/reference/config/istio.mesh.v1alpha1/#MeshConfig-root_namespace>).
const DEFAULT: &str = "istio-system";

/// The places where Istio's mesh configuration is looked for, and what a person says of it.
#[derive(Clone)]
pub struct RootSettings {
    /// The namespace of istiod.
    pub istio_namespace: String,
    /// The revision of istiod; none: the default revision.
    pub revision: Option<String>,
    /// Further revisions of istiod that serve sidecars of this mesh.
    pub other_revisions: Vec<String>,
    /// The root namespace as an argument names it.
    pub given: Option<String>,
}

impl RootSettings {
    /// The name of the ConfigMap that istiod of the first revision reads.
    fn config_map(&self) -> String {
        config_map_of(self.revision.as_deref().unwrap_or_default())
    }
}

/// The name of the ConfigMap that istiod of a revision reads.
fn config_map_of(revision: &str) -> String {
    match revision {
        "" | "default" => "istio".to_owned(),
        revision => format!("istio-{revision}"),
    }
}

/// The evidence that a namespace is Istio's root namespace. A proxy that shows what it was sent
/// would be a stronger one than these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootEvidence {
    /// Istio's mesh configuration names the namespace.
    MeshConfig,
    /// Only an argument names the namespace, since the mesh configuration can't be read.
    Argument,
}

/// Istio's root namespace, and how it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshRoot {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The evidence.
    pub evidence: RootEvidence,
    /// What the mesh configuration says of hosts; nothing where it can't be read.
    pub says: MeshSettings,
}

/// What Istio's mesh configuration says besides the name of the root namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshSettings {
    /// True if proxies serve addresses of both families.
    pub is_dual_stack: bool,
    /// To whom objects are exported that don't say it.
    pub exports: DefaultExports,
    /// The namespaces that istiod looks at, as the mesh configuration says.
    pub discovery: DiscoverySelectors,
}

/// The result of looking for the root namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootFinding {
    /// The mesh configuration hasn't been looked at.
    Pending,
    /// The root namespace is known and exists.
    Found(MeshRoot),
    /// The root namespace isn't known, for this reason. Nothing may be written.
    Refused(String),
}

impl RootFinding {
    /// The root namespace, if it is known.
    pub fn found(&self) -> Option<&MeshRoot> {
        match self {
            RootFinding::Found(root) => Some(root),
            RootFinding::Pending | RootFinding::Refused(_) => None,
        }
    }
}

/// The answer to a request for the mesh configuration.
enum MeshConfigAnswer {
    /// The mesh configuration names this root namespace.
    Names(MeshRoot),
    /// There is no mesh configuration that could be read, for this reason.
    Unreadable(String),
    /// The API server is away, which says nothing.
    Unavailable(String),
}

/// The part of Istio's mesh configuration that is read.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MeshConfig {
    root_namespace: Option<String>,
    default_config: Option<ProxyConfig>,
    default_service_export_to: Option<Vec<String>>,
    default_destination_rule_export_to: Option<Vec<String>>,
    discovery_selectors: Option<Vec<LabelSelector>>,
}

/// The part of Istio's settings for all proxies that is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ProxyConfig {
    proxy_metadata: Option<BTreeMap<String, serde_json::Value>>,
}

impl MeshConfig {
    /// True if proxies serve addresses of both families
    /// (<https://istio.io/latest/docs/setup/additional-setup/dual-stack/>).
    fn is_dual_stack(&self) -> bool {
        let metadata = self.default_config.as_ref().and_then(|config| config.proxy_metadata.as_ref());
        let value = metadata.and_then(|metadata| metadata.get(DUAL_STACK));
        value.is_some_and(|value| *value == true || value == "true")
    }
}

/// Looks for the root namespace again and again.
pub struct RootReader {
    client: Client,
    settings: RootSettings,
}

impl RootReader {
    /// Creates a reader that has read nothing.
    pub fn new(client: Client, settings: RootSettings) -> RootReader {
        RootReader { client, settings }
    }

    /// Runs until every receiver is dropped.
    pub async fn run(self, findings: watch::Sender<RootFinding>) {
        loop {
            let known = findings.borrow().clone();
            let finding = self.look(&known).await;
            if finding != known {
                log(&finding);
                findings.send_replace(finding);
            }
            let wait = if findings.borrow().found().is_some() { PERIOD } else { RETRY };
            tokio::select! {
                () = findings.closed() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn look(&self, known: &RootFinding) -> RootFinding {
        let mut root = match judge(&self.settings, self.read(&self.settings.config_map()).await, known) {
            RootFinding::Found(root) => root,
            finding => return finding,
        };
        for revision in &self.settings.other_revisions {
            let answer = self.read(&config_map_of(revision)).await;
            if let Err(reason) = agree(&mut root, &self.settings, revision, answer) {
                return RootFinding::Refused(reason);
            }
        }
        match self.missing(&root).await {
            Some(reason) => RootFinding::Refused(reason),
            None => RootFinding::Found(root),
        }
    }

    /// Reads a mesh configuration.
    async fn read(&self, name: &str) -> MeshConfigAnswer {
        let namespace = &self.settings.istio_namespace;
        let of = format!("ConfigMap {namespace}/{name}");
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        let config_map = match with_timeout(api.get_opt(name)).await {
            Ok(Some(config_map)) => config_map,
            Ok(None) => return MeshConfigAnswer::Unreadable(format!("there is no {of}")),
            Err(error) if is_forbidden(&error) => {
                return MeshConfigAnswer::Unreadable(format!("{of}: {}", error.with_remedy()));
            }
            Err(error) => return MeshConfigAnswer::Unavailable(format!("{of}: {error}")),
        };
        let Some(text) = config_map.data.as_ref().and_then(|data| data.get(KEY)) else {
            return MeshConfigAnswer::Unreadable(format!("{of} has no key `{KEY}`"));
        };
        match parsed(text) {
            Ok(root) => MeshConfigAnswer::Names(root),
            Err(reason) => MeshConfigAnswer::Unreadable(format!("{of} can't be parsed: {reason}")),
        }
    }

    /// Why a namespace can't hold anything; none where it can, or where that isn't known.
    async fn missing(&self, root: &MeshRoot) -> Option<String> {
        let namespace = &*root.namespace;
        let api = Api::<Namespace>::all(self.client.clone());
        match with_timeout(api.get_opt(namespace)).await {
            Ok(None) => Some(format!("the root namespace {namespace} doesn't exist")),
            Ok(Some(found)) if found.metadata.deletion_timestamp.is_some() => {
                Some(format!("the root namespace {namespace} is being deleted"))
            }
            Ok(Some(found)) if !root.says.discovery.select(&found.metadata.labels.clone().unwrap_or_default()) => {
                Some(format!(
                    "istiod doesn't look at its root namespace {namespace}, so nothing that stands there reaches a sidecar: no discoverySelectors of Istio's mesh configuration select it; label it so that one does ({})",
                    root.says.discovery
                ))
            }
            Ok(Some(_)) => None,
            // Writing tells, and nothing is deleted before that has succeeded.
            Err(error) => {
                warn!(namespace, %error, "the root namespace can't be looked at");
                None
            }
        }
    }
}

/// The root namespace that a mesh configuration names, and what else it says.
fn parsed(text: &str) -> Result<MeshRoot, String> {
    let config = serde_saphyr::from_str::<Option<MeshConfig>>(text).map_err(|error| error.to_string())?;
    let config = config.unwrap_or_default();
    let is_dual_stack = config.is_dual_stack();
    let exports = DefaultExports {
        services: config.default_service_export_to.unwrap_or_default(),
        rules: config.default_destination_rule_export_to.unwrap_or_default(),
    };
    let selectors = config.discovery_selectors.unwrap_or_default();
    let discovery = DiscoverySelectors::try_from(selectors).unwrap_or_else(|error| {
        // Istiod doesn't take them either, and looks at all namespaces.
        warn!(%error, "discoverySelectors of Istio's mesh configuration can't be parsed");
        DiscoverySelectors::default()
    });
    let named = config.root_namespace.filter(|name| !name.is_empty());
    let namespace = named.as_deref().unwrap_or(DEFAULT).into();
    let says = MeshSettings { is_dual_stack, exports, discovery };
    Ok(MeshRoot { namespace, evidence: RootEvidence::MeshConfig, says })
}

/// True if the API server has answered that the controller may not read an object.
fn is_forbidden(error: &RequestError) -> bool {
    matches!(error, RequestError::Failed(kube::Error::Api(status)) if status.code == 403)
}

fn judge(settings: &RootSettings, answer: MeshConfigAnswer, known: &RootFinding) -> RootFinding {
    let place = format!("ConfigMap {}/{}", settings.istio_namespace, settings.config_map());
    match (answer, &settings.given) {
        (MeshConfigAnswer::Names(root), Some(given)) if *root.namespace != **given => RootFinding::Refused(format!(
            "--root-namespace is {given}, but Istio's mesh configuration ({place}) names {} as its root namespace; correct one of them, or say by --istio-namespace and --revision which Istio it is",
            root.namespace
        )),
        (MeshConfigAnswer::Names(root), _) => RootFinding::Found(root),
        // What was read before holds until something else is read.
        (MeshConfigAnswer::Unreadable(_) | MeshConfigAnswer::Unavailable(_), _) if known.found().is_some() => {
            known.clone()
        }
        (MeshConfigAnswer::Unavailable(reason), _) => RootFinding::Refused(reason),
        (MeshConfigAnswer::Unreadable(_), Some(given)) => RootFinding::Found(MeshRoot {
            namespace: given.as_str().into(),
            evidence: RootEvidence::Argument,
            says: MeshSettings::default(),
        }),
        (MeshConfigAnswer::Unreadable(reason), None) => RootFinding::Refused(format!(
            "Istio's mesh configuration can't be read, so its root namespace isn't known: {reason}; say by --istio-namespace and --revision where it is, or by --root-namespace what it says"
        )),
    }
}

/// Takes in what the mesh configuration of another revision says: its sidecars are governed only where both
/// look. An error if they have different root namespaces. A revision that isn't there has no sidecars.
fn agree(root: &mut MeshRoot, settings: &RootSettings, revision: &str, answer: MeshConfigAnswer) -> Result<(), String> {
    let namespace = &settings.istio_namespace;
    match answer {
        MeshConfigAnswer::Names(other) if other.namespace != root.namespace => Err(format!(
            "two revisions of istiod have different root namespaces: ConfigMap {namespace}/{} names {}, and ConfigMap {namespace}/{} names {}, so sidecars of one of them would get nothing of what is written; correct one of them, or leave out --other-revision {revision}",
            settings.config_map(),
            root.namespace,
            config_map_of(revision),
            other.namespace,
        )),
        MeshConfigAnswer::Names(other) => {
            root.says.is_dual_stack &= other.says.is_dual_stack;
            root.says.discovery.add(other.says.discovery);
            Ok(())
        }
        MeshConfigAnswer::Unreadable(reason) | MeshConfigAnswer::Unavailable(reason) => {
            debug!(revision, reason, "the mesh configuration of another revision of istiod can't be read");
            Ok(())
        }
    }
}

impl fmt::Display for RootFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RootFinding::Pending => f.write_str("Istio's mesh configuration hasn't been read yet"),
            RootFinding::Found(root) => write!(f, "Istio's root namespace is {}", root.namespace),
            RootFinding::Refused(reason) => write!(f, "nothing is written and nothing is deleted: {reason}"),
        }
    }
}

fn log(finding: &RootFinding) {
    match finding {
        RootFinding::Pending => {}
        RootFinding::Found(MeshRoot { namespace, evidence: RootEvidence::MeshConfig, .. }) => {
            info!(%namespace, "Istio's mesh configuration names its root namespace");
        }
        RootFinding::Found(MeshRoot { namespace, evidence: RootEvidence::Argument, .. }) => {
            warn!(%namespace, "Istio's mesh configuration can't be read; --root-namespace is taken at its word");
        }
        RootFinding::Refused(_) => error!("{finding}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(given: Option<&str>) -> RootSettings {
        RootSettings {
            istio_namespace: "istiod".to_owned(),
            revision: None,
            other_revisions: Vec::new(),
            given: given.map(str::to_owned),
        }
    }

    fn found(namespace: &str, evidence: RootEvidence) -> RootFinding {
        RootFinding::Found(root(namespace, evidence))
    }

    fn root(namespace: &str, evidence: RootEvidence) -> MeshRoot {
        MeshRoot { namespace: namespace.into(), evidence, says: MeshSettings::default() }
    }

    fn names(namespace: &str) -> MeshConfigAnswer {
        MeshConfigAnswer::Names(root(namespace, RootEvidence::MeshConfig))
    }

    fn unreadable() -> MeshConfigAnswer {
        MeshConfigAnswer::Unreadable("there is none".to_owned())
    }

    #[test]
    fn the_mesh_configuration_names_the_root_namespace() {
        let root_namespace = |text| parsed(text).map(|root| root.namespace.to_string());
        assert_eq!(root_namespace("rootNamespace: istio-config\ntrustDomain: x\n"), Ok("istio-config".to_owned()));
        for without in ["trustDomain: x\n", "rootNamespace: \"\"\n", "", "{}"] {
            assert_eq!(root_namespace(without), Ok("istio-system".to_owned()), "{without:?}");
        }
        assert!(root_namespace("rootNamespace: [").is_err());
        let of = |revision: &str| RootSettings { revision: Some(revision.to_owned()), ..settings(None) }.config_map();
        assert_eq!([of(""), of("default"), of("1-31")], ["istio", "istio", "istio-1-31"]);
    }

    #[test]
    fn the_mesh_configuration_says_whether_proxies_serve_both_families() {
        let is_dual_stack = |metadata: &str| {
            parsed(&format!("defaultConfig: {{proxyMetadata: {metadata}}}")).unwrap().says.is_dual_stack
        };
        assert!(is_dual_stack("{ISTIO_DUAL_STACK: \"true\"}") && is_dual_stack("{ISTIO_DUAL_STACK: true, X: 1}"));
        for not in ["{ISTIO_DUAL_STACK: \"false\"}", "{X: \"true\"}", "{}", "null"] {
            assert!(!is_dual_stack(not), "{not}");
        }
    }

    #[test]
    fn the_mesh_configuration_says_to_whom_objects_are_exported() {
        let exports = |text: &str| parsed(text).unwrap().says.exports;
        let own = exports("defaultServiceExportTo: [.]\ndefaultDestinationRuleExportTo:\n  - .\n  - shop\n");
        assert_eq!(
            (own.services.as_slice(), own.rules.as_slice()),
            (&[".".to_owned()][..], &[".".to_owned(), "shop".to_owned()][..])
        );
        assert_eq!(exports("defaultVirtualServiceExportTo: [.]\n"), DefaultExports::default());
        assert_eq!(exports("defaultServiceExportTo: null\n"), DefaultExports::default());
    }

    #[test]
    fn the_mesh_configuration_says_which_namespaces_istiod_looks_at() {
        let sees = |selectors: &str| {
            let labels = [("istio".to_owned(), "enabled".to_owned())].into();
            parsed(&format!("discoverySelectors: {selectors}")).unwrap().says.discovery.select(&labels)
        };
        for all in ["null", "[]", "[{matchLabels: {istio: enabled}}]", "[{}]"] {
            assert!(sees(all), "{all}");
        }
        let none = "[{matchLabels: {istio: other}}, {matchExpressions: [{key: istio, operator: DoesNotExist}]}]";
        assert!(!sees(none));
        // Istiod logs an error, and looks at all namespaces.
        assert!(sees("[{matchExpressions: [{key: istio, operator: Sometimes}]}]"));
    }

    #[test]
    fn revisions_agree_on_the_root_namespace() {
        let selecting = |label: &str| {
            parsed(&format!("rootNamespace: a\ndiscoverySelectors: [{{matchLabels: {{{label}: x}}}}]")).unwrap()
        };
        let agree = |root: &mut MeshRoot, answer| agree(root, &settings(None), "1-32", answer);
        let mut root = selecting("istio");
        root.says.is_dual_stack = true;
        assert_eq!(agree(&mut root, unreadable()), Ok(()));
        assert!(root.says.is_dual_stack);
        assert_eq!(agree(&mut root, MeshConfigAnswer::Names(selecting("canary"))), Ok(()));
        assert!(!root.says.is_dual_stack && root.says.discovery.to_string().contains("another revision `canary=x`"));
        let words = agree(&mut root, names("b")).unwrap_err();
        assert!(words.contains("istiod/istio names a") && words.contains("istiod/istio-1-32 names b"), "{words}");
    }

    #[test]
    fn a_namespace_counts_only_if_nothing_speaks_against_it() {
        let pending = RootFinding::Pending;
        assert_eq!(judge(&settings(None), names("a"), &pending), found("a", RootEvidence::MeshConfig));
        assert_eq!(judge(&settings(Some("a")), names("a"), &pending), found("a", RootEvidence::MeshConfig));
        assert_eq!(judge(&settings(Some("a")), unreadable(), &pending), found("a", RootEvidence::Argument));
        for (given, answer) in [(Some("b"), names("a")), (None, unreadable())] {
            assert!(matches!(judge(&settings(given), answer, &pending), RootFinding::Refused(_)), "{given:?}");
        }
        let RootFinding::Refused(words) = judge(&settings(Some("b")), names("a"), &pending) else {
            panic!("a difference is accepted");
        };
        assert!(words.contains("--root-namespace is b") && words.contains("ConfigMap istiod/istio"), "{words}");
    }

    #[test]
    fn what_was_read_holds_until_something_else_is_read() {
        let known = found("a", RootEvidence::MeshConfig);
        let away = || MeshConfigAnswer::Unavailable("away".to_owned());
        assert_eq!(judge(&settings(None), unreadable(), &known), known);
        assert_eq!(judge(&settings(None), away(), &known), known);
        assert_eq!(judge(&settings(None), names("c"), &known), found("c", RootEvidence::MeshConfig));
        assert!(matches!(judge(&settings(Some("a")), names("c"), &known), RootFinding::Refused(_)));
        assert!(matches!(judge(&settings(Some("a")), away(), &RootFinding::Pending), RootFinding::Refused(_)));
    }
}
