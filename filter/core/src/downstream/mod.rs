//! What both machines answer alike to a client about itself and the server.

pub mod auth;
pub mod client_info;
pub mod client_name;
pub mod client_reply;
pub mod hello;
pub mod maintenance;
pub mod server_info;
