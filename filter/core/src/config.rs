//! The checks of [`crate::wire::FilterConfig`] that both machines share. Each machine compiles the
//! document to a form of its own: [`crate::rewriter::config`] and [`crate::multiplexer::config`].

use crate::resp::encode;
use crate::route::Router;
use crate::wire::{self, Limits};
use std::fmt;

/// The reason why a configuration is refused: the field, and what is wrong with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// Returns the JSON document in the configuration that Envoy hands over. Of a `StringValue`, a
/// `BytesValue` or a `Struct` Envoy hands over the content. A `GenericSecret`, which doesn't
/// appear in Envoy's `/config_dump`, comes as the encoded message, `0a len 1a len JSON`: field 1,
/// a `DataSource`, of which field 3 is the `inline_string`.
pub fn json_of(bytes: &[u8]) -> &[u8] {
    fn field(bytes: &[u8], tag: u8) -> Option<&[u8]> {
        let mut rest = bytes.strip_prefix(&[tag])?;
        let (mut len, mut shift) = (0usize, 0);
        loop {
            let (&byte, tail) = rest.split_first()?;
            rest = tail;
            len |= usize::from(byte & 0x7f).checked_shl(shift)?;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 28 {
                return None;
            }
        }
        rest.get(..len)
    }
    field(bytes, 0x0a).and_then(|source| field(source, 0x1a)).unwrap_or(bytes)
}

/// Bounds of the limits on what is held or read at once: more than Envoy hands over in one piece
/// of its smallest buffers, and less than a fraction of the memory of a 32-bit VM.
const MIN_BUFFER: u32 = 64 * 1024;
const MAX_BUFFER: u32 = 512 * 1024 * 1024;

/// Checks limits.
pub(crate) fn check_limits(limits: &Limits) -> Result<(), ConfigError> {
    if limits.max_arguments == 0 || limits.max_inline_bytes == 0 || limits.max_bulk_bytes == 0 {
        return Err(ConfigError("limits: a limit of 0 would refuse every command".into()));
    }
    for (name, bytes) in [("maxHeldBytes", limits.max_held_bytes), ("maxShapedBytes", limits.max_shaped_bytes)] {
        if !(MIN_BUFFER..=MAX_BUFFER).contains(&bytes) {
            return Err(ConfigError(format!("limits.{name}: {bytes} is not between {MIN_BUFFER} and {MAX_BUFFER}")));
        }
    }
    Ok(())
}

/// Compiles the routes of a host.
///
/// # Errors
/// The field that is wrong, and the reason: a route without target, a prefix to remove that isn't
/// there, or one of [`crate::route::RouteProblem`].
pub(crate) fn router(host: &wire::Host) -> Result<Router, String> {
    for (i, route) in host.routes.iter().enumerate() {
        if route.target as usize >= host.targets.len() {
            return Err(format!("routes[{i}].target: there is no target {}", route.target));
        }
        if route.remove_prefix && !matches!(route.key, wire::KeyMatch::Prefix(_)) {
            return Err(format!("routes[{i}].removePrefix: only a prefix can be removed"));
        }
    }
    Router::new(&host.routes, host.case_insensitive).map_err(|e| format!("routes[{}]: {}", e.route, e.problem))
}

/// Checks the mirrors of a target.
pub(crate) fn check_mirrors(mirrors: &[wire::Mirror]) -> Result<(), String> {
    if mirrors.len() > 4 {
        return Err("mirrors: at most four".into());
    }
    for (i, mirror) in mirrors.iter().enumerate() {
        if mirror.per_million > 1_000_000 {
            return Err(format!("mirrors[{i}].perMillion: {} is more than 1000000", mirror.per_million));
        }
    }
    Ok(())
}

/// Returns the AUTH of a login, as it is sent.
pub(crate) fn auth_command(username: Option<&str>, password: &str) -> Box<[u8]> {
    let mut out = Vec::new();
    match username {
        Some(user) => encode::command(&mut out, &[b"AUTH", user.as_bytes(), password.as_bytes()]),
        None => encode::command(&mut out, &[b"AUTH", password.as_bytes()]),
    }
    out.into()
}
