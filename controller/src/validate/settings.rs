//! ValidatedSettings, and the data path that serves a host: the table of what each path can do.

use std::time::Duration;

use crate::crd::service::{ReadPolicySpec, RedisServiceSpec};
use crate::diagnostic::{Diagnostics, FieldReporter, Reason, Subject};
use crate::quantity;

/// ValidatedSettings of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValidatedSettings {
    /// Keys match without regard to ASCII case.
    pub case_insensitive: bool,
    /// Lets clients use commands that reveal credentials.
    pub allow_admin_commands: bool,
    /// Which nodes of a Redis Cluster serve reads, where a route says nothing else.
    pub read_policy: ReadPolicySpec,
    /// Time for a command.
    pub op_timeout: Option<Duration>,
    /// Statistics per command.
    pub enable_command_stats: bool,
    /// Hash by what stands in braces.
    pub enable_hashtagging: bool,
    /// Follow MOVED and ASK.
    pub enable_redirection: Option<bool>,
    /// Time to collect commands.
    pub buffer_flush_timeout: Option<Duration>,
    /// Bytes to collect.
    pub max_buffer_size_before_flush: Option<u32>,
    /// Connections to unknown nodes.
    pub max_upstream_unknown_connections: Option<u32>,
}

/// Reads `spec.settings`.
pub fn read(spec: &RedisServiceSpec, subject: &Subject, diagnostics: &mut Diagnostics) -> ValidatedSettings {
    let Some(spec) = &spec.settings else { return ValidatedSettings::default() };
    let mut place = diagnostics.at(subject, "spec.settings");
    let op_timeout = positive(&spec.op_timeout, &mut place.at(".opTimeout"));
    let buffer_flush_timeout = positive(&spec.buffer_flush_timeout, &mut place.at(".bufferFlushTimeout"));
    if spec.buffer_flush_timeout.is_some() && spec.max_buffer_size_before_flush.unwrap_or_default() == 0 {
        place.at(".bufferFlushTimeout").report(Reason::NoEffect, "has no effect without maxBufferSizeBeforeFlush");
    }
    ValidatedSettings {
        case_insensitive: spec.case_insensitive == Some(true),
        allow_admin_commands: spec.allow_admin_commands == Some(true),
        read_policy: spec.read_policy.unwrap_or(ReadPolicySpec::Master),
        op_timeout,
        enable_command_stats: spec.enable_command_stats == Some(true),
        enable_hashtagging: spec.enable_hashtagging == Some(true),
        enable_redirection: spec.enable_redirection,
        buffer_flush_timeout,
        max_buffer_size_before_flush: spec.max_buffer_size_before_flush,
        max_upstream_unknown_connections: spec.max_upstream_unknown_connections,
    }
}

fn positive(text: &Option<String>, place: &mut FieldReporter<'_>) -> Option<Duration> {
    match quantity::duration(text.as_ref()?) {
        Ok(duration) if duration < Duration::from_millis(1) => {
            place.invalid("must be at least 1ms");
            None
        }
        Ok(duration) => Some(duration),
        Err(message) => {
            place.invalid(message);
            None
        }
    }
}
