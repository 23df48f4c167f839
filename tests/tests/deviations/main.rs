//! Where Envoy's redis_proxy alone gives wrong results or breaks Redis's protocol, and what a client gets through us: the right
//! answer, or a refusal that says why.

mod keys;
mod protocol;
mod reads_and_writes;
mod scene;
mod transactions;
