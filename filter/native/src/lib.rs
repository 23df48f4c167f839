//! The core of redis-mesh as an Envoy network filter: a dynamic module for Envoy 1.40.
//!
//! This crate only translates: hooks and buffers of Envoy on one side, calls of [`redis_mesh_core::multiplexer::Multiplexer`] on the
//! other. It has three filters:
//!
//! * `proxy`, at the end of a listener's chain: a client;
//! * `carrier`, before `tcp_proxy` on an internal listener: a connection to Redis, through Envoy's own clusters;
//! * `anchor`, at the end of another internal listener's chain: what carriers hang on. Envoy opens a connection only for a
//!   filter, and closes it with that filter; an anchor is one that no client's end takes along.
//!
//! and a load-balancing policy, `node`, for the clusters that are Redis Clusters.
//!
//! `unsafe` stands in `abi.rs` (declarations), `hooks.rs` (what Envoy calls), `envoy.rs` and `envoy/` (what is called in Envoy).
#![deny(unsafe_code)]

#[allow(unsafe_code)]
mod abi;
mod anchor;
mod carrier;
mod client;
mod config;
#[allow(unsafe_code)]
mod envoy;
mod head;
#[allow(unsafe_code)]
mod hooks;
mod metrics;
mod node;
#[cfg(test)]
#[allow(unsafe_code)]
mod standin;
mod timer;
mod worker;

use anchor::Anchor;
use carrier::Carrier;
use client::Client;
use config::Config;
use envoy::Filter;
use metrics::Metrics;
use std::rc::Rc;

/// What Envoy is to do with a buffer.
enum Action {
    /// Hand it on.
    Continue,
    /// Keep it.
    Stop,
}

/// How a callout has ended.
enum Answer {
    /// With status 200.
    Ok,
    /// In any other way.
    Failed,
}

/// A connection on which one of the module's filters stands.
#[derive(Clone)]
enum Instance {
    Client(Rc<Client>),
    Anchor(Rc<Anchor>),
    Carrier(Rc<Carrier>),
}

impl Instance {
    fn new(config: &Config, filter: Filter) -> Instance {
        match config {
            Config::Multiplexer(slot, metrics) => {
                Instance::Client(Rc::new(Client::new(filter, slot.clone(), metrics.clone())))
            }
            Config::Anchor(metrics) => Instance::Anchor(Rc::new(Anchor::new(filter, metrics.clone()))),
            Config::Carrier(metrics) => Instance::Carrier(Rc::new(Carrier::new(filter, metrics.clone()))),
        }
    }

    fn filter(&self) -> &Filter {
        match self {
            Instance::Client(client) => &client.filter,
            Instance::Anchor(anchor) => &anchor.filter,
            Instance::Carrier(carrier) => &carrier.filter,
        }
    }

    fn metrics(&self) -> &Metrics {
        match self {
            Instance::Client(client) => &client.metrics,
            Instance::Anchor(anchor) => &anchor.metrics,
            Instance::Carrier(carrier) => &carrier.metrics,
        }
    }

    fn new_connection(&self) -> Action {
        match self {
            Instance::Client(client) => client.opened(),
            Instance::Anchor(_) => Action::Continue,
            // `tcp_proxy` begins when it is known where to.
            Instance::Carrier(_) => Action::Stop,
        }
    }

    fn read(&self, len: usize, is_end: bool) -> Action {
        match self {
            Instance::Client(client) => client.read(len, is_end),
            Instance::Anchor(anchor) => anchor.read(),
            Instance::Carrier(carrier) => carrier.read(),
        }
    }

    fn write(&self) -> Action {
        match self {
            // Nobody behind these two writes anything.
            Instance::Client(_) | Instance::Anchor(_) => Action::Continue,
            Instance::Carrier(carrier) => carrier.write(),
        }
    }

    fn full(&self, full: bool) {
        match self {
            Instance::Client(client) => client.full(full),
            Instance::Anchor(_) | Instance::Carrier(_) => {}
        }
    }

    fn callout_done(&self, id: u64, answer: Answer) {
        match self {
            Instance::Client(client) => worker::asked(client, answer),
            // Nothing but its end ends a carrier's callout.
            Instance::Anchor(_) => worker::callout_ended(id),
            Instance::Carrier(_) => {}
        }
    }

    /// The connection has ended. Envoy may say so twice.
    fn closed(&self) {
        if self.filter().gone() {
            return;
        }
        worker::retire_waker(self.filter());
        self.filter().forget();
        match self {
            Instance::Client(client) => client.closed(),
            Instance::Anchor(anchor) => worker::anchor_lost(anchor),
            Instance::Carrier(carrier) => carrier.closed(),
        }
    }
}
