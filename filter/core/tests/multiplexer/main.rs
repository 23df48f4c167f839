//! The multiplexer before a small reference of Redis, with input in pieces of random size. Random
//! sessions before servers that fail are in `sessions`.
#![allow(clippy::panic, clippy::unwrap_used, reason = "a test fails by it")]
#![allow(missing_docs, reason = "no other crate uses it")]

mod backlog;
mod commands;
mod config;
mod connections;
mod inquiries;
mod notifications;
mod placement;
mod redirections;
mod redis;
mod scripted;
mod scripts;
mod unfinished;
mod world;
