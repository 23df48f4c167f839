//! Leader election: of several replicas, one writes. It uses a Lease, as the controllers of
//! Kubernetes do (<https://kubernetes.io/docs/concepts/architecture/leases/>).
//!
//! Two properties rule out the crates for this. A leader that was suspended must know that it may
//! not write before it has talked to the API server again, so leadership carries its own end. And
//! a Lease is taken over by a replacement that names the `resourceVersion` which it follows, and
//! only when its renewal hasn't changed for its whole duration by the local clock; clocks of
//! other machines aren't trusted.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tracing::{info, warn};

use super::request::chain;

/// The time after the last renewal when another replica may take the Lease.
pub const DURATION: Duration = Duration::from_secs(15);
/// The time after the last renewal when a leader stops to write. It is shorter than [`DURATION`].
pub const DEADLINE: Duration = Duration::from_secs(10);
/// The time between two attempts to take or renew the Lease.
pub const RETRY: Duration = Duration::from_secs(2);

/// A candidate for the Lease.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
}

/// The leadership of this replica, with its end: a process that was suspended may go on after its
/// leadership has ended.
#[derive(Clone, Copy, Default)]
pub struct Leadership {
    until: Option<Instant>,
}

impl Leadership {
    /// A leadership that ends at this time.
    pub fn until(end: Instant) -> Leadership {
        Leadership { until: Some(end) }
    }

    /// The leadership of whoever has both: it ends with the first of them.
    pub fn and(self, other: Leadership) -> Leadership {
        Leadership { until: self.until.zip(other.until).map(|(one, other)| one.min(other)) }
    }

    /// True while no other replica may lead.
    pub fn holds(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }
}

/// The Lease as it was last seen.
struct ObservedLease {
    lease: Lease,
    /// The local time at which this renewal was first seen.
    since: Instant,
}

impl Election {
    /// Creates a candidate. No other replica may have the same identity.
    pub fn new(client: &Client, namespace: &str, name: &str, identity: String) -> Election {
        Election { api: Api::namespaced(client.clone(), namespace), name: name.to_owned(), identity }
    }

    /// Runs for leader until every receiver is dropped; then gives the Lease back.
    pub async fn run(self, leads: watch::Sender<Leadership>) {
        let mut seen: Option<ObservedLease> = None;
        let mut renewed: Option<Instant> = None;
        let mut was_leader = false;
        loop {
            // Other replicas count from when the renewal arrived, which is later.
            let asked = Instant::now();
            match tokio::time::timeout(DEADLINE / 2, self.attempt(&mut seen)).await {
                Ok(Ok(true)) => renewed = Some(asked),
                Ok(Ok(false)) => renewed = None,
                Ok(Err(error)) => warn!(lease = self.name, error = chain(&error), "the Lease could not be renewed"),
                Err(_) => warn!(lease = self.name, "the API server doesn't answer requests for the Lease"),
            }
            let leadership = renewed.map(|at| Leadership::until(at + DEADLINE)).unwrap_or_default();
            let is_leader = leadership.holds();
            // A renewal is no change, unless it came late: writes may have been left out
            // meanwhile.
            let has_lapsed = was_leader && !leads.borrow().holds();
            let changed = std::mem::replace(&mut was_leader, is_leader) != is_leader || has_lapsed;
            leads.send_if_modified(|leads| {
                *leads = leadership;
                changed
            });
            if changed {
                info!(
                    identity = self.identity,
                    "{}",
                    if is_leader { "became the leader" } else { "is no longer the leader" }
                );
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

    /// Takes or renews the Lease. Returns true if this replica holds it.
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
        // The replacement names the version that it follows, so that the API server refuses one
        // of two replicas.
        settled(self.api.replace(&self.name, &PostParams::default(), &next).await, seen)
    }

    /// Gives the Lease back, so that another replica can lead at once.
    async fn release(&self, seen: Option<ObservedLease>) {
        let Some(ObservedLease { mut lease, .. }) = seen else { return };
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        let parameters = PostParams::default();
        let released = self.api.replace(&self.name, &parameters, &lease);
        if let Ok(Err(error)) = tokio::time::timeout(RETRY, released).await {
            warn!(lease = self.name, error = chain(&error), "the Lease could not be given back");
        }
    }
}

/// Records the Lease that was written. A conflict means that another replica was faster.
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
        assert!(in_force.and(in_force).holds());
        assert!(!in_force.and(over).holds() && !in_force.and(Leadership::default()).holds());
    }
}
