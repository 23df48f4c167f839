//! The endpoint of an upstream: the Envoy cluster through which a Redis is reached, and the login
//! there.

use crate::config::auth_command;
use crate::wire;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// The way to a Redis or a Redis Cluster. Connections with different endpoints are never shared.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct UpstreamEndpoint {
    /// The name of the cluster in Envoy.
    pub cluster: Arc<str>,
    /// The login with which connections begin; absent if they begin without one.
    pub login: Option<UpstreamAuth>,
    /// See [`wire::Upstream::nodes`].
    pub nodes: Option<Arc<str>>,
    /// The member of the cluster to which connections lead.
    pub member: EndpointMember,
}

/// To which members of its cluster connections to an endpoint may lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EndpointMember {
    /// To whichever Envoy chooses, or to nodes of a Redis Cluster by their addresses.
    #[default]
    Any,
    /// To this one, since only it has the keys.
    At(SocketAddr),
    /// To none: keys are placed on members, and these aren't known.
    Unknown,
}

/// A login at a Redis, as the AUTH command to send
/// (<https://redis.io/docs/latest/commands/auth/>).
///
/// **Invariant:** a connection that was logged in with a client's credentials serves only clients
/// that have presented the same credentials, each of which the server has accepted.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum UpstreamAuth {
    /// The login of the configuration.
    Configured(Arc<[u8]>),
    /// The login that a client has presented; empty while it has presented none. Endpoints have
    /// it if the configuration has no login, see
    /// [`AuthRules::passes_auth`](crate::multiplexer::config::AuthRules::passes_auth).
    Presented(Arc<[u8]>),
}

impl UpstreamAuth {
    /// Returns the login of a client that has presented none.
    pub fn none_yet() -> UpstreamAuth {
        UpstreamAuth::Presented(Arc::default())
    }
}

impl fmt::Debug for UpstreamEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = self.login.as_ref().map(|_| "[redacted]");
        let mut shown = f.debug_struct("UpstreamEndpoint");
        shown.field("cluster", &self.cluster).field("login", &login).field("nodes", &self.nodes);
        shown.field("member", &self.member).finish()
    }
}

impl UpstreamEndpoint {
    /// Compiles an upstream; `is_cluster` says whether it is a Redis Cluster.
    ///
    /// # Errors
    /// The upstream is absent, or a field of it has a wrong value. The error names the field.
    pub fn new(upstream: Option<&wire::Upstream>, is_cluster: bool) -> Result<UpstreamEndpoint, String> {
        let Some(upstream) = upstream else { return Err("upstream: path native needs one".into()) };
        if upstream.cluster.is_empty() {
            return Err("upstream.cluster: it has no name".into());
        }
        if upstream.nodes.is_some() && !is_cluster {
            return Err("upstream.nodes: only of a Redis Cluster".into());
        }
        if upstream.key_hash.is_some() && is_cluster {
            return Err("upstream.keyHash: a Redis Cluster places keys itself".into());
        }
        let command = |login: &wire::UpstreamLogin| auth_command(login.username.as_deref(), &login.password);
        Ok(UpstreamEndpoint {
            cluster: upstream.cluster.as_str().into(),
            login: upstream.login.as_ref().map(|login| UpstreamAuth::Configured(command(login).into())),
            nodes: upstream.nodes.as_deref().map(Into::into),
            member: if upstream.key_hash.is_some() { EndpointMember::Unknown } else { EndpointMember::Any },
        })
    }

    /// The host and port as people know them: names of clusters in Istio and here are
    /// `…|PORT|…|HOST`.
    pub fn shown(&self) -> String {
        let mut parts = self.cluster.split('|');
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(_), Some(port), Some(_), Some(host)) => format!("{host}:{port}"),
            _ => self.cluster.to_string(),
        }
    }

    /// Returns the endpoint with another member.
    pub fn at(&self, member: EndpointMember) -> UpstreamEndpoint {
        UpstreamEndpoint { member, ..self.clone() }
    }

    /// Returns true if an endpoint is this one with the member that it leads to: rules don't know the
    /// members of a destination.
    pub fn leads_to(&self, endpoint: &UpstreamEndpoint) -> bool {
        self.at(endpoint.member) == *endpoint
    }

    /// Returns true if connections to both lead to the same servers, whatever their logins.
    pub fn is_same_place(&self, other: &UpstreamEndpoint) -> bool {
        self.cluster == other.cluster && self.member == other.member
    }

    /// Returns the AUTH command with which a connection begins, if it begins with one.
    pub fn login_command(&self) -> Option<&[u8]> {
        match &self.login {
            Some(UpstreamAuth::Configured(command)) => Some(command),
            Some(UpstreamAuth::Presented(command)) => Some(&**command).filter(|command| !command.is_empty()),
            None => None,
        }
    }

    /// Returns true if clients present the login.
    pub fn is_clients(&self) -> bool {
        matches!(self.login, Some(UpstreamAuth::Presented(_)))
    }

    /// Returns the endpoint for a client that has presented this AUTH command. It is the same
    /// endpoint if the configuration decides about the login.
    pub fn presented(&self, login: Option<&Arc<[u8]>>) -> UpstreamEndpoint {
        match login.filter(|_| self.is_clients()) {
            Some(login) => UpstreamEndpoint { login: Some(UpstreamAuth::Presented(login.clone())), ..self.clone() },
            None => self.clone(),
        }
    }

    /// Returns the endpoint as the configuration has it, without any client's credentials.
    pub fn of_rules(&self) -> UpstreamEndpoint {
        let login = if self.is_clients() { Some(UpstreamAuth::none_yet()) } else { self.login.clone() };
        UpstreamEndpoint { login, ..self.clone() }
    }

    /// Returns the endpoint by which failures to connect are recorded. It is one and the same for
    /// all credentials that clients present, since clients could present any number of them.
    pub fn of_any_login(&self) -> UpstreamEndpoint {
        let login = match &self.login {
            Some(UpstreamAuth::Presented(command)) if !command.is_empty() => {
                Some(UpstreamAuth::Presented(Arc::from(&b"*"[..])))
            }
            other => other.clone(),
        };
        UpstreamEndpoint { login, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn logins_have_different_endpoints() {
        let with = |login: Option<UpstreamAuth>| UpstreamEndpoint {
            cluster: "c".into(),
            login,
            nodes: None,
            member: Default::default(),
        };
        let (a, b): (Arc<[u8]>, Arc<[u8]>) = (Arc::from(&b"a"[..]), Arc::from(&b"b"[..]));
        let clients = with(Some(UpstreamAuth::none_yet()));
        assert_eq!((clients.login_command(), clients.presented(Some(&a)).login_command()), (None, Some(&b"a"[..])));
        assert_ne!(clients.presented(Some(&a)), clients.presented(Some(&b)));
        assert_ne!(clients.presented(Some(&a)), with(Some(UpstreamAuth::Configured(a.clone()))));
        assert_eq!(clients.presented(Some(&a)).of_rules(), clients);
        assert_eq!(clients.presented(Some(&a)).of_any_login(), clients.presented(Some(&b)).of_any_login());
        assert_ne!(clients.presented(Some(&a)).of_any_login(), clients.of_any_login());
        // Where the configuration has a login, or none, nothing that a client presents changes
        // it.
        for configured in [with(None), with(Some(UpstreamAuth::Configured(b.clone())))] {
            assert_eq!(
                (configured.presented(Some(&a)), configured.of_rules(), configured.of_any_login()),
                (configured.clone(), configured.clone(), configured)
            );
        }
        assert!(
            !format!("{:?}", clients.presented(Some(&a))).contains('a')
                || format!("{clients:?}").contains("[redacted]")
        );
    }

    #[test]
    fn upstreams_are_compiled() {
        let wire = |document: serde_json::Value| serde_json::from_value::<wire::Upstream>(document).unwrap();
        let login = serde_json::json!({"username": "u", "password": "p"});
        let upstream = wire(serde_json::json!({"cluster": "c", "login": login, "nodes": "n"}));
        let endpoint = UpstreamEndpoint::new(Some(&upstream), true).unwrap();
        assert_eq!((&*endpoint.cluster, endpoint.nodes.as_deref()), ("c", Some("n")));
        assert_eq!(endpoint.login_command(), Some(&b"*3\r\n$4\r\nAUTH\r\n$1\r\nu\r\n$1\r\np\r\n"[..]));
        assert!(!endpoint.is_clients());
        assert_eq!(endpoint.shown(), "c");
        for cluster in
            ["outbound|6379||redis.shop.svc", "native|6379||redis.shop.svc", "redis-mesh|6379|shop|redis.shop.svc"]
        {
            let upstream = wire(serde_json::json!({"cluster": cluster}));
            assert_eq!(UpstreamEndpoint::new(Some(&upstream), true).unwrap().shown(), "redis.shop.svc:6379");
        }
        let error = |upstream: Option<&wire::Upstream>| UpstreamEndpoint::new(upstream, false).unwrap_err();
        assert_eq!(error(None), "upstream: path native needs one");
        assert_eq!(error(Some(&upstream)), "upstream.nodes: only of a Redis Cluster");
        assert_eq!(error(Some(&wire(serde_json::json!({"cluster": ""})))), "upstream.cluster: it has no name");
    }

    #[test]
    fn no_password_is_shown() {
        for login in
            [UpstreamAuth::Configured(Arc::from(&b"hidden"[..])), UpstreamAuth::Presented(Arc::from(&b"hidden"[..]))]
        {
            let endpoint =
                UpstreamEndpoint { cluster: "c".into(), login: Some(login), nodes: None, member: Default::default() };
            let shown = format!("{endpoint:?}");
            assert!(shown.contains("[redacted]") && !shown.contains("hidden") && !shown.contains("104"), "{shown}");
        }
    }
}
