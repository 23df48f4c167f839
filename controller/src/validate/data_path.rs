//! The data path that serves a host: the table of what each path can do.

use redis_mesh_core::wire::DataPath;

use crate::crd::RedisService;
use crate::crd::service::{ReadPolicySpec, RedisServiceSpec, SettingsSpec};
use crate::diagnostic::{Code, Diagnostics, Loaded, Problem, Subject, did_you_mean};

use super::options::ModuleAvailability;
use super::service::{ValidatedRoute, ValidatedService};

/// The annotation on a RedisService that pins its data path.
pub const DATA_PATH: &str = "redis-mesh.io/data-path";

/// Why a service that is not pinned is served natively.
const MODULE: &str = "the dynamic module is there";
/// Why a service can be served on the data path `direct`.
const DIRECT: &str = "one destination that is no Redis Cluster, and no mirror";

/// The data path that the annotation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PinnedPath {
    /// `direct`.
    Direct,
    /// `proxy`.
    Proxy,
    /// `native`.
    Native,
}

/// The path of an annotation's field.
pub fn annotation(name: &str) -> String {
    format!("metadata.annotations[{name}]")
}

/// Reads the annotation; none where the data path is not pinned.
pub fn pinned(loaded: &Loaded<RedisService>, subject: &Subject, diagnostics: &mut Diagnostics) -> Option<PinnedPath> {
    let annotations = loaded.object.metadata.annotations.as_ref()?;
    let (prefix, _) = DATA_PATH.split_once('/')?;
    for (name, _) in annotations.iter().filter(|(name, _)| *name != DATA_PATH) {
        if name.split_once('/').is_some_and(|(before, _)| before == prefix) {
            let remedy = format!("the only annotation of redis-mesh is {DATA_PATH}");
            diagnostics.add(subject, annotation(name), Problem::new(Code::UnknownAnnotation, "is not known", remedy));
        }
    }
    match annotations.get(DATA_PATH)?.as_str() {
        "auto" => None,
        "direct" => Some(PinnedPath::Direct),
        "proxy" => Some(PinnedPath::Proxy),
        "native" => Some(PinnedPath::Native),
        other => {
            let remedy = did_you_mean(other, ["auto", "direct", "proxy", "native"]);
            let remedy = remedy.unwrap_or_else(|| "write one of them".to_owned());
            let message = format!("`{other}` is not one of auto, direct, proxy, native");
            diagnostics.add(subject, annotation(DATA_PATH), Problem::new(Code::UnknownValue, message, remedy));
            None
        }
    }
}

fn by_pin() -> String {
    format!("pinned by {DATA_PATH}")
}

/// Chooses the data path of a service, and reports rules and settings that the path can't carry
/// out.
pub fn choose_path(
    service: &mut ValidatedService,
    spec: &RedisServiceSpec,
    pinned: Option<PinnedPath>,
    module: ModuleAvailability,
    diagnostics: &mut Diagnostics,
) {
    let needs = needs_proxy(service);
    let subject = service.owner.clone();
    let has_module = matches!(module, ModuleAvailability::Envoy | ModuleAvailability::Unknown);
    service.choice.native = module == ModuleAvailability::Sidecars && matches!(pinned, None | Some(PinnedPath::Native));
    (service.path, service.choice.reason) = match (pinned, needs) {
        (Some(PinnedPath::Native), _) if has_module => (DataPath::Native, by_pin()),
        (None, _) if module == ModuleAvailability::Envoy => (DataPath::Native, MODULE.to_owned()),
        (Some(PinnedPath::Proxy), None) => (DataPath::Proxy, by_pin()),
        (Some(PinnedPath::Direct), Some((field, reason))) => {
            let message = format!("direct can't serve {}: {reason} ({field})", service.address);
            let problem = Problem::new(Code::DirectUnsupported, message, "use auto or proxy, or change that");
            diagnostics.add(&subject, annotation(DATA_PATH), problem);
            (DataPath::Proxy, reason)
        }
        (_, Some((_, reason))) => (DataPath::Proxy, reason),
        (_, None) => (DataPath::Direct, DIRECT.to_owned()),
    };
    if pinned == Some(PinnedPath::Native) && module == ModuleAvailability::Nobody {
        let message = "native needs the dynamic module, which no sidecar is given here (--module)";
        let problem = Problem::new(Code::NoModule, message, "use auto, direct or proxy");
        diagnostics.add(&subject, annotation(DATA_PATH), problem);
    }
    match service.path {
        DataPath::Direct => unused_on_direct(service, spec, &subject, diagnostics),
        DataPath::Proxy => {
            read_policies(service, spec, &subject, diagnostics);
            if pinned != Some(PinnedPath::Native) {
                admin_copies(service, spec, &subject, diagnostics);
            }
        }
        DataPath::Native => unused_on_native(service, spec, &subject, diagnostics),
    }
    let logs_in = service.destinations().iter().any(|destination| destination.policy.login.is_some());
    if spec.settings.as_ref().and_then(|settings| settings.allow_admin_commands) == Some(true) && !logs_in {
        let message =
            "has no effect: no RedisDestination logs in for the clients, so no command is refused to them for that";
        let problem = Problem::new(Code::NothingToAllow, message, "remove it");
        diagnostics.add(&subject, "spec.settings.allowAdminCommands", problem);
    }
}

/// Chooses the data path of a host that only a RedisDestination names.
pub fn choose_implicit_path(service: &mut ValidatedService, module: ModuleAvailability) {
    service.choice.native = module == ModuleAvailability::Sidecars;
    (service.path, service.choice.reason) = match needs_proxy(service) {
        _ if module == ModuleAvailability::Envoy => (DataPath::Native, MODULE.to_owned()),
        Some((_, reason)) => (DataPath::Proxy, reason),
        None => (DataPath::Direct, DIRECT.to_owned()),
    };
}

/// The first field that needs the data path `proxy`, and what it asks for.
fn needs_proxy(service: &ValidatedService) -> Option<(String, String)> {
    let field = |route: &ValidatedRoute, part: &str| match route.index {
        Some(index) => format!("spec.redis[{index}]{part}"),
        None => "spec.host".to_owned(),
    };
    let first = service.routes.first()?.target;
    let first = service.targets.get(first)?.destination.address.clone();
    for route in &service.routes {
        let target = service.targets.get(route.target)?;
        if target.destination.address != first {
            return Some((field(route, ".route"), "several destinations".to_owned()));
        }
        if target.destination.is_cluster() {
            let object = target.destination.policy.object.as_ref();
            let object = object.map(|object| format!("{} {}", object.kind, object.name)).unwrap_or_default();
            let reason = format!("{} is a Redis Cluster by {object}", target.destination.address.host);
            return Some((field(route, ".route"), reason));
        }
        if !target.mirrors.is_empty() {
            return Some((field(route, ".mirror"), "mirroring".to_owned()));
        }
    }
    None
}

fn unused_on_direct(
    service: &ValidatedService,
    spec: &RedisServiceSpec,
    subject: &Subject,
    diagnostics: &mut Diagnostics,
) {
    let message =
        format!("has no effect: {} is served on data path direct ({})", service.address, service.choice.reason);
    let given = spec.settings.as_ref().map(unknown_to_direct).into_iter().flatten();
    for (field, _) in given.filter(|(_, given)| *given) {
        let problem = Problem::new(Code::UnusedSetting, message.clone(), "remove it");
        diagnostics.add(subject, format!("spec.settings.{field}"), problem);
    }
    for (index, route) in spec.redis.iter().enumerate() {
        if route.read_policy.is_some_and(|policy| policy != ReadPolicySpec::Master) {
            let message = format!("has no effect: {} is no Redis Cluster", service.address.host);
            let problem = Problem::new(Code::ReadPolicyWithoutCluster, message, "remove it");
            diagnostics.add(subject, format!("spec.redis[{index}].readPolicy"), problem);
        }
    }
}

/// The settings without effect on the data path `direct`, each with whether it is given.
fn unknown_to_direct(settings: &SettingsSpec) -> impl Iterator<Item = (&'static str, bool)> {
    let of_native = [
        ("readPolicy", settings.read_policy.is_some_and(|policy| policy != ReadPolicySpec::Master)),
        ("opTimeout", settings.op_timeout.is_some()),
        ("enableCommandStats", settings.enable_command_stats == Some(true)),
    ];
    of_native.into_iter().chain(proxy_only(settings))
}

/// The settings that only the data path `proxy` has, each with whether it is given. On `native`,
/// redirections are always followed, and hash tags always count in a Redis Cluster.
fn proxy_only(settings: &SettingsSpec) -> [(&'static str, bool); 4] {
    [
        ("enableHashtagging", settings.enable_hashtagging == Some(true)),
        ("enableRedirection", settings.enable_redirection == Some(true)),
        ("bufferFlushTimeout", settings.buffer_flush_timeout.is_some()),
        ("maxBufferSizeBeforeFlush", settings.max_buffer_size_before_flush.is_some()),
    ]
}

fn unused_on_native(
    service: &ValidatedService,
    spec: &RedisServiceSpec,
    subject: &Subject,
    diagnostics: &mut Diagnostics,
) {
    let given = spec.settings.as_ref().map(proxy_only).into_iter().flatten();
    // Keys are placed on the endpoints of such a destination as on `proxy`.
    let places_keys = service.destinations().iter().any(|destination| destination.policy.mode.is_none());
    for (field, _) in given.filter(|(field, given)| *given && !(places_keys && *field == "enableHashtagging")) {
        let message = format!("has no effect on data path native, which serves {}", service.address);
        let problem = Problem::new(Code::UnusedSetting, message, "remove it");
        diagnostics.add(subject, format!("spec.settings.{field}"), problem);
    }
    unused_read_policies(service, spec, subject, diagnostics);
}

/// Reports read policies of destinations that are no Redis Clusters.
fn unused_read_policies(
    service: &ValidatedService,
    spec: &RedisServiceSpec,
    subject: &Subject,
    diagnostics: &mut Diagnostics,
) {
    for route in &service.routes {
        let Some(index) = route.index else { continue };
        let is_cluster = service.targets.get(route.target).is_some_and(|target| target.destination.is_cluster());
        if !is_cluster && route.read_policy.is_some_and(|policy| policy != ReadPolicySpec::Master) {
            let message = "has no effect: the destination is no Redis Cluster";
            let problem = Problem::new(Code::ReadPolicyWithoutCluster, message, "remove it");
            diagnostics.add(subject, format!("spec.redis[{index}].readPolicy"), problem);
        }
    }
    let default = spec.settings.as_ref().and_then(|settings| settings.read_policy);
    let any_cluster = service.destinations().iter().any(|destination| destination.is_cluster());
    if default.is_some_and(|policy| policy != ReadPolicySpec::Master) && !any_cluster {
        let message = format!("has no effect: no destination of {} is a Redis Cluster", service.address.host);
        let remedy = "set mode: CLUSTER in its RedisDestination if it is one";
        let problem = Problem::new(Code::ReadPolicyWithoutCluster, message, remedy);
        diagnostics.add(subject, "spec.settings.readPolicy", problem);
    }
}

/// Reports mirrors that ask for commands that `redis_proxy` never copies, unless some of the clients
/// have the dynamic module.
fn admin_copies(service: &ValidatedService, spec: &RedisServiceSpec, subject: &Subject, diagnostics: &mut Diagnostics) {
    let routes = spec.redis.iter().enumerate().filter(|_| !service.choice.native);
    let mirrors = routes.flat_map(|(index, route)| route.mirror.iter().enumerate().map(move |of| (index, of)));
    for (index, (position, _)) in mirrors.filter(|(_, (_, mirror))| mirror.include_admin == Some(true)) {
        let message = format!("has no effect: {} is served on data path proxy", service.address);
        let problem = Problem::new(Code::UnusedSetting, message, "remove it");
        diagnostics.add(subject, format!("spec.redis[{index}].mirror[{position}].includeAdmin"), problem);
    }
}

/// Chooses the read policy of `redis_proxy`, which has one: the routes to Redis Clusters must
/// agree on it.
fn read_policies(
    service: &mut ValidatedService,
    spec: &RedisServiceSpec,
    subject: &Subject,
    diagnostics: &mut Diagnostics,
) {
    let default = spec.settings.as_ref().and_then(|settings| settings.read_policy);
    let mut agreed: Option<(ReadPolicySpec, usize)> = None;
    for route in &service.routes {
        let Some(index) = route.index else { continue };
        let own = spec.redis.get(index).and_then(|route| route.read_policy);
        let is_cluster = service.targets.get(route.target).is_some_and(|target| target.destination.is_cluster());
        if !is_cluster {
            continue;
        }
        let policy = own.or(default).unwrap_or(ReadPolicySpec::Master);
        match agreed {
            None => agreed = Some((policy, index)),
            Some((first, _)) if first == policy => {}
            Some((_, first)) => {
                let message = format!(
                    "differs from that of spec.redis[{first}]; on data path proxy, all routes to Redis Clusters share one"
                );
                let problem =
                    Problem::new(Code::ReadPoliciesDiffer, message, "set settings.readPolicy for all of them");
                diagnostics.add(subject, format!("spec.redis[{index}].readPolicy"), problem);
            }
        }
    }
    service.settings.proxy_read_policy = match agreed {
        Some((policy, _)) => policy,
        None => default.unwrap_or(ReadPolicySpec::Master),
    };
    unused_read_policies(service, spec, subject, diagnostics);
}
