//! The state of the reconciler: the store, the states of objects and rendered objects, and the
//! progress.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::ExponentialBackoff;
use tokio::sync::watch as shared;

use crate::diagnostic::Problem;
use crate::render::mesh_options::MeshOptions;
use crate::validate::options::{ModuleAvailability, ValidateOptions};

use super::applier::Applier;
use super::backoff;
use super::http::HttpState;
use super::installation::Standing;
use super::names::ObjectKey;
use super::ports::DeclaredPorts;
use super::queue::EvaluationQueue;
use super::rendered::RenderedObjects;
use super::secrets::SecretWatches;
use super::state::ObjectStates;
use super::store::Store;
use super::urgency::UrgentChanges;
use super::witness::state::Witness;

/// The longest time between two attempts to sync.
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The settings of the reconciler.
pub struct ReconcileSettings {
    /// The namespace of the controller, which marks its objects among those of other
    /// controllers.
    pub controller: String,
    /// The name of this replica.
    pub identity: String,
    /// The options of rendering.
    pub mesh: MeshOptions,
    /// The options of validation.
    pub validate: ValidateOptions,
    /// Why no sidecar gets the dynamic module from this controller, where it was asked to bring
    /// it.
    pub module_refusal: Option<Problem>,
    /// The ports that have a WasmPlugin from the beginning.
    pub ports: DeclaredPorts,
    /// The time without changes after which a sync begins.
    pub debounce: Duration,
    /// The longest time that a change waits for a sync.
    pub max_debounce: Duration,
}

impl ReconcileSettings {
    /// True while the dynamic module is on its way to the sidecars. The objects that make
    /// sidecars load it stay until then.
    pub fn awaits_module(&self) -> bool {
        self.mesh.module.is_none() && self.validate.module == ModuleAvailability::Sidecars
    }
}

/// The parts of the reconciler that talk to others.
pub struct SyncContext {
    pub client: Client,
    pub settings: ReconcileSettings,
    pub http: Arc<HttpState>,
    pub recorder: Recorder,
    pub applier: Applier,
    pub standing: shared::Receiver<Standing>,
}

impl SyncContext {
    /// True while this replica may write.
    pub fn is_leader(&self) -> bool {
        self.standing.borrow().may_write(&self.settings.mesh.root_namespace)
    }
}

/// The objects about whose status there may be something new to say.
#[derive(Default)]
pub struct StatusQueue {
    /// The objects.
    pub status_dirty: BTreeSet<ObjectKey>,
    /// Objects whose status doesn't say yet whether a proxy has taken them.
    pub unsettled: BTreeSet<ObjectKey>,
    /// Objects whose rendered objects could not be written, or were rejected by Istio, in the
    /// last sync.
    pub judged: BTreeSet<ObjectKey>,
}

/// The progress of the reconciler.
pub struct SyncProgress {
    /// True if something has changed that concerns more than the evaluated objects.
    pub is_stale: bool,
    /// True if the leader has done what follows its first successful sync.
    pub is_settled: bool,
    /// True if the last sync has left something for the next one, which begins at once.
    pub is_unfinished: bool,
    /// True before the first sync.
    pub is_new: bool,
    backoff: ExponentialBackoff,
    /// The time at which a sync that failed is repeated.
    retry_at: Option<tokio::time::Instant>,
    /// The time at which there may be something to do that no watch shows.
    look_at: Option<tokio::time::Instant>,
}

impl SyncProgress {
    fn new() -> SyncProgress {
        let backoff = backoff::doubling(LONGEST_RETRY);
        SyncProgress {
            is_stale: true,
            is_settled: false,
            is_unfinished: false,
            is_new: true,
            backoff,
            retry_at: None,
            look_at: None,
        }
    }

    /// Records that a sync succeeded.
    pub fn succeeded(&mut self) {
        self.backoff.reset();
        self.retry_at = None;
    }

    /// Has a sync begin after this time at the latest, even if nothing changes.
    pub fn look_again(&mut self, wait: Duration) {
        self.look_at = Some(tokio::time::Instant::now() + wait);
    }

    /// The time at which a sync begins even if nothing changes.
    pub fn wake_at(&self) -> Option<tokio::time::Instant> {
        self.retry_at.into_iter().chain(self.look_at).min()
    }

    /// Records that this time has come.
    pub fn woken(&mut self) {
        (self.retry_at, self.look_at) = (None, None);
    }

    /// Records that a sync failed. The next attempt comes after a time that doubles with each
    /// failure.
    pub fn failed(&mut self) {
        let wait = self.backoff.next().unwrap_or(LONGEST_RETRY);
        self.retry_at = Some(tokio::time::Instant::now() + wait);
    }
}

/// Everything that a sync reads and changes.
pub struct SyncState {
    /// The parts that talk to others.
    pub context: SyncContext,
    /// The objects in the cluster.
    pub store: Store,
    /// The objects that have to be evaluated.
    pub queue: EvaluationQueue,
    /// The watches of Secrets.
    pub secrets: SecretWatches,
    /// The state of each object.
    pub states: ObjectStates,
    /// The rendered objects in the cluster.
    pub objects: RenderedObjects,
    /// The statuses that have to be written.
    pub statuses: StatusQueue,
    /// The changes that come before others.
    pub urgent: UrgentChanges,
    /// The witness of what proxies have taken, if there is one.
    pub witness: Option<Witness>,
    /// The progress of the reconciler.
    pub progress: SyncProgress,
}

impl SyncState {
    /// Knows nothing yet.
    pub fn new(
        client: Client,
        settings: ReconcileSettings,
        http: Arc<HttpState>,
        standing: shared::Receiver<Standing>,
    ) -> SyncState {
        let reporter = Reporter { controller: "redis-mesh".to_owned(), instance: Some(settings.identity.clone()) };
        SyncState {
            store: Store::new(settings.validate.clone()),
            queue: EvaluationQueue::default(),
            secrets: SecretWatches::default(),
            states: ObjectStates::default(),
            objects: RenderedObjects::new(settings.controller.clone()),
            statuses: StatusQueue::default(),
            urgent: UrgentChanges::default(),
            witness: None,
            progress: SyncProgress::new(),
            context: SyncContext {
                recorder: Recorder::new(client.clone(), reporter),
                applier: Applier::new(client.clone(), settings.controller.clone()),
                client,
                settings,
                http,
                standing,
            },
        }
    }
}
