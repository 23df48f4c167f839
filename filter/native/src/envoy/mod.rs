//! Safe handles of what Envoy lends: a connection's filter, a way to it from another thread, a
//! configuration's metrics, the hosts of a cluster, and the log.

mod buffer;
mod cluster_hosts;
mod filter_handle;
mod log;
mod meter;

pub use buffer::{bytes, has_status_200};
pub use cluster_hosts::ClusterHosts;
pub use filter_handle::{FilterHandle, Waker};
pub use log::{LogLevel, log};
pub use meter::{Counter, Gauge, Histogram, Meter, MeterGuard};
