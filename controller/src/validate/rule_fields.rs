//! The fields of a DestinationRule's policy. What isn't known, and what Envoy or Linux wouldn't
//! take, is noted rather than carried over.

use std::time::Duration;

use serde_json::Value;

use crate::quantity;

use super::policy::{KEEPALIVE_SECONDS, Keepalive, TcpOptions};

/// The most probes of TCP keepalive that Linux takes (`MAX_TCP_KEEPCNT`).
const KEEPALIVE_PROBES: u32 = 127;

/// The detection of servers that fail
/// (<https://istio.io/latest/docs/reference/config/networking/destination-rule/#OutlierDetection>).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OutlierOptions {
    /// The number of failures after which a server is left alone; 0 for never.
    pub consecutive_5xx: Option<u32>,
    /// The number of failed connections and time-outs after which a server is left alone; 0 for
    /// never.
    pub consecutive_gateway: Option<u32>,
    /// The number of failures to connect after which a server is left alone, where these are
    /// counted by themselves.
    pub consecutive_local: Option<u32>,
    /// True if failures to connect are counted by themselves.
    pub splits_local: bool,
    /// The time between two evaluations.
    pub interval: Option<Duration>,
    /// The shortest time for which a server is left alone.
    pub base_ejection_time: Option<Duration>,
    /// The greatest share of servers that are left alone.
    pub max_ejection_percent: Option<u32>,
    /// The share of servers below which all of them are used, whatever their state.
    pub min_health_percent: u32,
}

/// A message in a rule's policy.
pub struct RuleFields<'a, 'b> {
    value: &'a Value,
    path: String,
    left: &'b mut Vec<String>,
}

impl<'a, 'b> RuleFields<'a, 'b> {
    /// The message at a path. The paths of fields that can't be carried over are added to `left`.
    pub fn new(value: &'a Value, path: &str, left: &'b mut Vec<String>) -> RuleFields<'a, 'b> {
        RuleFields { value, path: path.to_owned(), left }
    }

    /// Notes all fields but these.
    pub fn only(&mut self, known: &[&str]) {
        let names = self.value.as_object().into_iter().flat_map(|fields| fields.keys());
        let others: Vec<&String> = names.filter(|name| !known.contains(&name.as_str())).collect();
        others.into_iter().for_each(|name| self.leave(name));
    }

    /// Notes a field.
    pub fn leave(&mut self, name: &str) {
        self.left.push(self.path_of(name));
    }

    /// The path of a field.
    pub fn path_of(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// The message in a field; none if the field isn't given.
    pub fn below(&mut self, name: &str) -> Option<RuleFields<'a, '_>> {
        let value = self.value.get(name).filter(|value| !value.is_null())?;
        Some(RuleFields { value, path: self.path_of(name), left: self.left })
    }

    /// The value of a field; none if the field isn't given.
    pub fn value(&self, name: &str) -> Option<&'a Value> {
        self.value.get(name).filter(|value| !value.is_null())
    }

    /// The text of a field; none if the field is empty.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.value.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// A number of at most `most`; a greater one is noted.
    fn number(&mut self, name: &str, most: u32) -> Option<u32> {
        let value = self.value(name)?;
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok()).filter(|number| *number <= most);
        if number.is_none() {
            self.leave(name);
        }
        number
    }

    /// A duration of at least a millisecond; any other is noted.
    fn duration(&mut self, name: &str) -> Option<Duration> {
        let value = self.value(name)?;
        let duration = value.as_str().and_then(|text| quantity::duration(text).ok());
        let duration = duration.filter(|duration| *duration >= Duration::from_millis(1));
        if duration.is_none() {
            self.leave(name);
        }
        duration
    }

    /// A time of TCP keepalive, of which Linux takes whole seconds; any other is noted.
    fn keepalive_time(&mut self, name: &str) -> Option<u64> {
        let seconds = self.duration(name)?.as_secs();
        if !(1..=KEEPALIVE_SECONDS).contains(&seconds) {
            self.leave(name);
            return None;
        }
        Some(seconds)
    }
}

/// Reads `connectionPool.tcp`.
pub fn tcp(fields: &mut RuleFields<'_, '_>) -> TcpOptions {
    fields.only(&["maxConnections", "connectTimeout", "tcpKeepalive"]);
    let keepalive = fields.below("tcpKeepalive").map(|mut fields| {
        fields.only(&["probes", "time", "interval"]);
        Keepalive {
            probes: fields.number("probes", KEEPALIVE_PROBES).filter(|probes| *probes > 0),
            time: fields.keepalive_time("time"),
            interval: fields.keepalive_time("interval"),
        }
    });
    TcpOptions {
        connect_timeout: fields.duration("connectTimeout"),
        // Istio takes 0 for no limit.
        max_connections: fields.number("maxConnections", u32::MAX).filter(|connections| *connections > 0),
        keepalive,
    }
}

/// Reads `outlierDetection`.
pub fn outliers(fields: &mut RuleFields<'_, '_>) -> OutlierOptions {
    fields.only(&[
        "consecutive5xxErrors",
        "consecutiveGatewayErrors",
        "consecutiveLocalOriginFailures",
        "splitExternalLocalOriginErrors",
        "interval",
        "baseEjectionTime",
        "maxEjectionPercent",
        "minHealthPercent",
    ]);
    OutlierOptions {
        consecutive_5xx: fields.number("consecutive5xxErrors", u32::MAX),
        consecutive_gateway: fields.number("consecutiveGatewayErrors", u32::MAX),
        consecutive_local: fields.number("consecutiveLocalOriginFailures", u32::MAX).filter(|number| *number > 0),
        splits_local: fields.value("splitExternalLocalOriginErrors") == Some(&Value::Bool(true)),
        interval: fields.duration("interval"),
        base_ejection_time: fields.duration("baseEjectionTime"),
        max_ejection_percent: fields.number("maxEjectionPercent", 100).filter(|percent| *percent > 0),
        min_health_percent: fields.number("minHealthPercent", 100).unwrap_or_default(),
    }
}
