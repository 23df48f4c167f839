//! The task that takes in what watches show and runs a sync when nothing more comes for a moment.

use std::time::Duration;

use tokio::sync::{mpsc, watch as shared};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::discovery::DiscoveryChange;
use crate::inventory::NamespacedName;
use crate::render::{envoy_filter, wasm_plugin};

use super::change::StoreChange;
use super::listings::Listings;
use super::module::Delivered;
use super::names::{ObjectKind, RenderedKey};
use super::readiness::WriteObstacle;
use super::root::MeshRoot;
use super::source::{SecretScope, WatchSource};
use super::sync_state::SyncState;
use super::watch::{self, Observation, WatchUpdate};
use super::witness::state::Witness;

/// Reconciles the cluster with its RedisServices and RedisDestinations.
pub struct Reconciler {
    state: SyncState,
    delivered: shared::Receiver<Delivered>,
    updates: (mpsc::Sender<WatchUpdate>, mpsc::Receiver<WatchUpdate>),
    listings: Listings,
}

impl Reconciler {
    /// Creates a reconciler that has seen nothing yet.
    pub fn new(state: SyncState, delivered: shared::Receiver<Delivered>) -> Reconciler {
        Reconciler { state, delivered, updates: mpsc::channel(1024), listings: Listings::default() }
    }

    /// Runs until the task is dropped.
    pub async fn run(mut self) {
        let sources = [
            WatchSource::Objects(ObjectKind::Service),
            WatchSource::Objects(ObjectKind::Destination),
            WatchSource::Services,
            WatchSource::Slices,
            WatchSource::Entries,
            WatchSource::Rules,
            WatchSource::Rendered(wasm_plugin::KIND),
            WatchSource::Rendered(envoy_filter::KIND),
        ];
        for source in sources {
            let client = &self.state.context.client;
            watch::start(client, source.clone(), self.updates.0.clone());
            self.listings.require(source);
        }
        // What nothing has to wait for: these are needed for warnings only, and a namespace counts as one that
        // istiod looks at until the contrary is known.
        for source in [WatchSource::Sidecars, WatchSource::UserFilters, WatchSource::Namespaces] {
            watch::start(&self.state.context.client, source, self.updates.0.clone());
        }
        loop {
            self.wait().await;
            if !self.listings.is_complete() {
                continue;
            }
            self.state.context.http.readiness.set(WriteObstacle::Listing, None);
            if self.state.context.standing.borrow().root.is_none() {
                continue;
            }
            if self.state.progress.is_new {
                // Objects that wait for Secrets are missing in the plan, and shared objects would
                // be written without them.
                self.watch_secrets();
                if self.state.secrets.is_any_unread() {
                    continue;
                }
                self.state.progress.is_new = false;
            }
            self.watch_secrets();
            self.state.sync().await;
        }
    }

    /// Takes in updates until there is none for a while. While something is left to be done, those count
    /// that are there.
    async fn wait(&mut self) {
        let is_unfinished = std::mem::take(&mut self.state.progress.is_unfinished);
        let retry_at = if is_unfinished { Some(Instant::now()) } else { self.state.progress.wake_at() };
        let retry = async {
            match retry_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            update = self.updates.1.recv() => {
                if let Some(update) = update {
                    self.take(update);
                }
            }
            changed = self.state.context.standing.changed() => {
                if changed.is_err() {
                    // The election has ended because the process ends.
                    return std::future::pending().await;
                }
                self.take_standing();
                return;
            }
            () = changed(&mut self.delivered) => self.take_module(),
            () = judged(&mut self.state.witness) => return,
            () = retry => self.state.progress.woken(),
        }
        let end = Instant::now() + self.state.context.settings.max_debounce;
        let debounce = if is_unfinished { Duration::ZERO } else { self.state.context.settings.debounce };
        loop {
            let quiet = Instant::now() + debounce;
            match tokio::time::timeout_at(quiet.min(end), self.updates.1.recv()).await {
                Ok(Some(update)) => self.take(update),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Takes in which part this replica has in the mesh.
    fn take_standing(&mut self) {
        let standing = self.state.context.standing.borrow_and_update().clone();
        if let Some(root) = &standing.root {
            self.change(StoreChange::Discovery(DiscoveryChange::Selectors(root.says.discovery.clone())));
        }
        let known = &mut self.state.context.settings.mesh;
        let exports = &self.state.store.inventory().default_exports;
        let is_other = |root: &MeshRoot| {
            let settings = (known.is_dual_stack, exports);
            *root.namespace != *known.root_namespace || (root.says.is_dual_stack, &root.says.exports) != settings
        };
        if let Some(root) = standing.root.filter(is_other) {
            known.root_namespace = root.namespace.to_string();
            known.is_dual_stack = root.says.is_dual_stack;
            self.state.store.options.root_namespace.clone_from(&known.root_namespace);
            // It concerns every object, as the rest does.
            self.change(StoreChange::DefaultExports(root.says.exports));
        }
        self.state.objects.succeed(standing.predecessors);
        self.state.context.http.metrics.set_leader(self.state.context.is_leader());
        self.state.progress.is_settled = false;
        self.state.progress.is_stale = true;
    }

    /// Takes in what became of the delivery of the dynamic module.
    fn take_module(&mut self) {
        let delivered = self.delivered.borrow_and_update().clone();
        let settings = &mut self.state.context.settings;
        match delivered {
            Delivered::Awaited => return,
            Delivered::Refused(problem) => settings.module_refusal = Some(problem),
            Delivered::Present { module, others } => {
                info!(module = module.filename, "sidecars with the dynamic module are configured to load it");
                settings.mesh.module = Some(module);
                settings.mesh.other_modules = others;
            }
        }
        self.state.queue.add(self.state.store.objects().keys().cloned());
        self.state.progress.is_stale = true;
    }

    fn take(&mut self, update: WatchUpdate) {
        match update {
            WatchUpdate::Listing(source) => self.listings.begin(source),
            WatchUpdate::There(source, name, observation) => {
                self.listings.show(&source, &name);
                match (observation, source) {
                    (Observation::Change(change), _) => self.change(change),
                    (Observation::Rendered(object), WatchSource::Rendered(kind)) => {
                        self.state.progress.is_stale |= self.state.objects.observe(RenderedKey { kind, name }, object);
                    }
                    (Observation::Rendered(_), _) => {}
                }
            }
            WatchUpdate::Gone(source, name) => self.remove(&source, &name),
            WatchUpdate::Listed(source) => self.listed(source),
            WatchUpdate::Failed(source, failure) => {
                self.listings.fail(&source, &failure.reason);
                self.state.context.http.metrics.watch_failed(source.name());
                if let WatchSource::Secrets(scope) = source
                    && self.state.secrets.failed(&scope, failure)
                {
                    self.wake(&scope);
                }
            }
        }
    }

    /// Takes in that a source has listed all of its objects: those that it hasn't shown are gone.
    fn listed(&mut self, source: WatchSource) {
        let shown = self.listings.end(&source);
        let known = match &source {
            WatchSource::Rendered(kind) => self.state.objects.names(kind),
            source => self.state.store.names(source),
        };
        for name in known.iter().filter(|name| !shown.contains(*name)) {
            self.remove(&source, name);
        }
        if let WatchSource::Secrets(scope) = source
            && self.state.secrets.listed(&scope)
        {
            self.wake(&scope);
        }
    }

    fn change(&mut self, change: StoreChange) {
        match self.state.store.apply(change) {
            Ok(affected) => {
                self.state.queue.add(affected.evaluate);
                self.state.statuses.status_dirty.extend(affected.status);
            }
            Err(error) => warn!("{error}"),
        }
    }

    fn remove(&mut self, source: &WatchSource, name: &NamespacedName) {
        match source.removal(name) {
            Some(change) => self.change(change),
            None => {
                if let WatchSource::Rendered(kind) = source {
                    self.state.progress.is_stale |=
                        self.state.objects.remove(&RenderedKey { kind, name: name.clone() });
                }
            }
        }
    }

    /// Has the objects evaluated that name a Secret of this scope.
    fn wake(&mut self, scope: &SecretScope) {
        let secrets = self.state.store.index().secrets();
        let covered = secrets.iter().filter(|secret| scope.covers(secret));
        self.state.queue.add(covered.flat_map(|secret| self.state.store.index().users_of(secret)).cloned());
    }

    /// Watches the Secrets that objects name, and no others.
    fn watch_secrets(&mut self) {
        let client = &self.state.context.client;
        let updates = &self.updates.0;
        let open = |source| watch::start(client, source, updates.clone());
        for closed in self.state.secrets.update(&self.state.store, open) {
            self.listings.close(&closed);
        }
    }
}

/// Returns when the witness has shown something from which something follows; never if there is none.
async fn judged(witness: &mut Option<Witness>) {
    let Some(witness) = witness else { return std::future::pending().await };
    loop {
        witness.looked().await;
        if witness.take_look() {
            return;
        }
    }
}

/// Returns when a new value was sent; never if there will be none.
async fn changed(delivered: &mut shared::Receiver<Delivered>) {
    if delivered.changed().await.is_err() {
        std::future::pending().await
    }
}
