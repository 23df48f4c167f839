//! CLIENT LIST, KILL and UNBLOCK: what is asked about the clients of all workers of a process.
//!
//! A multiplexer knows its own clients only. So it asks all workers, itself among them, gathers what
//! they answer, and answers its client then. The host carries questions and answers between the
//! workers ([`Output::Ask`](super::Output::Ask), [`Output::Tell`](super::Output::Tell), [`Desk`]).
//!
//! **Invariant:** an inquiry is about clients of one host whom the servers take for one user. About
//! others nothing is answered, so nobody learns that they are there.
//!
//! A worker looks through its clients a part at a time, so that its clients don't wait for it, and
//! whoever asks is answered in time although a worker doesn't.

mod desk;
pub mod examine;
pub mod grammar;
pub mod line;
pub mod question;
pub mod table;

pub use desk::Desk;
