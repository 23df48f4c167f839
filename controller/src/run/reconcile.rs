//! The one task that decides.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use kube::Client;
use kube::runtime::events::{Recorder, Reporter};
use tokio::sync::{mpsc, watch as shared};
use tokio::task::JoinHandle;
use tracing::{debug, info, warn};

use crate::build::mesh::{self, Group, Piece};
use crate::build::{envoy_filter, wasm_plugin};
use crate::inventory::Key;
use crate::validate;

use super::apply::{Objects, RenderedKey};
use super::http::Served;
use super::lease::Leadership;
use super::module::Delivered;
use super::telemetry::Outcome;
use super::watch::{self, Scope, Source, Told, Update};
use super::world::{Evaluation, Kind, ObjectKey, World};

/// The first wait after a failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long nothing more is said of a watch that stays broken.
const REMIND: Duration = Duration::from_secs(600);

/// What is decided at the beginning.
pub struct Settings {
    /// The namespace of the controller, which is its name to other controllers.
    pub controller: String,
    /// This replica.
    pub identity: String,
    /// How objects are rendered.
    pub mesh: mesh::Options,
    /// How names are read.
    pub validate: validate::Options,
    /// How long nothing must have changed.
    pub debounce: Duration,
    /// How long changes wait at most.
    pub max_debounce: Duration,
}

impl Settings {
    /// The dynamic module is on its way to sidecars; until it is there, what makes them load it stays as it is.
    pub(super) fn awaits_module(&self) -> bool {
        self.mesh.module.is_none() && self.validate.module == validate::Module::Sidecars
    }
}

/// What became of one of our objects so far.
#[derive(Default)]
pub(super) struct Known {
    /// As it is now.
    pub(super) evaluation: Evaluation,
    /// What is in force: of the last generation that was in order.
    pub(super) good: Vec<Arc<Piece>>,
    /// The object: another one of its name begins anew.
    pub(super) uid: Option<String>,
    /// It is another one than was seen first, of which nothing can have been rendered before.
    pub(super) is_recreated: bool,
    /// That generation; none if it was never in order since this replica began.
    pub(super) good_generation: Option<i64>,
}

impl Known {
    /// True if nothing is known of what is in force.
    pub(super) fn is_frozen(&self) -> bool {
        let evaluation = &self.evaluation;
        !evaluation.is_good() && !evaluation.has_conflict() && self.good_generation.is_none() && !self.is_recreated
    }
}

/// See the module.
pub struct Reconciler {
    pub(super) client: Client,
    pub(super) settings: Settings,
    pub(super) served: Arc<Served>,
    pub(super) recorder: Recorder,
    pub(super) is_leader: shared::Receiver<Leadership>,
    pub(super) delivered: shared::Receiver<Delivered>,
    pub(super) updates: (mpsc::Sender<Update>, mpsc::Receiver<Update>),
    pub(super) world: World,
    pub(super) objects: Objects,
    pub(super) known: BTreeMap<ObjectKey, Box<Known>>,
    /// How many objects build on a RedisDestination.
    pub(super) users: BTreeMap<ObjectKey, usize>,
    /// Sources that have not been listed yet.
    pub(super) unlisted: BTreeSet<Source>,
    /// What a source that is being listed has shown so far.
    pub(super) listing: BTreeMap<Source, BTreeSet<Key>>,
    pub(super) secrets: BTreeMap<Scope, JoinHandle<()>>,
    /// The Secrets that were named when their watches were last looked at.
    pub(super) named: BTreeSet<Key>,
    /// Of these watches, those that have not shown anything yet.
    pub(super) unread: BTreeSet<Scope>,
    /// What [`World::namings`] was when they were opened.
    pub(super) namings: Option<u64>,
    pub(super) unreadable: BTreeMap<Scope, String>,
    /// What was said last of watches that are broken, and when.
    pub(super) broken: BTreeMap<Source, (String, Instant)>,
    /// Objects that wait for a Secret to be read.
    pub(super) waiting: BTreeSet<ObjectKey>,
    pub(super) failures: BTreeMap<RenderedKey, String>,
    /// Objects of whose status there may be something new to say.
    pub(super) unsaid: BTreeSet<ObjectKey>,
    /// Objects against which the last pass had something to say.
    pub(super) judged: BTreeSet<ObjectKey>,
    pub(super) large: Option<BTreeSet<Group>>,
    pub(super) is_stale: bool,
    /// Nothing was looked at yet.
    pub(super) is_new: bool,
    pub(super) attempts: u32,
    pub(super) retry_at: Option<tokio::time::Instant>,
    pub(super) is_settled: bool,
}

impl Reconciler {
    /// One that has seen nothing yet.
    pub fn new(
        client: Client,
        settings: Settings,
        served: Arc<Served>,
        is_leader: shared::Receiver<Leadership>,
        delivered: shared::Receiver<Delivered>,
    ) -> Reconciler {
        let reporter = Reporter { controller: "redis-mesh".to_owned(), instance: Some(settings.identity.clone()) };
        Reconciler {
            recorder: Recorder::new(client.clone(), reporter),
            objects: Objects::new(client.clone(), settings.controller.clone()),
            world: World::new(settings.validate.clone()),
            client,
            settings,
            served,
            is_leader,
            delivered,
            updates: mpsc::channel(1024),
            known: BTreeMap::new(),
            users: BTreeMap::new(),
            unlisted: BTreeSet::new(),
            listing: BTreeMap::new(),
            secrets: BTreeMap::new(),
            named: BTreeSet::new(),
            unread: BTreeSet::new(),
            namings: None,
            unreadable: BTreeMap::new(),
            broken: BTreeMap::new(),
            waiting: BTreeSet::new(),
            failures: BTreeMap::new(),
            unsaid: BTreeSet::new(),
            judged: BTreeSet::new(),
            large: None,
            is_stale: true,
            is_new: true,
            attempts: 0,
            retry_at: None,
            is_settled: false,
        }
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        let sources = [
            Source::Objects(Kind::Service),
            Source::Objects(Kind::Destination),
            Source::Services,
            Source::Slices,
            Source::Entries,
            Source::Rendered(wasm_plugin::KIND),
            Source::Rendered(envoy_filter::KIND),
        ];
        for source in sources {
            watch::start(&self.client, source.clone(), &self.settings.controller, self.updates.0.clone());
            self.unlisted.insert(source);
        }
        loop {
            self.wait().await;
            if !self.unlisted.is_empty() {
                continue;
            }
            self.served.ready.store(true, Ordering::Relaxed);
            if self.is_new {
                // Objects that wait for Secrets are missing in a plan, and what is shared with others would be written without them.
                self.watch_secrets();
                if !self.unread.is_empty() {
                    continue;
                }
                self.is_new = false;
            }
            self.reconcile().await;
        }
    }

    /// Takes in what is told, until nothing more is for a while.
    async fn wait(&mut self) {
        let retry_at = self.retry_at;
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
            changed = self.is_leader.changed() => {
                if changed.is_err() {
                    // Nobody runs for leader any more, because the process ends.
                    return std::future::pending().await;
                }
                let leads = self.is_leader.borrow().holds();
                self.served.metrics.set_leader(leads);
                self.is_settled = false;
                self.is_stale = true;
                return;
            }
            () = next(&mut self.delivered) => self.take_module(),
            () = retry => self.retry_at = None,
        }
        let end = tokio::time::Instant::now() + self.settings.max_debounce;
        loop {
            let quiet = tokio::time::Instant::now() + self.settings.debounce;
            match tokio::time::timeout_at(quiet.min(end), self.updates.1.recv()).await {
                Ok(Some(update)) => self.take(update),
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// The dynamic module of this version is where sidecars find it.
    fn take_module(&mut self) {
        let Delivered::Present { module, others } = self.delivered.borrow_and_update().clone() else { return };
        info!(module = module.filename, "sidecars that have the dynamic module are served by it");
        self.settings.mesh.module = Some(module);
        self.settings.mesh.other_modules = others;
        self.world.mark_all();
        self.is_stale = true;
    }

    fn take(&mut self, update: Update) {
        match update {
            Update::Listing(source) => {
                self.listing.insert(source, BTreeSet::new());
            }
            Update::There(source, key, told) => {
                if let Some(shown) = self.listing.get_mut(&source) {
                    shown.insert(key.clone());
                }
                match (told, source) {
                    (Told::Change(change), _) => {
                        if let Err(message) = self.world.apply(change) {
                            warn!("{message}");
                        }
                    }
                    (Told::Rendered(live), Source::Rendered(kind)) => {
                        if self.objects.saw(RenderedKey { kind, key }, live) {
                            self.is_stale = true;
                        }
                    }
                    (Told::Rendered(_), _) => {}
                }
            }
            Update::Gone(source, key) => self.gone(&source, &key),
            Update::Listed(source) => {
                let shown = self.listing.remove(&source).unwrap_or_default();
                for key in self.world.known(&source, &self.objects) {
                    if !shown.contains(&key) {
                        self.gone(&source, &key);
                    }
                }
                if self.broken.remove(&source).is_some() {
                    info!(source = source.name(), "a watch that was broken works again");
                }
                if self.unlisted.remove(&source) {
                    debug!(source = source.name(), objects = shown.len(), "listed");
                }
                if let Source::Secrets(scope) = source {
                    let was_unread = self.unread.remove(&scope);
                    if self.unreadable.remove(&scope).is_some() || was_unread {
                        self.wake(&scope);
                    }
                }
            }
            Update::Failed(source, message) => {
                self.tell_of_broken(&source, &message);
                self.served.metrics.watch_failed(source.name());
                // Of a Secret that was read, what is known holds on.
                if let Source::Secrets(scope) = source
                    && self.unread.remove(&scope)
                {
                    self.unreadable.insert(scope.clone(), message);
                    self.wake(&scope);
                }
            }
        }
    }

    /// Says once what breaks a watch, and now and then that it still does.
    fn tell_of_broken(&mut self, source: &Source, message: &str) {
        let known = self.broken.get(source);
        if known.is_some_and(|(known, said)| known == message && said.elapsed() < REMIND) {
            debug!(source = source.name(), error = message, "a watch is still broken");
            return;
        }
        warn!(source = source.name(), error = message, "a watch broke; it is opened again");
        self.broken.insert(source.clone(), (message.to_owned(), Instant::now()));
    }

    fn gone(&mut self, source: &Source, key: &Key) {
        if let Source::Rendered(kind) = source {
            self.is_stale |= self.objects.gone(&RenderedKey { kind, key: key.clone() });
        } else if let Some(change) = watch::gone(source, key)
            && let Err(message) = self.world.apply(change)
        {
            warn!("{message}");
        }
    }

    /// Has those looked at again who wait for Secrets.
    fn wake(&mut self, scope: &Scope) {
        let named = self.world.named_secrets();
        named.iter().filter(|key| scope.covers(key)).for_each(|key| self.world.mark_users_of(key));
        self.world.mark(std::mem::take(&mut self.waiting));
    }

    /// Watches the Secrets that are named, and no others.
    fn watch_secrets(&mut self) {
        if self.namings.replace(self.world.namings()) == Some(self.world.namings()) {
            return;
        }
        let named = self.world.named_secrets();
        let wanted = watch::scopes(&named);
        // A watch of many Secrets has shown this one too, but what nobody names is forgotten: it has to be shown again.
        let missed = named.difference(&self.named).filter(|secret| !self.world.has_secret(secret));
        let missed: BTreeSet<&Scope> =
            missed.flat_map(|secret| self.secrets.keys().filter(|scope| scope.covers(secret))).collect();
        let is_over = |scope: &&Scope| !wanted.contains(*scope) || missed.contains(*scope);
        let over: Vec<Scope> = self.secrets.keys().filter(is_over).cloned().collect();
        self.named = named;
        for scope in over {
            if let Some(task) = self.secrets.remove(&scope) {
                task.abort();
            }
            self.unread.remove(&scope);
            self.unreadable.remove(&scope);
            self.broken.remove(&Source::Secrets(scope));
        }
        for scope in wanted {
            if !self.secrets.contains_key(&scope) {
                let source = Source::Secrets(scope.clone());
                let task = watch::start(&self.client, source, &self.settings.controller, self.updates.0.clone());
                self.unread.insert(scope.clone());
                self.secrets.insert(scope, task);
            }
        }
    }

    /// True while it isn't known whether a Secret is there.
    pub(super) fn is_unread(&self, secret: &Key) -> bool {
        let mut scopes = self.secrets.keys().filter(|scope| scope.covers(secret));
        scopes.all(|scope| self.unread.contains(scope))
    }

    async fn reconcile(&mut self) {
        let began = Instant::now();
        self.watch_secrets();
        let changes = self.evaluate();
        let evaluated = changes.len();
        if !self.is_leader.borrow().holds() {
            return;
        }
        if evaluated == 0 && !self.is_stale && self.failures.is_empty() && self.unsaid.is_empty() {
            return;
        }
        let (plan, applied) = match self.plan_alone(&changes) {
            Some(plan) => {
                let applied = self.apply_alone(&plan).await;
                (plan, applied)
            }
            None => {
                self.is_stale = false;
                let pieces = self.in_force();
                let plan = self.plan(&pieces);
                let applied = self.apply(&plan).await;
                (plan, applied)
            }
        };
        let judgements = self.judgements(&plan);
        let result = applied.and(self.update_status(&judgements).await);
        self.count();
        match result {
            Ok(()) => {
                self.attempts = 0;
                self.retry_at = None;
                self.settle().await;
            }
            Err(()) => {
                let wait = RETRY.0.saturating_mul(1 << self.attempts.min(8)).min(RETRY.1);
                self.attempts += 1;
                self.retry_at = Some(tokio::time::Instant::now() + wait);
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        self.served.metrics.reconciled(Outcome::of(&result), seconds, evaluated);
        debug!(evaluated, seconds, "reconciled");
    }
}

/// Until something new is told; for ever where nothing more will be.
async fn next(delivered: &mut shared::Receiver<Delivered>) {
    if delivered.changed().await.is_err() {
        std::future::pending().await
    }
}
