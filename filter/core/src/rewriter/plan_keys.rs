//! The plan of a command's keys.

use super::config::RewriterHost;
use super::decision::PlannedCommand;
use super::edits::{ArgEdit, TagRef};
use crate::request::keys::{KeyRules, RoutedKey, route_keys};

/// Finds the route of every key. The plan gets an edit for each key, in the order of the
/// arguments: the prefix to remove, and the target of the route.
///
/// # Errors
/// The error for the client: the command must not go on.
pub(super) fn plan_keys(host: &RewriterHost, command: &mut PlannedCommand<'_>) -> Result<(), String> {
    let Some(known) = command.known else { return Ok(()) };
    let rules = KeyRules {
        host: &host.name,
        router: &host.router,
        has_one_destination: host.single_destination,
        renames_replies: false,
    };
    let plan = &mut command.plan;
    route_keys(&rules, known.command, command.args, |RoutedKey { index, to }| {
        plan.route.get_or_insert(to.route);
        let tag = TagRef::Of { target: to.target, tag: 0 };
        plan.edits.push(ArgEdit { arg: index as u32, strip: to.strip, tag });
    })
    .map_err(|refusal| refusal.to_string())?;
    sort(&mut plan.edits);
    Ok(())
}

/// Sorts edits by their arguments; they nearly always are in order.
fn sort(edits: &mut [ArgEdit]) {
    for i in 1..edits.len() {
        let mut at = i;
        while at > 0 && edits[at - 1].arg > edits[at].arg {
            edits.swap(at - 1, at);
            at -= 1;
        }
    }
}
