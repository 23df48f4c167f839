//! Backends: a destination together with its mirrors in `redis_proxy`, and the tags by which the
//! filter names them.
//!
//! A tag is a hash of the backend's content. A filter and a listener of different revisions
//! therefore mean the same backend by a tag, or the listener doesn't know the tag and refuses the
//! command: no command is sent to the wrong destination.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::validate::destination::ValidatedDestination;
use crate::validate::service::ValidatedService;

use super::digest::digest;

/// The byte with which tags begin. `redis_proxy` has a route for it to a cluster without
/// endpoints, so that an unknown tag is never taken for the beginning of a key.
pub const TAG_MARK: &str = "\u{1}";

/// A destination with its mirrors.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// The destination of commands.
    pub destination: Arc<ValidatedDestination>,
    /// The destinations of copies of all commands.
    pub mirrors: Vec<Arc<ValidatedDestination>>,
}

impl Backend {
    /// The content of the backend as a text. It doesn't depend on the percentages of mirrors.
    pub fn content(&self) -> String {
        let one = |destination: &ValidatedDestination| {
            format!("{} {}", destination.address, if destination.is_cluster() { "CLUSTER" } else { "PROXY" })
        };
        let mut mirrors: Vec<_> = self.mirrors.iter().map(|mirror| one(mirror)).collect();
        mirrors.sort();
        mirrors.insert(0, one(&self.destination));
        mirrors.join("\n")
    }

    /// The tag.
    pub fn tag(&self) -> String {
        let hash = digest(&[&self.content()]);
        let mut bits = u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]);
        let mut tag = String::from(TAG_MARK);
        for _ in 0..10 {
            tag.push(char::from(b"abcdefghijklmnopqrstuvwxyz234567"[(bits >> 59) as usize]));
            bits <<= 5;
        }
        tag.push(':');
        tag
    }
}

/// All backends of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct Backends {
    /// The backend of commands without a tag: the only destination without mirrors; none if there
    /// are several destinations.
    pub catch_all: Option<Backend>,
    /// The other backends by tag.
    pub tagged: BTreeMap<String, Backend>,
    /// For each target the tag of each subset of its mirrors, indexed by bit mask; none for the
    /// catch-all.
    pub tags: Vec<Vec<Option<String>>>,
}

impl Backends {
    /// The tag with which an argument begins.
    pub fn tag_of(&self, argument: &[u8]) -> Option<&str> {
        self.tagged.keys().find(|tag| argument.starts_with(tag.as_bytes())).map(String::as_str)
    }
}

/// The backends of a service on `proxy`.
pub fn backends(service: &ValidatedService) -> Backends {
    let single = service.single_destination();
    let catch_all = single.map(|destination| Backend { destination: destination.clone(), mirrors: Vec::new() });
    let mut tagged = BTreeMap::new();
    let mut tags = Vec::new();
    for target in &service.targets {
        let mut of_target = Vec::new();
        for mask in 0..1usize << target.mirrors.len() {
            if mask == 0 && catch_all.is_some() {
                of_target.push(None);
                continue;
            }
            let chosen = target.mirrors.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1);
            let mirrors = chosen.map(|(_, mirror)| mirror.destination.clone()).collect();
            let backend = Backend { destination: target.destination.clone(), mirrors };
            of_target.push(Some(backend.tag()));
            tagged.insert(backend.tag(), backend);
        }
        tags.push(of_target);
    }
    Backends { catch_all, tagged, tags }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::destination::Mode;
    use crate::validate::destination::EndpointSource;
    use crate::validate::host_port::HostPort;
    use crate::validate::policy::DestinationPolicy;

    fn destination(host: &str, mode: Mode) -> Arc<ValidatedDestination> {
        let policy = DestinationPolicy { mode: Some(mode), ..DestinationPolicy::default() };
        Arc::new(ValidatedDestination {
            address: HostPort { host: host.to_owned(), port: 6379 },
            service: None,
            owner: None,
            is_headless: false,
            resolution: None,
            selects_pods: true,
            in_mesh: true,
            policy,
            source: EndpointSource::Slices,
            endpoints: Vec::new(),
            listed: Vec::new(),
            rules: None,
        })
    }

    fn backend(host: &str, mode: Mode, mirrors: &[&str]) -> Backend {
        let mirrors = mirrors.iter().map(|mirror| destination(mirror, Mode::Proxy)).collect();
        Backend { destination: destination(host, mode), mirrors }
    }

    #[test]
    fn a_tag_is_its_backends_content() {
        let tag = |host, mode, mirrors: &[&str]| backend(host, mode, mirrors).tag();
        let a = tag("a", Mode::Proxy, &[]);
        assert_eq!(a.len(), 12);
        assert!(a.starts_with(TAG_MARK) && a.ends_with(':'));
        assert!(a[1..11].bytes().all(|byte| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte)));
        // Running filters and listeners know backends by these; a change of the hash is a change
        // of protocol.
        assert_eq!(a, "\u{1}wyiagsaz7o:");
        assert_ne!(a, tag("b", Mode::Proxy, &[]));
        assert_ne!(a, tag("a", Mode::Cluster, &[]));
        assert_ne!(a, tag("a", Mode::Proxy, &["b"]));
        assert_ne!(tag("a", Mode::Proxy, &["b"]), tag("b", Mode::Proxy, &["a"]));
        assert_eq!(tag("a", Mode::Proxy, &["b", "c"]), tag("a", Mode::Proxy, &["c", "b"]));
    }
}
