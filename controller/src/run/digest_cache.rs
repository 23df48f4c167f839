//! The digests of planned objects. Building an object is most of a sync's work, so a digest is
//! computed again only where what the object is made from has changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use redis_mesh_core::wire;

use crate::exports::Exports;
use crate::render::envoy::ClusterUse;
use crate::render::mesh_options::MeshOptions;
use crate::render::native::DynamicModule;
use crate::render::planned_object::{ObjectContent, PlannedObject};
use crate::render::prepared_service::PreparedService;
use crate::validate::destination::ValidatedDestination;

use super::digest::{ContentDigest, digest};
use super::names::RenderedKey;

/// The input of a digest. Inputs are shared, so equal ones are mostly the same
/// allocation, which is cheap to see.
enum DigestInput {
    Listener(Arc<PreparedService>, bool),
    Plugin(Vec<Arc<PreparedService>>, Vec<String>, Vec<wire::Host>),
    NativeListener(Arc<PreparedService>),
    Module(DynamicModule),
    Cluster(Arc<ValidatedDestination>, ClusterUse, Option<String>, Vec<Arc<PreparedService>>),
}

fn are_same(a: &[Arc<PreparedService>], b: &[Arc<PreparedService>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}

impl DigestInput {
    fn of(content: &ObjectContent) -> DigestInput {
        match content {
            ObjectContent::Listener { prepared, per_host } => DigestInput::Listener(prepared.clone(), *per_host),
            ObjectContent::Plugin { prepared_services, refused, kept, .. } => {
                DigestInput::Plugin(prepared_services.clone(), refused.clone(), kept.clone())
            }
            ObjectContent::NativeListener { prepared } => DigestInput::NativeListener(prepared.clone()),
            ObjectContent::Module(module) => DigestInput::Module(module.clone()),
            ObjectContent::Cluster { destination, usage, scope, prepared_services } => {
                DigestInput::Cluster(destination.clone(), *usage, scope.clone(), prepared_services.clone())
            }
        }
    }

    fn is(&self, content: &ObjectContent) -> bool {
        match (self, content) {
            (DigestInput::Listener(known, by_itself), ObjectContent::Listener { prepared, per_host }) => {
                Arc::ptr_eq(known, prepared) && by_itself == per_host
            }
            (
                DigestInput::Plugin(known, turned_away, stayed),
                ObjectContent::Plugin { prepared_services, refused, kept, .. },
            ) => are_same(known, prepared_services) && turned_away == refused && stayed == kept,
            (
                DigestInput::Cluster(known, used, clients, services),
                ObjectContent::Cluster { destination, usage, scope, prepared_services },
            ) => {
                Arc::ptr_eq(known, destination)
                    && used == usage
                    && clients == scope
                    && are_same(services, prepared_services)
            }
            (DigestInput::NativeListener(known), ObjectContent::NativeListener { prepared }) => {
                Arc::ptr_eq(known, prepared)
            }
            (DigestInput::Module(known), ObjectContent::Module(module)) => known == module,
            _ => false,
        }
    }
}

/// The digests of planned objects, by name.
#[derive(Default)]
pub struct DigestCache {
    /// The input, the namespaces of the clients, and the digest.
    known: BTreeMap<RenderedKey, (DigestInput, Exports, ContentDigest)>,
}

impl DigestCache {
    /// The digest of a planned object without its revision.
    pub fn digest_of(&mut self, key: &RenderedKey, planned: &PlannedObject, options: &MeshOptions) -> ContentDigest {
        let is_it = |input: &DigestInput, clients: &Exports| input.is(&planned.content) && *clients == planned.clients;
        if let Some((_, _, digest)) = self.known.get(key).filter(|(input, clients, _)| is_it(input, clients)) {
            return *digest;
        }
        let digest = digest(&planned.build(options, 0));
        self.known.insert(key.clone(), (DigestInput::of(&planned.content), planned.clients.clone(), digest));
        digest
    }

    /// Drops the digests of objects that are no longer planned.
    pub fn retain(&mut self, planned: &BTreeMap<RenderedKey, Arc<PlannedObject>>) {
        if self.known.len() > planned.len() {
            self.known.retain(|key, _| planned.contains_key(key));
        }
    }
}
