//! CLIENT MAINT_NOTIFICATIONS, by which Redis Enterprise and Redis Cloud tell a client to which
//! address it should go before they go down
//! (<https://redis.io/docs/latest/develop/clients/sch/>). That address would lead the client around
//! the rules that hold for it.

use crate::command::Args;
use crate::resp::elements::Elements;
use crate::resp::value::Value;

/// The pushes of such notifications.
const NOTIFICATIONS: &[&str] =
    &["MOVING", "MIGRATING", "MIGRATED", "FAILING_OVER", "FAILED_OVER", "SMIGRATING", "SMIGRATED"];

/// True for a push that is such a notification. A server that sends it without having been asked mustn't
/// lead clients around the rules either.
pub fn is_notification(push: &[u8]) -> bool {
    let Some(Value::Text(kind)) = Elements::of_push(push).next().and_then(Value::parse) else { return false };
    NOTIFICATIONS.iter().any(|name| kind.eq_ignore_ascii_case(name.as_bytes()))
}

/// What a client is answered that asks for such notifications: the server doesn't know them, as a
/// Redis that doesn't. Client libraries then go on without. `None` for other commands.
pub fn refusal(args: &Args<'_>) -> Option<String> {
    let is_asked = args.is_word(0, b"client") && args.is_word(1, b"maint_notifications");
    is_asked.then(|| format!("ERR unknown subcommand '{}'. Try CLIENT HELP.", args.quoted(1)))
}
