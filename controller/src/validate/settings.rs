//! The settings of a RedisService.

use std::time::Duration;

use crate::crd::service::{ReadPolicySpec, RedisServiceSpec, ScriptsSpec};
use crate::diagnostic::{Code, Diagnostics, FieldReporter, Subject};
use crate::quantity;

/// The settings of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ValidatedSettings {
    /// True if keys match without regard to the case of ASCII letters.
    pub case_insensitive: bool,
    /// True if clients may use commands that reveal credentials.
    pub allow_admin_commands: bool,
    /// The nodes of a Redis Cluster that serve reads, for routes without a policy of their own.
    pub read_policy: ReadPolicySpec,
    /// The nodes of a Redis Cluster that serve reads on the data path `proxy`, which has one policy
    /// for all routes.
    pub proxy_read_policy: ReadPolicySpec,
    /// The time limit of a command.
    pub op_timeout: Option<Duration>,
    /// True if each command is counted by name.
    pub enable_command_stats: bool,
    /// True if an endpoint is chosen by the part of the key in braces.
    pub enable_hashtagging: bool,
    /// True if MOVED and ASK are followed; none: where a destination is a Redis Cluster.
    pub enable_redirection: Option<bool>,
    /// The longest time that commands wait to be sent together.
    pub buffer_flush_timeout: Option<Duration>,
    /// The number of bytes of commands that are sent together.
    pub max_buffer_size_before_flush: Option<u32>,
    /// Whether clients may run scripts; none: it depends on the data path.
    pub scripts: Option<ScriptsSpec>,
}

/// Reads `spec.settings`.
pub fn read(spec: &RedisServiceSpec, subject: &Subject, diagnostics: &mut Diagnostics) -> ValidatedSettings {
    let Some(spec) = &spec.settings else { return ValidatedSettings::default() };
    let mut field = diagnostics.at(subject, "spec.settings");
    let op_timeout = time(&spec.op_timeout, true, &mut field.at(".opTimeout"));
    let buffer_flush_timeout = time(&spec.buffer_flush_timeout, false, &mut field.at(".bufferFlushTimeout"));
    if spec.max_upstream_unknown_connections.is_some() {
        let message = "has no effect: redirections are followed to the nodes that the Redis Cluster names only, since \
                       a script can make up an error that names any address";
        field.at(".maxUpstreamUnknownConnections").report(Code::UnusedSetting, message, "remove it");
    }
    if spec.buffer_flush_timeout.is_some() && spec.max_buffer_size_before_flush.unwrap_or_default() == 0 {
        let message = "has no effect without maxBufferSizeBeforeFlush";
        field.at(".bufferFlushTimeout").report(Code::UnusedSetting, message, "set that, or remove this");
    }
    ValidatedSettings {
        case_insensitive: spec.case_insensitive == Some(true),
        allow_admin_commands: spec.allow_admin_commands == Some(true),
        read_policy: spec.read_policy.unwrap_or(ReadPolicySpec::Master),
        proxy_read_policy: ReadPolicySpec::Master,
        op_timeout,
        enable_command_stats: spec.enable_command_stats == Some(true),
        enable_hashtagging: spec.enable_hashtagging == Some(true),
        enable_redirection: spec.enable_redirection,
        buffer_flush_timeout,
        max_buffer_size_before_flush: spec.max_buffer_size_before_flush,
        scripts: spec.scripts,
    }
}

fn time(text: &Option<String>, may_be_zero: bool, field: &mut FieldReporter<'_>) -> Option<Duration> {
    match quantity::duration(text.as_ref()?) {
        Ok(Duration::ZERO) if may_be_zero => Some(Duration::ZERO),
        Ok(duration) if duration < Duration::from_millis(1) => {
            field.report(Code::DurationTooShort, "must be at least 1ms", "write a longer time");
            None
        }
        Ok(duration) => Some(duration),
        Err(problem) => {
            field.add(problem);
            None
        }
    }
}
