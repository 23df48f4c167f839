//! RequestPolicy a Redis is reached, and as whom.

use crate::config::auth_command;
use crate::wire;
use std::fmt;
use std::sync::Arc;

/// RequestPolicy a Redis is reached.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The name of its cluster in Envoy.
    pub cluster: Arc<str>,
    /// As whom; absent: as nobody.
    pub login: Option<Credentials>,
    /// See [`wire::Upstream::nodes`].
    pub nodes: Option<Arc<str>>,
}

/// A login at a Redis, as the command to send. **Invariant:** a connection that was logged in with what a client has presented serves
/// only clients that have presented the same, each of whom the server has let in.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    /// That of the rules.
    Configured(Arc<[u8]>),
    /// A client's own; empty: it has presented none. So it is where no rules ask for a login or bring one.
    Presented(Arc<[u8]>),
}

impl Credentials {
    /// That of a client that has presented none.
    pub fn none_yet() -> Credentials {
        Credentials::Presented(Arc::default())
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = self.login.as_ref().map(|_| "[redacted]");
        let mut shown = f.debug_struct("Endpoint");
        shown.field("cluster", &self.cluster).field("login", &login).field("nodes", &self.nodes).finish()
    }
}

impl Endpoint {
    /// That of the rules.
    pub fn new(upstream: Option<&wire::Upstream>, is_cluster: bool) -> Result<Endpoint, String> {
        let Some(upstream) = upstream else { return Err("upstream: path native needs one".into()) };
        if upstream.cluster.is_empty() {
            return Err("upstream.cluster: it has no name".into());
        }
        if upstream.nodes.is_some() && !is_cluster {
            return Err("upstream.nodes: only of a Redis Cluster".into());
        }
        let command = |login: &wire::UpstreamLogin| auth_command(login.username.as_deref(), &login.password);
        Ok(Endpoint {
            cluster: upstream.cluster.as_str().into(),
            login: upstream.login.as_ref().map(|login| Credentials::Configured(command(login).into())),
            nodes: upstream.nodes.as_deref().map(Into::into),
        })
    }

    /// What a connection begins with, if it logs in.
    pub fn login_command(&self) -> Option<&[u8]> {
        match &self.login {
            Some(Credentials::Configured(command)) => Some(command),
            Some(Credentials::Presented(command)) => Some(&**command).filter(|command| !command.is_empty()),
            None => None,
        }
    }

    /// True if clients log in themselves.
    pub fn is_clients(&self) -> bool {
        matches!(self.login, Some(Credentials::Presented(_)))
    }

    /// The same for a client that has presented this.
    pub fn presented(&self, login: Option<&Arc<[u8]>>) -> Endpoint {
        match login.filter(|_| self.is_clients()) {
            Some(login) => Endpoint { login: Some(Credentials::Presented(login.clone())), ..self.clone() },
            None => self.clone(),
        }
    }

    /// The same for a client that has presented nothing, as the rules have it.
    pub fn of_rules(&self) -> Endpoint {
        let login = if self.is_clients() { Some(Credentials::none_yet()) } else { self.login.clone() };
        Endpoint { login, ..self.clone() }
    }

    /// By what it is known that it can't be reached: one for all logins that clients present, of which there can be any number.
    pub fn of_any_login(&self) -> Endpoint {
        let login = match &self.login {
            Some(Credentials::Presented(command)) if !command.is_empty() => {
                Some(Credentials::Presented(Arc::from(&b"*"[..])))
            }
            other => other.clone(),
        };
        Endpoint { login, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn logins_are_kept_apart() {
        let with = |login: Option<Credentials>| Endpoint { cluster: "c".into(), login, nodes: None };
        let (a, b): (Arc<[u8]>, Arc<[u8]>) = (Arc::from(&b"a"[..]), Arc::from(&b"b"[..]));
        let own = with(Some(Credentials::none_yet()));
        assert_eq!((own.login_command(), own.presented(Some(&a)).login_command()), (None, Some(&b"a"[..])));
        assert_ne!(own.presented(Some(&a)), own.presented(Some(&b)));
        assert_ne!(own.presented(Some(&a)), with(Some(Credentials::Configured(a.clone()))));
        assert_eq!(own.presented(Some(&a)).of_rules(), own);
        assert_eq!(own.presented(Some(&a)).of_any_login(), own.presented(Some(&b)).of_any_login());
        assert_ne!(own.presented(Some(&a)).of_any_login(), own.of_any_login());
        // Where the rules say who logs in, nothing that a client presents changes it.
        for ours in [with(None), with(Some(Credentials::Configured(b.clone())))] {
            assert_eq!(
                (ours.presented(Some(&a)), ours.of_rules(), ours.of_any_login()),
                (ours.clone(), ours.clone(), ours)
            );
        }
        assert!(!format!("{:?}", own.presented(Some(&a))).contains('a') || format!("{own:?}").contains("[redacted]"));
    }
}
