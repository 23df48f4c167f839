//! Commands for which Envoy's redis_proxy alone gives wrong results or breaks Redis's protocol,
//! and the reply through the filter: the right one, or a refusal with the reason.

mod keys;
mod protocol;
mod reads_and_writes;
mod scene;
mod transactions;
