//! Leader election: of several replicas one writes. With a Lease, as the controllers of Kubernetes itself do
//! (<https://kubernetes.io/docs/concepts/architecture/leases/>).

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tracing::{info, warn};

use super::request::chain;

/// How long a leader that says nothing more is one.
const DURATION: Duration = Duration::from_secs(15);
/// After that long without being able to renew it, a leader stops being one: before anybody else may begin.
const DEADLINE: Duration = Duration::from_secs(10);
/// Time between attempts.
const RETRY: Duration = Duration::from_secs(2);

/// The claim to a Lease.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
}

/// Whether this replica leads, and until when at most: a process that was stopped for a while may find itself a leader that
/// is none any more, before anything here has run again.
#[derive(Clone, Copy, Default)]
pub struct Leadership {
    until: Option<Instant>,
}

impl Leadership {
    /// True while nobody else may lead.
    pub fn holds(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }
}

/// What is known of the Lease.
struct ObservedLease {
    lease: Lease,
    /// When its present renewal was first seen: clocks of other machines are not trusted.
    since: Instant,
}

impl Election {
    /// A claim under a name that no other replica has.
    pub fn new(client: &Client, namespace: &str, name: &str, identity: String) -> Election {
        Election { api: Api::namespaced(client.clone(), namespace), name: name.to_owned(), identity }
    }

    /// Tries to be the leader for as long as anybody wants to know.
    pub async fn run(self, leads: watch::Sender<Leadership>) {
        let mut seen: Option<ObservedLease> = None;
        let mut renewed: Option<Instant> = None;
        let mut was_leader = false;
        loop {
            // For others, the renewal counts from when it arrived, which is later.
            let asked = Instant::now();
            match tokio::time::timeout(DEADLINE / 2, self.attempt(&mut seen)).await {
                Ok(Ok(true)) => renewed = Some(asked),
                Ok(Ok(false)) => renewed = None,
                Ok(Err(error)) => warn!(lease = self.name, error = chain(&error), "the Lease can't be renewed"),
                Err(_) => warn!(lease = self.name, "the API server doesn't answer about the Lease"),
            }
            let leadership = Leadership { until: renewed.map(|at| at + DEADLINE) };
            let is_leader = leadership.holds();
            // A renewal is no news, unless it came late: then something may not have been done.
            let has_lapsed = was_leader && !leads.borrow().holds();
            let changed = std::mem::replace(&mut was_leader, is_leader) != is_leader || has_lapsed;
            leads.send_if_modified(|leads| {
                *leads = leadership;
                changed
            });
            if changed {
                info!(identity = self.identity, "{}", if is_leader { "leads" } else { "no longer leads" });
            }
            tokio::select! {
                () = leads.closed() => break,
                () = tokio::time::sleep(RETRY) => {}
            }
        }
        if renewed.is_some() {
            self.release(seen).await;
        }
    }

    /// True if this replica has the Lease now.
    async fn attempt(&self, seen: &mut Option<ObservedLease>) -> Result<bool, kube::Error> {
        let now = MicroTime(Timestamp::now());
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let spec = LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: Some(now.clone()),
                renew_time: Some(now),
                lease_transitions: Some(0),
                ..LeaseSpec::default()
            };
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(spec) };
            return settled(self.api.create(&PostParams::default(), &lease).await, seen);
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let is_same =
            seen.as_ref().is_some_and(|seen| seen.lease.metadata.resource_version == lease.metadata.resource_version);
        if !is_same {
            *seen = Some(ObservedLease { lease: lease.clone(), since: Instant::now() });
        }
        let duration = spec.lease_duration_seconds.and_then(|seconds| u64::try_from(seconds).ok());
        let duration = duration.map_or(DURATION, Duration::from_secs);
        let has_expired = seen.as_ref().is_some_and(|seen| seen.since.elapsed() > duration);
        let is_ours = holder == self.identity;
        if !(is_ours || holder.is_empty() || has_expired) {
            return Ok(false);
        }
        let mut next = lease;
        let taken = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: if is_ours { spec.acquire_time.clone() } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(spec.lease_transitions.unwrap_or_default().saturating_add(i32::from(!is_ours))),
            ..spec
        };
        next.spec = Some(taken);
        // It names the version that it follows, so that of two replicas one is refused.
        settled(self.api.replace(&self.name, &PostParams::default(), &next).await, seen)
    }

    /// Lets another replica begin at once.
    async fn release(&self, seen: Option<ObservedLease>) {
        let Some(ObservedLease { mut lease, .. }) = seen else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        let parameters = PostParams::default();
        let released = self.api.replace(&self.name, &parameters, &lease);
        if let Ok(Err(error)) = tokio::time::timeout(RETRY, released).await {
            warn!(lease = self.name, error = chain(&error), "the Lease can't be given back");
        }
    }
}

/// A conflict means that somebody else was faster.
fn settled(result: Result<Lease, kube::Error>, seen: &mut Option<ObservedLease>) -> Result<bool, kube::Error> {
    match result {
        Ok(lease) => {
            *seen = Some(ObservedLease { lease, since: Instant::now() });
            Ok(true)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leadership_ends_by_itself() {
        assert!(!Leadership::default().holds());
        let in_force = Leadership { until: Some(Instant::now() + DEADLINE) };
        assert!(in_force.holds());
        let over = Leadership { until: Some(Instant::now()) };
        assert!(!over.holds());
    }
}
