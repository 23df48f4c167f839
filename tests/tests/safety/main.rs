//! Clients that mean harm, credentials that must not get out, and the order of replies.

mod client_auth;
mod credentials;
mod hostile;
mod order;
mod pressure;
mod scene;
