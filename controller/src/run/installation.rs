//! The Lease of the mesh: of several installations of redis-mesh, one writes to the mesh of a root
//! namespace.
//!
//! Besides the election among the replicas of one installation ([`super::lease`]), the elected
//! replica holds a Lease in the root namespace for its installation. That one doesn't change its
//! holder by itself: two installations differ in their arguments and in the URL of their filter,
//! so an outage of one must not hand the mesh to the other. A person does, by an annotation, which
//! the holder obeys when it renews the Lease; where it renews the Lease no more, the other one
//! does.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::lease::{DEADLINE, DURATION, Leadership, RETRY};
use super::request::{chain, with_remedy};
use super::root::{MeshRoot, RootEvidence, RootFinding};

/// The name of the Lease in Istio's root namespace.
const NAME: &str = "redis-mesh-installation";
/// Annotation of the Lease: the installation that is to hold it, `NAMESPACE/LEASE`.
const HAND_OVER: &str = "redis-mesh.io/hand-over-to";
/// Annotation of the Lease: the namespaces of controllers whose objects the holder has taken over,
/// separated by commas.
const PREDECESSORS: &str = "redis-mesh.io/predecessors";

/// The identity of an installation: the namespace of its controller, and the name of the Lease by
/// which its replicas elect a leader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// The namespace, which is also what the label of rendered objects says.
    pub namespace: String,
    /// The name of the Lease.
    pub lease: String,
}

impl Installation {
    /// The identity as the Lease has it.
    fn identity(&self) -> String {
        format!("{}/{}", self.namespace, self.lease)
    }
}

/// The part that this replica has in the mesh.
#[derive(Clone, Default)]
pub struct Standing {
    /// Istio's root namespace, if it is known.
    pub root: Option<MeshRoot>,
    /// The namespaces of controllers whose objects are treated as this controller's own.
    pub predecessors: Arc<BTreeSet<String>>,
    leadership: Leadership,
}

impl Standing {
    /// True while no other replica of any installation may write.
    pub fn holds(&self) -> bool {
        self.leadership.holds()
    }

    /// True while this replica may write what was planned for this root namespace.
    pub fn may_write(&self, root_namespace: &str) -> bool {
        self.holds() && self.root.as_ref().is_some_and(|root| *root.namespace == *root_namespace)
    }

    /// True if Istio itself names the root namespace.
    pub fn is_root_confirmed(&self) -> bool {
        self.root.as_ref().is_some_and(|root| root.evidence == RootEvidence::MeshConfig)
    }

    /// True if the difference concerns others than the end of the leadership.
    fn differs(&self, other: &Standing) -> bool {
        self.root != other.root || self.predecessors != other.predecessors
    }
}

/// The contents of the Lease as far as this installation is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
enum LeaseState {
    /// This installation holds it, after these.
    Ours(BTreeSet<String>),
    /// Another installation holds it.
    Theirs(String),
    /// There is none, or nobody holds it.
    Free,
}

/// What is to be done with the Lease.
#[derive(Debug, PartialEq, Eq)]
enum LeaseStep {
    /// Write this identity of the holder, with these predecessors.
    Write { holder: String, predecessors: BTreeSet<String> },
    /// Leave it.
    Leave,
}

/// The holder of the Lease, and what its annotations say.
#[derive(Default)]
struct LeaseContent {
    holder: Option<String>,
    hand_over: Option<String>,
    predecessors: BTreeSet<String>,
}

impl LeaseContent {
    fn of(lease: &Lease) -> LeaseContent {
        let annotation = |name: &str| lease.metadata.annotations.as_ref()?.get(name).filter(|text| !text.is_empty());
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone());
        let predecessors = annotation(PREDECESSORS).map(|text| text.split(',').map(str::to_owned).collect());
        LeaseContent {
            holder: holder.filter(|holder| !holder.is_empty()),
            hand_over: annotation(HAND_OVER).cloned(),
            predecessors: predecessors.unwrap_or_default(),
        }
    }

    fn state(&self, us: &Installation) -> LeaseState {
        match &self.holder {
            None => LeaseState::Free,
            Some(holder) if *holder == us.identity() => LeaseState::Ours(self.predecessors.clone()),
            Some(holder) => LeaseState::Theirs(holder.clone()),
        }
    }

    /// The step of a leader of this installation. The Lease has expired if its holder hasn't
    /// renewed it for its whole duration.
    fn step(&self, us: &Installation, has_expired: bool) -> LeaseStep {
        let ours = us.identity();
        let asked = self.hand_over.as_ref();
        match &self.holder {
            None => LeaseStep::Write { holder: ours, predecessors: self.predecessors.clone() },
            Some(holder) if *holder == ours => match asked.filter(|next| **next != ours) {
                Some(next) => self.handed_over(holder, next),
                None => LeaseStep::Write { holder: ours, predecessors: self.predecessors.clone() },
            },
            Some(holder) if asked == Some(&ours) && has_expired => self.handed_over(holder, &ours),
            Some(_) => LeaseStep::Leave,
        }
    }

    fn handed_over(&self, from: &str, to: &str) -> LeaseStep {
        let namespace = |identity: &str| identity.split('/').next().unwrap_or_default().to_owned();
        let mut predecessors = self.predecessors.clone();
        predecessors.insert(namespace(from));
        predecessors.remove(&namespace(to));
        LeaseStep::Write { holder: to.to_owned(), predecessors }
    }
}

/// A candidate for the Lease of the mesh.
pub struct InstallationElection {
    client: Client,
    us: Installation,
    /// The version of the Lease that was last seen, and since when.
    seen: Option<(Option<String>, Instant)>,
    /// The root namespace of the Lease, and the time of its last renewal by this replica.
    renewed: Option<(Arc<str>, Instant)>,
    predecessors: Arc<BTreeSet<String>>,
    /// The words about the Lease that were logged last.
    said: Option<String>,
}

/// The channels of an election.
pub struct ElectionChannels {
    /// The leadership among the replicas of the installation.
    pub leads: watch::Receiver<Leadership>,
    /// The root namespace.
    pub root: watch::Receiver<RootFinding>,
    /// The result.
    pub standing: watch::Sender<Standing>,
}

impl InstallationElection {
    /// Creates a candidate.
    pub fn new(client: Client, us: Installation) -> InstallationElection {
        InstallationElection { client, us, seen: None, renewed: None, predecessors: Arc::default(), said: None }
    }

    /// Runs until every receiver of the standing is dropped. `tell` gets what keeps this
    /// installation from writing, in words.
    pub async fn run(mut self, mut channels: ElectionChannels, tell: impl Fn(Option<String>)) {
        loop {
            let root = channels.root.borrow_and_update().found().cloned();
            let leads = *channels.leads.borrow_and_update();
            let obstacle = match &root {
                None => Some("the Lease of the mesh is looked for when the root namespace is known".to_owned()),
                Some(root) => self.attend(&root.namespace, leads.holds()).await,
            };
            if obstacle != self.said {
                match &obstacle {
                    Some(words) if root.is_some() => warn!("{words}"),
                    _ => {}
                }
                self.said.clone_from(&obstacle);
            }
            tell(obstacle);
            self.publish(root, leads, &channels.standing);
            tokio::select! {
                () = channels.standing.closed() => return,
                () = tokio::time::sleep(RETRY) => {}
                changed = channels.leads.changed() => if changed.is_err() { return },
                changed = channels.root.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Looks after the Lease. Returns what keeps this installation from writing.
    async fn attend(&mut self, root: &Arc<str>, leads: bool) -> Option<String> {
        if self.renewed.as_ref().is_some_and(|(of, _)| of != root) {
            self.renewed = None;
        }
        // Others count from when the renewal arrived, which is later.
        let asked = Instant::now();
        let state = match tokio::time::timeout(DEADLINE / 2, self.attempt(root, leads)).await {
            Ok(Ok(state)) => state,
            Ok(Err(error)) => {
                error!(lease = NAME, namespace = %root, error = chain(&error), "the Lease of the mesh could not be renewed");
                let is_renewed = self.renewed.as_ref().is_some_and(|(_, at)| at.elapsed() < DEADLINE);
                return (!is_renewed).then(|| format!("Lease {root}/{NAME}: {}", with_remedy(error)));
            }
            Err(_) => {
                let words = format!("Lease {root}/{NAME}: the API server doesn't answer");
                return self.renewed.is_none().then_some(words);
            }
        };
        match state {
            LeaseState::Ours(predecessors) => {
                self.renewed = leads.then(|| (root.clone(), asked));
                if *self.predecessors != predecessors {
                    self.predecessors = Arc::new(predecessors);
                }
                None
            }
            LeaseState::Free => {
                self.renewed = None;
                None
            }
            LeaseState::Theirs(holder) => {
                self.renewed = None;
                self.predecessors = Arc::default();
                Some(self.words(root, &holder))
            }
        }
    }

    fn words(&self, root: &str, holder: &str) -> String {
        let ours = self.us.identity();
        format!(
            "standing by: another installation of redis-mesh, {holder}, writes to the mesh of the root namespace {root}; to hand it over to this one: kubectl -n {root} annotate lease {NAME} --overwrite {HAND_OVER}={ours}"
        )
    }

    /// Takes or renews the Lease, or hands it over, if this replica leads its installation.
    /// Returns its contents afterwards.
    async fn attempt(&mut self, root: &str, leads: bool) -> Result<LeaseState, kube::Error> {
        let api = Api::<Lease>::namespaced(self.client.clone(), root);
        let found = api.get_opt(NAME).await?;
        let version = found.as_ref().and_then(|lease| lease.metadata.resource_version.clone());
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, Instant::now()));
        }
        let content = found.as_ref().map(LeaseContent::of).unwrap_or_default();
        if !leads {
            return Ok(content.state(&self.us));
        }
        let has_expired = self.seen.as_ref().is_some_and(|(_, since)| since.elapsed() > DURATION);
        let LeaseStep::Write { holder, predecessors } = content.step(&self.us, has_expired) else {
            return Ok(content.state(&self.us));
        };
        if content.holder.as_deref() == Some(&self.us.identity()) && holder != self.us.identity() {
            // Operations that are under way end before the other one begins, as far as that can
            // be seen: none is begun any more.
            info!(to = holder, "the mesh is handed over to another installation");
        }
        let next = written(found.clone(), &holder, &predecessors);
        let parameters = PostParams::default();
        let result = match found {
            None => api.create(&parameters, &next).await,
            // The replacement names the version that it follows, so that the API server refuses
            // one of two candidates.
            Some(_) => api.replace(NAME, &parameters, &next).await,
        };
        match result {
            Ok(lease) => {
                self.seen = Some((lease.metadata.resource_version.clone(), Instant::now()));
                Ok(LeaseContent::of(&lease).state(&self.us))
            }
            // Another candidate, or a person, was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(content.state(&self.us)),
            Err(error) => Err(error),
        }
    }

    /// Publishes the standing. A renewal is no change, unless it came late: writes may have been
    /// left out meanwhile.
    fn publish(&self, root: Option<MeshRoot>, leads: Leadership, standing: &watch::Sender<Standing>) {
        let of_mesh = match (&root, &self.renewed) {
            (Some(root), Some((of, at))) if root.namespace == *of => Leadership::until(*at + DEADLINE),
            _ => Leadership::default(),
        };
        let next = Standing { root, predecessors: self.predecessors.clone(), leadership: leads.and(of_mesh) };
        standing.send_if_modified(|known| {
            let changed = next.holds() != known.holds() || next.differs(known);
            *known = next.clone();
            changed
        });
    }
}

/// The Lease with this holder.
fn written(found: Option<Lease>, holder: &str, predecessors: &BTreeSet<String>) -> Lease {
    let now = MicroTime(Timestamp::now());
    let mut lease = found.unwrap_or_else(|| Lease {
        metadata: ObjectMeta { name: Some(NAME.to_owned()), ..ObjectMeta::default() },
        spec: None,
    });
    let labels = lease.metadata.labels.get_or_insert_default();
    labels.insert("app.kubernetes.io/part-of".to_owned(), "redis-mesh".to_owned());
    let annotations = lease.metadata.annotations.get_or_insert_default();
    annotations.remove(HAND_OVER);
    let predecessors: Vec<&str> = predecessors.iter().map(String::as_str).collect();
    match predecessors.is_empty() {
        true => drop(annotations.remove(PREDECESSORS)),
        false => drop(annotations.insert(PREDECESSORS.to_owned(), predecessors.join(","))),
    }
    let before = lease.spec.take().unwrap_or_default();
    let is_same = before.holder_identity.as_deref() == Some(holder);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: if is_same { before.acquire_time.clone() } else { Some(now.clone()) },
        renew_time: Some(now),
        lease_transitions: Some(before.lease_transitions.unwrap_or_default().saturating_add(i32::from(!is_same))),
        ..before
    });
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    fn us() -> Installation {
        Installation { namespace: "b".to_owned(), lease: "redis-mesh".to_owned() }
    }

    fn content(holder: &str, hand_over: Option<&str>) -> LeaseContent {
        LeaseContent { holder: Some(holder.to_owned()), hand_over: hand_over.map(str::to_owned), ..Default::default() }
    }

    fn write(holder: &str, predecessors: &[&str]) -> LeaseStep {
        let predecessors = predecessors.iter().map(|name| (*name).to_owned()).collect();
        LeaseStep::Write { holder: holder.to_owned(), predecessors }
    }

    #[test]
    fn the_lease_changes_hands_only_when_somebody_says_so() {
        let ours = "b/redis-mesh";
        assert_eq!(LeaseContent::default().step(&us(), false), write(ours, &[]));
        assert_eq!(content(ours, None).step(&us(), true), write(ours, &[]));
        for has_expired in [false, true] {
            assert_eq!(content("a/redis-mesh", None).step(&us(), has_expired), LeaseStep::Leave);
            assert_eq!(content("a/redis-mesh", Some("c/x")).step(&us(), has_expired), LeaseStep::Leave);
            assert_eq!(content(ours, Some("c/x")).step(&us(), has_expired), write("c/x", &["b"]));
        }
        // A holder that lives hands it over itself.
        assert_eq!(content("a/redis-mesh", Some(ours)).step(&us(), false), LeaseStep::Leave);
        assert_eq!(content("a/redis-mesh", Some(ours)).step(&us(), true), write(ours, &["a"]));
    }

    #[test]
    fn the_lease_remembers_whose_objects_are_taken_over() {
        let step = content("a/redis-mesh", Some("b/redis-mesh"));
        let a = Installation { namespace: "a".to_owned(), lease: "redis-mesh".to_owned() };
        let LeaseStep::Write { holder, predecessors } = step.step(&a, false) else { panic!("the Lease stays") };
        let lease = written(None, &holder, &predecessors);
        let content = LeaseContent::of(&lease);
        assert_eq!(content.state(&us()), LeaseState::Ours(BTreeSet::from(["a".to_owned()])));
        assert_eq!(content.state(&a), LeaseState::Theirs("b/redis-mesh".to_owned()));
        assert_eq!(content.step(&us(), false), write("b/redis-mesh", &["a"]));
        // Back again: its own objects need no mention.
        let back = LeaseContent { hand_over: Some("a/redis-mesh".to_owned()), ..content };
        assert_eq!(back.step(&us(), false), write("a/redis-mesh", &["b"]));
    }
}
