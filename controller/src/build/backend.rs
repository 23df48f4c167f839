//! Backends: a destination together with what `redis_proxy` does on the way there, and the tags by which the filter names
//! them.
//!
//! A tag is a hash of the backend's content. So a filter and a listener of different ages either mean the same backend by a
//! tag or the listener doesn't know it and refuses: nothing is ever sent to the wrong place.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::validate::ValidatedService;
use crate::validate::destination::Destination;

use super::digest;

/// The byte with which tags begin. `redis_proxy` has a route for it that leads nowhere, so that a tag that is not known is
/// never taken for the beginning of a key.
pub const TAG_MARK: &str = "\u{1}";

/// A destination, and where copies go.
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Where commands go.
    pub destination: Arc<Destination>,
    /// Where copies of all of them go.
    pub mirrors: Vec<Arc<Destination>>,
}

impl Backend {
    /// What the backend is, as a text: the same for the same backend whatever the percentages are.
    pub fn content(&self) -> String {
        let one = |destination: &Destination| {
            format!("{} {}", destination.address, if destination.is_cluster() { "CLUSTER" } else { "PROXY" })
        };
        let mut mirrors: Vec<_> = self.mirrors.iter().map(|mirror| one(mirror)).collect();
        mirrors.sort();
        mirrors.insert(0, one(&self.destination));
        mirrors.join("\n")
    }

    /// Its tag.
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
    /// Where untagged commands go: the only destination, if there is one, unmirrored.
    pub catch_all: Option<Backend>,
    /// By tag.
    pub tagged: BTreeMap<String, Backend>,
    /// For each target the tag of each subset of its mirrors, by bit mask; none is the catch-all.
    pub tags: Vec<Vec<Option<String>>>,
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
