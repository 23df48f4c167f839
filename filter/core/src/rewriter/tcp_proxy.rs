//! Decisions where one Redis stands behind: everything goes to it, but for keys that no route takes.

use super::edits::{ArgEdit, TagRef};
use super::{Decision, Env, Plan, Rewriter};
use crate::command::{Args, Command};
use crate::config::Host;
use crate::request::keys::{KeyRules, RoutedKey, route_keys};

impl Rewriter {
    /// A command that the table knows.
    pub(super) fn direct(
        &self,
        env: &Env<'_>,
        command: &'static Command,
        args: &Args<'_>,
        plan: &mut Plan,
    ) -> Decision {
        if !env.host.keys_decide && !env.host.rewrites_keys {
            return Decision::Forward;
        }
        match plan_keys(env.host, command, args, plan) {
            Ok(_) => Decision::Forward,
            Err(text) => Decision::Refuse(text),
        }
    }

    /// A command that the table doesn't know.
    pub(super) fn direct_unknown(&self, env: &Env<'_>, args: &Args<'_>) -> Decision {
        let name = args.quoted(0).to_ascii_uppercase();
        // Redis compares names up to a NUL, so that this may be a command that we do know.
        if args.get(0).contains(&0) {
            return super::decide::unknown(args);
        }
        if env.host.keys_decide || env.host.rewrites_keys {
            return Decision::Refuse(format!(
                "ERR redis-mesh: {name} isn't known here, so its keys can't be found to route by"
            ));
        }
        // A module's command names its module; any other could be an administrative one that is newer than the table.
        if self.guarded(env) && !name.contains('.') {
            return Decision::Refuse(format!(
                "NOPERM redis-mesh: {name} isn't known here and might reveal credentials"
            ));
        }
        Decision::Forward
    }
}

/// Finds the route of every key, and notes the prefixes to remove and the target of each, in the order of the arguments. The
/// error is the refusal.
pub(super) fn plan_keys(
    host: &Host,
    command: &'static Command,
    args: &Args<'_>,
    plan: &mut Plan,
) -> Result<(), String> {
    let rules = KeyRules {
        host: &host.name,
        router: &host.router,
        has_one_destination: host.single_destination,
        renames_replies: false,
    };
    route_keys(&rules, command, args, |RoutedKey { index, to }| {
        plan.route.get_or_insert(to.route);
        let tag = TagRef::Of { target: to.target, tag: 0 };
        plan.edits.push(ArgEdit { arg: index as u32, strip: to.strip, tag });
    })
    .map_err(|refusal| refusal.to_string())?;
    in_order(&mut plan.edits);
    Ok(())
}

/// Sorts edits by their arguments; they nearly always are.
fn in_order(edits: &mut [ArgEdit]) {
    for i in 1..edits.len() {
        let mut at = i;
        while at > 0 && edits[at - 1].arg > edits[at].arg {
            edits.swap(at - 1, at);
            at -= 1;
        }
    }
}
