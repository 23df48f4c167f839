//! The names in an object. A change of what they name may change the evaluation of the object.

use std::collections::BTreeSet;

use crate::crd::{Auth, RedisDestination, RedisService};
use crate::inventory::NamespacedName;

use super::host::{self, HostName};
use super::options::ValidateOptions;
use super::policy;

/// The names in an object. Names that can't be read are left out; validation reports them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Mentions {
    /// The hosts that the object governs.
    pub claims: BTreeSet<HostName>,
    /// The hosts to which it routes.
    pub leads: BTreeSet<HostName>,
    /// The Secrets that it names.
    pub secrets: BTreeSet<NamespacedName>,
}

impl Mentions {
    /// The names in a RedisService.
    pub fn of_service(object: &RedisService, options: &ValidateOptions) -> Mentions {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let mut mentions = Mentions::default();
        let names = |text: &String| host::name(text, namespace, &options.cluster_domain).ok();
        mentions.claims.extend(object.spec.host.iter().filter_map(names));
        for route in &object.spec.redis {
            mentions.leads.extend(names(&route.route.host));
            mentions.leads.extend(route.mirror.iter().filter_map(|mirror| names(&mirror.route.host)));
        }
        // Without routes everything goes to the host itself.
        mentions.leads.extend(mentions.claims.iter().cloned());
        mentions.auth(object.spec.settings.as_ref().and_then(|settings| settings.auth.as_ref()), namespace);
        mentions
    }

    /// The names in a RedisDestination.
    pub fn of_destination(object: &RedisDestination, options: &ValidateOptions) -> Mentions {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let mut mentions = Mentions::default();
        mentions.claims.extend(host::name(&object.spec.host, namespace, &options.cluster_domain).ok());
        let Some(policy) = &object.spec.traffic_policy else { return mentions };
        if let Some(secret) = policy.tls.as_ref().and_then(|tls| tls.secret.as_ref()) {
            mentions.secrets.insert(NamespacedName::new(namespace, &secret.name));
        }
        if let Some(redis) = policy.connection_pool.as_ref().and_then(|pool| pool.redis.as_ref()) {
            mentions.auth(redis.auth.as_ref(), namespace);
            for text in &redis.discovery_endpoints {
                mentions.leads.extend(policy::discovery(text, namespace, options).ok().map(|entry| entry.name()));
            }
        }
        mentions
    }

    fn auth(&mut self, auth: Option<&Auth>, namespace: &str) {
        if let Some(reference) = auth.and_then(|auth| auth.secret.as_ref()) {
            self.secrets.insert(NamespacedName::new(namespace, &reference.name));
        }
    }
}
