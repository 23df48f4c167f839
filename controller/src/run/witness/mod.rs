//! The witness: a proxy of the mesh that is asked what it has taken.
//!
//! What the API server stores isn't yet in force. Istio may be away, and Envoy may refuse what it is
//! sent: one cluster that it refuses keeps every new proxy of the mesh from getting ready. So each
//! batch of writes ends with a marker ([`crate::render::marker`]), and the admin interface of a proxy
//! is asked ([`admin`], [`lookout`]) which marker it has and whether it has refused anything. What
//! follows from the answers is decided without any input or output ([`ledger`]), and carried out in
//! the syncs of the controller ([`judge`]): a batch that was refused is taken back, the object is
//! looked for from which it came ([`evidence`]), and the others are applied again.

pub mod admin;
pub mod evidence;
pub mod judge;
pub mod ledger;
pub mod lookout;
pub mod settings;
pub mod state;
