//! The witness: a proxy of the mesh that is asked what it has taken.
//!
//! What the API server stores isn't yet in force. Istio may be away, and Envoy may refuse what it is
//! sent: one cluster that it refuses keeps every new proxy of the mesh from getting ready. So each
//! batch of writes ends with a marker ([`crate::render::marker`]), and the admin interface of a proxy
//! is asked ([`admin`], [`lookout`]) which marker it has and whether it has refused anything. What
//! follows from the answers is decided without any input or output ([`ledger`]), and carried out in
//! the syncs of the controller ([`judge`]): a batch that was refused is taken back ([`undo`]), the object is
//! looked for from which it came ([`evidence`], [`search`]), and the others are applied again. What was there
//! before is kept in the cluster meanwhile ([`journal`]), so that another replica can bring it back
//! ([`restore`]).

pub mod admin;
pub mod evidence;
pub mod journal;
pub mod judge;
pub mod ledger;
pub mod lookout;
pub mod restore;
pub mod search;
pub mod settings;
pub mod state;
pub mod undo;
