//! The codes of diagnostics. A code says what is wrong, never where; it stays the same when the
//! words change.

use std::fmt;

/// The reason of a status condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A value is not well-formed, or contradicts another one of the same object.
    Invalid,
    /// Another object has precedence.
    Conflict,
    /// Something that the object names does not exist.
    Unresolved,
    /// The data path can't do what the object asks for.
    Unsupported,
    /// The value is valid but has no effect.
    NoEffect,
    /// The object takes effect as it is written, at a risk to data or to protection.
    Risk,
}

/// The severity of a diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// Nothing is rendered from the object.
    Error,
    /// The object is rendered all the same.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Error => "error",
            Severity::Warning => "warning",
        })
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $reason:ident;)*) => {
        /// The code of a diagnostic. Its text is in kebab case, such as `unknown-field`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $name,)*
        }

        impl Code {
            /// The code as text.
            pub fn text(self) -> &'static str {
                match self { $(Code::$name => $text,)* }
            }

            /// The reason of a status condition that the code belongs to.
            pub fn reason(self) -> Reason {
                match self { $(Code::$name => Reason::$reason,)* }
            }

            #[cfg(test)]
            const ALL: &'static [Code] = &[$(Code::$name,)*];
        }
    };
}

codes! {
    // The manifest as a document.
    /// A file can't be read.
    UnreadableFile = "unreadable-file", Unresolved;
    /// A file that redis-mesh is shipped with, or that an option names, is missing.
    MissingFile = "missing-file", Unresolved;
    /// The manifests hold neither a RedisService nor a RedisDestination.
    NoObjects = "no-objects", Unresolved;
    /// A document is not YAML.
    InvalidYaml = "invalid-yaml", Invalid;
    /// A document is not a Kubernetes object.
    NotAnObject = "not-an-object", Invalid;
    /// A version of the API that doesn't exist.
    UnknownVersion = "unknown-version", Invalid;
    /// A kind that doesn't exist in the API group.
    UnknownKind = "unknown-kind", Invalid;
    /// Two objects of one kind have the same name.
    DuplicateObject = "duplicate-object", Conflict;
    /// An object doesn't have the shape of its kind.
    UnreadableObject = "unreadable-object", Invalid;
    /// An EndpointSlice names no Service.
    SliceWithoutService = "slice-without-service", NoEffect;

    // The shape of an object.
    /// A field that the kind doesn't have.
    UnknownField = "unknown-field", Invalid;
    /// A required field is missing.
    MissingField = "missing-field", Invalid;
    /// A value of another type than the field's.
    WrongType = "wrong-type", Invalid;
    /// A number out of the field's range.
    OutOfRange = "out-of-range", Invalid;
    /// A word that is not one of those that the field takes.
    UnknownValue = "unknown-value", Invalid;
    /// A text or a list is empty and must not be.
    EmptyValue = "empty-value", Invalid;
    /// A text or a list is longer than the field takes.
    TooLong = "too-long", Invalid;
    /// An annotation with redis-mesh's prefix that redis-mesh doesn't know.
    UnknownAnnotation = "unknown-annotation", NoEffect;

    // Values.
    /// A duration that can't be read.
    InvalidDuration = "invalid-duration", Invalid;
    /// A duration below the least that is possible.
    DurationTooShort = "duration-too-short", Invalid;
    /// A duration above the greatest that is possible.
    DurationTooLong = "duration-too-long", Invalid;
    /// A duration that has to be whole seconds.
    NotWholeSeconds = "not-whole-seconds", Invalid;
    /// A percentage outside of 0 to 100.
    InvalidPercentage = "invalid-percentage", Invalid;
    /// A host that is not a host name.
    InvalidHost = "invalid-host", Invalid;
    /// An entry of `discoveryEndpoints` that is not `HOST:PORT`.
    InvalidDiscoveryEndpoint = "invalid-discovery-endpoint", Invalid;
    /// A regular expression that can't be compiled.
    InvalidRegex = "invalid-regex", Invalid;

    // Hosts and who governs them.
    /// An object names a host twice.
    DuplicateHost = "duplicate-host", Invalid;
    /// Another object of the same namespace governs the host.
    HostTaken = "host-taken", Conflict;
    /// An object in the namespace of the Service governs the host.
    HostOwned = "host-owned", Conflict;
    /// A route leads around the password for which the host's owner asks.
    GuardedHost = "guarded-host", Conflict;
    /// There is no such Service.
    UnknownService = "unknown-service", Unresolved;
    /// The Service has no such port.
    UnknownPort = "unknown-port", Unresolved;
    /// Several ports of the Service are Redis.
    AmbiguousPort = "ambiguous-port", Unresolved;
    /// No port of the Service or ServiceEntry is known to be Redis.
    NoRedisPort = "no-redis-port", Unresolved;
    /// The port of a Service has no ready endpoint.
    NoReadyEndpoint = "no-ready-endpoint", NoEffect;
    /// A destination has several endpoints, and no mode says what they are to each other.
    SeveralEndpoints = "several-endpoints", Risk;
    /// Istio takes the port of a Service for HTTP.
    PortTakenForHttp = "port-taken-for-http", Risk;
    /// A Service has addresses of both families, of which a sidecar may serve one.
    SecondFamilyPasses = "second-family-passes", Risk;
    /// A Sidecar of Istio's doesn't import a host that clients are to use.
    HostNotImported = "host-not-imported", Risk;
    /// A Sidecar of Istio's imports a host, but not one to which its rules lead.
    DestinationNotImported = "destination-not-imported", Risk;
    /// An EnvoyFilter of users patches the filter in whose place another one serves the host.
    FilterPatchLost = "filter-patch-lost", Risk;
    /// Istiod doesn't look at a namespace, which no `discoverySelectors` select.
    UnseenNamespace = "unseen-namespace", Unresolved;
    /// A word in `exportTo` that is no namespace.
    InvalidNamespace = "invalid-namespace", Invalid;
    /// A namespace that `exportTo` names twice.
    DuplicateNamespace = "duplicate-namespace", NoEffect;
    /// An object is exported to no namespace with clients that it may govern.
    ExportedToNobody = "exported-to-nobody", NoEffect;
    /// Rules lead to a destination whose RedisDestination is not exported to all of their clients.
    RulesNotExported = "rules-not-exported", Risk;
    /// A RedisDestination of another namespace is not exported to the clients of rules that lead there.
    DestinationNotExported = "destination-not-exported", Risk;
    /// A ServiceEntry in a client's namespace makes another Redis of a destination.
    HostOverridden = "host-overridden", Risk;
    /// An endpoint of a headless Service belongs to another Service.
    EndpointOfOtherService = "endpoint-of-other-service", Conflict;
    /// An address of a ServiceEntry is that of a Service.
    AddressOfService = "address-of-service", Conflict;
    /// The host has only addresses that Istio has allocated.
    AllocatedAddress = "allocated-address", NoEffect;
    /// Clients of an ExternalName Service connect to addresses of another name.
    AliasedHost = "aliased-host", Unresolved;
    /// The name of the host's listener in the mesh is unknown.
    UnknownListener = "unknown-listener", Unresolved;

    // Credentials and certificates.
    /// The mesh logs in as a user who may do everything, and clients may run scripts.
    PrivilegedLogin = "privileged-login", Risk;
    /// Both a Secret and written credentials are given.
    AmbiguousCredentials = "ambiguous-credentials", Invalid;
    /// Neither a Secret nor written credentials are given.
    MissingCredentials = "missing-credentials", Invalid;
    /// A user name that Redis doesn't take.
    InvalidUsername = "invalid-username", Invalid;
    /// There is no such Secret.
    UnknownSecret = "unknown-secret", Unresolved;
    /// The Secret has no such key.
    MissingSecretKey = "missing-secret-key", Unresolved;
    /// The value of a key of a Secret can't be used.
    InvalidSecretValue = "invalid-secret-value", Invalid;
    /// A private key in a Secret is encrypted.
    EncryptedKey = "encrypted-key", Invalid;
    /// A private key in a Secret belongs to another certificate.
    KeyOfAnotherCertificate = "key-of-another-certificate", Invalid;
    /// Envoy takes no keys of this kind or size.
    UnsupportedKey = "unsupported-key", Unsupported;
    /// The time of a certificate is over.
    ExpiredCertificate = "expired-certificate", Risk;
    /// Mode MUTUAL needs a Secret.
    MutualWithoutSecret = "mutual-without-secret", Invalid;
    /// The Secret has no certificate for mode MUTUAL.
    MissingCertificate = "missing-certificate", Unresolved;
    /// The Secret has no certificate authority.
    MissingAuthority = "missing-authority", Unresolved;
    /// A field that the mode of TLS doesn't take.
    UnusedTlsField = "unused-tls-field", Invalid;
    /// Mode ISTIO_MUTUAL outside of a mesh.
    NoMeshCertificates = "no-mesh-certificates", Unsupported;

    // Routes, mirrors and faults.
    /// A match without a condition.
    EmptyMatch = "empty-match", Invalid;
    /// A match with several conditions.
    AmbiguousMatch = "ambiguous-match", Invalid;
    /// `removePrefix` without a prefix.
    RemovePrefixWithoutPrefix = "remove-prefix-without-prefix", Invalid;
    /// Two routes match the same keys.
    DuplicateRoute = "duplicate-route", Invalid;
    /// Every key of a route is taken by another route.
    UnreachableRoute = "unreachable-route", Invalid;
    /// A mirror is the route's own destination.
    MirrorOfItself = "mirror-of-itself", Invalid;
    /// Two mirrors of a route are the same.
    DuplicateMirror = "duplicate-mirror", Invalid;
    /// A fault of type DELAY has no delay.
    MissingDelay = "missing-delay", Invalid;
    /// The name of a command has a space in it.
    InvalidCommand = "invalid-command", Invalid;
    /// A command that neither Redis nor Valkey has.
    UnknownCommand = "unknown-command", NoEffect;
    /// The percentages of faults add up to more than 100.
    FaultsAboveAll = "faults-above-all", NoEffect;

    // The data path.
    /// The data path `direct` can't do what the object asks for.
    DirectUnsupported = "direct-unsupported", Unsupported;
    /// The dynamic module is needed and no sidecar has it.
    NoModule = "no-module", Unsupported;
    /// The dynamic module is too large for a ConfigMap.
    ModuleTooLarge = "module-too-large", Unsupported;
    /// Routes to Redis Clusters have different read policies on the data path `proxy`.
    ReadPoliciesDiffer = "read-policies-differ", Unsupported;
    /// A setting without effect on the data path.
    UnusedSetting = "unused-setting", NoEffect;
    /// A read policy without a Redis Cluster.
    ReadPolicyWithoutCluster = "read-policy-without-cluster", NoEffect;
    /// `allowAdminCommands` where the mesh doesn't log in.
    NothingToAllow = "nothing-to-allow", NoEffect;
    /// `discoveryEndpoints` with mode PROXY.
    DiscoveryWithoutCluster = "discovery-without-cluster", NoEffect;
    /// The annotation for the data path on a RedisDestination.
    DataPathOnDestination = "data-path-on-destination", NoEffect;
    /// No rule leads to the host of a RedisDestination.
    UnusedDestination = "unused-destination", NoEffect;

    // Rendering.
    /// The filter would refuse its configuration.
    FilterRefuses = "filter-refuses", Invalid;
    /// A rendered object is larger than an API server takes.
    ObjectTooLarge = "object-too-large", Unsupported;
    /// A RedisDestination would change another namespace's Service for all clients.
    ForeignDestination = "foreign-destination", Unsupported;
    /// `maxConnections` for a host that Istio's own cluster serves.
    MaxConnectionsOfIstio = "max-connections-of-istio", NoEffect;
    /// A DestinationRule asks for TLS that can't be carried over, and the mesh would log in.
    LoginInClear = "login-in-clear", Unsupported;
    /// Fields of a DestinationRule that have no effect on a cluster that redis-mesh adds.
    DestinationRuleLeft = "destination-rule-left", NoEffect;
    /// DestinationRules for some clients only, which have no effect on a cluster that redis-mesh
    /// adds.
    DestinationRuleOfSome = "destination-rule-of-some", NoEffect;
    /// A host has no address to listen on.
    NoAddress = "no-address", Unresolved;
    /// Two hosts listen on the same address.
    AddressTaken = "address-taken", Conflict;
    /// A host is governed by several objects, each for other clients.
    AmbiguousClients = "ambiguous-clients", Conflict;
    /// One target can't be rendered, and the manifests are meant for another.
    TargetRuledOut = "target-ruled-out", NoEffect;
    /// An option names a host that no object names, or several.
    UnknownHostOption = "unknown-host-option", Unresolved;
}

impl Code {
    /// The severity of a diagnostic with this code.
    pub fn severity(self) -> Severity {
        match self.reason() {
            Reason::NoEffect | Reason::Risk => Severity::Warning,
            Reason::Invalid | Reason::Conflict | Reason::Unresolved | Reason::Unsupported => Severity::Error,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_code_has_a_text_of_its_own_in_kebab_case() {
        let texts: BTreeSet<&str> = Code::ALL.iter().map(|code| code.text()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        for text in texts {
            assert!(
                text.split('-').all(|word| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase())),
                "{text}"
            );
        }
    }
}
