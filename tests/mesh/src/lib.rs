//! A real Istio on one machine, without containers: etcd, kube-apiserver and istiod as processes,
//! pods as network namespaces with real sidecars and real Redis in them, and the suite that runs
//! there.
//!
//! It needs root and Go, see [`requirements`]. A panic leaves nothing behind. The namespaces of a
//! run that was killed are removed by the next run.

pub mod api;
pub mod chaos;
pub mod control_plane;
pub mod dns;
pub mod filter_server;
pub mod interrupt;
pub mod keep;
pub mod mesh;
pub mod network;
pub mod old_version;
pub mod operator;
pub mod pod;
pub mod program;
pub mod requirements;
pub mod revision;
pub mod scale;
pub mod services;
pub mod sidecar;
pub mod suite;
pub mod traffic;
pub mod witness;
