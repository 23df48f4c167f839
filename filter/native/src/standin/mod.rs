//! A stand-in for Envoy in the process of the unit tests, with which the crate's use of the ABI
//! can be tested and checked for undefined behaviour: connections with buffers, callouts that open
//! connections, metrics. Each thread has its own connections; metrics, the module's configurations and
//! its timer thread are shared, so one test uses the stand-in at a time ([`begin`]).
//!
//! As in Envoy, requests have no effect before the event loop's next turn ([`turn`]), except for
//! those that Envoy carries out at once: closing a connection calls its event hook, and a callout
//! that can't be sent calls the callout hook.

mod callbacks;
mod connection;
mod metrics;
mod state;

use crate::abi::Buffer;
use crate::config::FilterKind;
use crate::envoy::ClusterHosts;
use crate::hooks;
pub use connection::{StandinConnection, bury, connect, connections, living};
pub use metrics::{forget, metric, newest};
use state::{CALLOUTS, CHOSEN, CONFIGS, CROSSED, HOSTS, LOG, MISSING, RESUMED};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Configures a filter. Null: the module refuses it.
pub fn configure(name: &str, config: &str) -> *const FilterKind {
    let buffer = |text: &str| Buffer { data: text.as_ptr(), len: text.len() };
    // SAFETY: both texts are valid for the call, and the configuration isn't looked at.
    let config = unsafe {
        hooks::envoy_dynamic_module_on_network_filter_config_new(metrics::configuration(), buffer(name), buffer(config))
    };
    CONFIGS.with_borrow_mut(|all| all.extend((!config.is_null()).then_some(config)));
    config
}

/// Configures the filter for clients: a listener of this name for the host `NAME:6379`, whose
/// cluster has the same name.
pub fn listener(name: &str) -> *const FilterKind {
    listener_with(name, "")
}

/// The same, with its keys placed on the cluster's members.
pub fn placing_listener(name: &str) -> *const FilterKind {
    listener_with(name, r#", "keyHash": "key""#)
}

fn listener_with(name: &str, field: &str) -> *const FilterKind {
    let document = format!(
        r#"{{"name": "{name}", "revision": 1, "hosts": [{{"host": "{name}:6379", "path": "native",
            "targets": [{{"destination": "{name}", "upstream": {{"cluster": "{name}"{field}}}}}], "routes": [{{"match": "any", "target": 0}}]}}]}}"#
    );
    let config = configure("proxy", &document);
    assert!(!config.is_null(), "{:?}", log());
    config
}

/// Takes the lines that have been logged.
pub fn log() -> Vec<String> {
    LOG.take()
}

/// Makes callouts to a cluster fail at once.
pub fn remove_cluster(name: &str) {
    MISSING.with_borrow_mut(|missing| missing.push(name.into()));
}

/// Undoes [`remove_cluster`].
pub fn restore_clusters() {
    MISSING.take();
}

/// Sets the cluster that [`hosts`] shows.
pub fn set_hosts(cluster: &str, hosts: &[&[&str]]) {
    let owned = hosts.iter().map(|hosts| hosts.iter().map(|host| host.to_string()).collect()).collect();
    HOSTS.replace((cluster.to_owned(), owned));
}

/// Sets the host that `tcp_proxy` chooses for every connection; `None`: it tells of none.
pub fn set_chosen(host: Option<(&str, u32)>) {
    CHOSEN.replace(host.map(|(ip, port)| (ip.to_owned(), port)));
}

/// The hosts of the cluster have changed.
pub fn update_hosts() {
    let null = std::ptr::null_mut();
    // SAFETY: the stand-in's functions don't look at the pointer.
    unsafe { hooks::envoy_dynamic_module_on_lb_on_host_membership_update(null, null, 0, 0) };
}

/// Makes the load-balancing policy of the cluster, which Envoy keeps.
fn new_policy() {
    let null = std::ptr::null_mut();
    // SAFETY: the stand-in's functions don't look at the pointer, and the policy is given back at once.
    unsafe { hooks::envoy_dynamic_module_on_lb_destroy(hooks::envoy_dynamic_module_on_lb_new(null, null).cast_mut()) };
}

/// The hosts that a load balancer sees.
pub fn hosts() -> ClusterHosts {
    // SAFETY: the stand-in's functions don't look at the pointer.
    unsafe { ClusterHosts::new(std::ptr::null_mut()) }
}

/// A turn of the event loop: callouts open connections, connections whose reading was enabled are
/// read, and what write hooks have left is given again where a watermark was crossed. False: there was nothing to do.
pub fn turn() -> bool {
    let (callouts, resumed, crossed) = (CALLOUTS.take(), RESUMED.take(), CROSSED.take());
    let is_idle = callouts.is_empty() && resumed.is_empty() && crossed.is_empty();
    for connection in crossed {
        if !connection.closed.get() {
            connection.replied(b"");
        }
    }
    for connection in resumed {
        if !connection.closed.get() && connection.disabled.get() == 0 {
            connection.received(b"");
        }
    }
    for callout in callouts {
        if callout.by.closed.get() {
            continue;
        }
        let kind = callout.cluster.strip_prefix("redis_").unwrap_or_default();
        let opened = connect(&callout.cluster, configure(kind, ""));
        *opened.opener.borrow_mut() = Some((callout.by, callout.id));
        let head = format!("POST {} HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n", callout.path);
        opened.received(head.as_bytes());
        if opened.written.borrow().starts_with(b"HTTP/1.1 200 OK\r\n") {
            opened.answer("200");
        }
    }
    !is_idle
}

/// Makes Envoy forget that watermarks were crossed.
pub fn forget_crossed() {
    CROSSED.take();
}

/// Turns until there is nothing to do.
pub fn settle() {
    while turn() {}
}

/// A test that uses the stand-in. It ends in order when dropped: all connections and configurations
/// are destroyed, and no thread runs any more.
pub struct End(#[expect(dead_code, reason = "held until the test has ended")] MutexGuard<'static, ()>);

/// Begins a test, when no other one is running: a configuration of another test would retire
/// connections that no client of this one needs.
pub fn begin() -> End {
    static RUNNING: Mutex<()> = Mutex::new(());
    // A test that has failed leaves nothing behind in other threads but its configurations.
    let running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    metrics::reset();
    End(running)
}

impl Drop for End {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        connection::destroy_all();
        for config in CONFIGS.take() {
            // SAFETY: `configure` has made it, and no connection has it any more.
            unsafe { hooks::envoy_dynamic_module_on_network_filter_config_destroy(config.cast_mut()) };
        }
        // The interpreter alone objects to a thread that outlives the tests.
        if cfg!(miri) {
            crate::timer::end();
        }
    }
}
