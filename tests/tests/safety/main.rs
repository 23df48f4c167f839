//! Hostile clients, credentials that must not leak, and the order of replies.

mod attack;
mod client_auth;
mod credentials;
mod generated;
mod malformed;
mod order;
mod pressure;
mod privileges;
mod scene;
mod tags;
