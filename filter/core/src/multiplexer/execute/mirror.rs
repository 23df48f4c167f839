//! Copies of commands for mirrors. Nobody waits for their replies, and a mirror that doesn't keep
//! up misses copies.

use super::context::{Context, Request};
use super::mirror_servers::{MirrorServers, Places};
use crate::command::mirroring::Mirroring;
use crate::command::script;
use crate::command::sharing::{Shareable, Sharing};
use crate::command::{Args, Command, Known, Split, each_command};
use crate::multiplexer::client::Client;
use crate::multiplexer::client::transaction::Transaction;
use crate::multiplexer::config::{MirrorConfig, TargetConfig};
use crate::multiplexer::routing::fan_out::{FanOut, RequestPolicy};
use crate::multiplexer::routing::target::{self, KeyEdit, RouteTarget, SubCommand, write_part};
use crate::multiplexer::upstream::copies;
use crate::multiplexer::upstream::pending::Owner;
use crate::multiplexer::upstream::unsent_copies::{CopyHeader, CopyRoute, MirrorCopy};
use crate::resp::encode;
use crate::stats::Stat;

/// What is copied.
#[derive(Clone, Copy)]
struct Original<'a> {
    command: &'static Command,
    args: &'a Args<'a>,
    /// What is removed from its keys, in the order of the arguments.
    edits: &'a [KeyEdit],
    /// The keys, if it is a part of a command.
    part: Option<&'a [KeyEdit]>,
    shareable: Shareable,
}

/// Sends copies of a command to the mirrors of a target. `write` appends the copy. Only commands
/// that may be shared have copies, since any other would hold up the copies behind it.
#[inline]
pub fn mirror(
    context: &mut Context<'_>,
    client: &mut Client,
    target: usize,
    (request, edits, shareable): (Request<'_>, &[KeyEdit], Shareable),
    write: impl Fn(&mut Vec<u8>),
) {
    if has_mirrors(client, target)
        && let Some(Known { command, .. }) = request.known
    {
        let original = Original { command, args: request.args, edits, part: None, shareable };
        copy_to_target(context, client, target, original, &write);
    }
}

/// Sends copies of a part of a command to the mirrors of its target.
pub fn mirror_part(
    context: &mut Context<'_>,
    client: &mut Client,
    (request, part, shareable): (Request<'_>, &SubCommand, Shareable),
    write: impl Fn(&mut Vec<u8>),
) {
    let target = part.target.target;
    if has_mirrors(client, target)
        && let Some(Known { command, .. }) = request.known
    {
        let original = Original { command, args: request.args, edits: &part.keys, part: Some(&part.keys), shareable };
        copy_to_target(context, client, target, original, &write);
    }
}

#[inline]
fn has_mirrors(client: &Client, target: usize) -> bool {
    client.rules.config.targets.get(target).is_some_and(|target| !target.mirrors.is_empty())
}

fn copy_to_target(
    context: &mut Context<'_>,
    client: &mut Client,
    target: usize,
    original: Original<'_>,
    write: &dyn Fn(&mut Vec<u8>),
) {
    let config = client.rules.config.clone();
    let mirrors = config.targets.get(target).map(|target| target.mirrors.as_slice()).unwrap_or_default();
    copy_to(context, client, mirrors.iter(), original, write);
}

/// Sends copies of a command without a key to the mirrors of all targets that get it.
pub fn mirror_fan_out(context: &mut Context<'_>, client: &mut Client, fan_out: &FanOut, args: &Args<'_>) {
    let Sharing::Safe(shareable) = fan_out.sharing else { return };
    let config = client.rules.config.clone();
    let is_concerned = |index: usize, target: &TargetConfig| {
        let home = config.home().and_then(|home| config.targets.get(home));
        match fan_out.policy.is_for_all() {
            true => config.routes.iter().any(|route| route.target == index),
            false => home.is_some_and(|home| std::ptr::eq(home, target)),
        }
    };
    let mut mirrors: Vec<&MirrorConfig> = Vec::new();
    for (_, target) in config.targets.iter().enumerate().filter(|(index, target)| is_concerned(*index, target)) {
        for mirror in &target.mirrors {
            if mirrors.iter().all(|known| known.upstream != mirror.upstream) {
                mirrors.push(mirror);
            }
        }
    }
    let original = Original { command: fan_out.command, args, edits: &[], part: None, shareable };
    copy_to(context, client, mirrors.into_iter(), original, &|out| target::write(args, &[], None, out));
}

fn copy_to<'m>(
    context: &mut Context<'_>,
    client: &mut Client,
    mirrors: impl Iterator<Item = &'m MirrorConfig>,
    original: Original<'_>,
    write: &dyn Fn(&mut Vec<u8>),
) {
    let mirroring = Mirroring::of(original.command, original.args);
    let mut is_mirrored = false;
    for mirror in mirrors {
        let is_left_out = mirror.exclude_read_commands && original.command.is_read();
        if is_left_out
            || !mirroring.is_copied(mirror.includes_admin)
            || !context.effects.random.chance(mirror.per_million)
        {
            continue;
        }
        is_mirrored |= copy(context, client, mirror, original, write);
    }
    if is_mirrored {
        client.count(Stat::Mirrored, context.stats);
    }
}

/// Sends a copy to one mirror. Returns false if the mirror misses all of it.
fn copy(
    context: &mut Context<'_>,
    client: &Client,
    mirror: &MirrorConfig,
    original: Original<'_>,
    write: &dyn Fn(&mut Vec<u8>),
) -> bool {
    let Original { command, args, shareable, .. } = original;
    let header = |route| CopyHeader {
        route,
        queued: None,
        scripts: script::named(command, args).into_iter().collect(),
        patience: client.rules.config.patience,
        host: client.rules.stats,
        shareable,
    };
    let servers = MirrorServers::of(client, mirror);
    let mut places = Places::default();
    if servers.are_several() {
        servers.add_places(command, args, &keys(original), &mut places);
    }
    let route = match places.parts.as_mut_slice() {
        [] => servers.keyless(command),
        [(place, _)] => servers.at(Some(*place)),
        parts if command.split != Split::No => {
            let mut is_sent = false;
            for (place, keys) in parts {
                let target = RouteTarget { target: 0, slot: None };
                let part = SubCommand { target, keys: std::mem::take(keys) };
                let write = |out: &mut Vec<u8>| write_part(command, args, &part, out);
                is_sent |= copies::send(context.upstreams, header(servers.at(Some(*place))), write, context.effects);
            }
            return is_sent;
        }
        _ => CopyRoute::Apart,
    };
    copies::send(context.upstreams, header(route), write, context.effects)
}

/// The keys of a command, with what is removed of them.
fn keys(original: Original<'_>) -> Vec<KeyEdit> {
    let Original { command, args, edits, part, .. } = original;
    if let Some(keys) = part {
        return keys.to_vec();
    }
    let edit = |index| edits.binary_search_by_key(&index, |(of, _)| *of).ok().and_then(|at| edits.get(at)).copied();
    let keys = command.keys(args).ok();
    keys.iter().flat_map(|keys| keys.iter()).map(|key| edit(key.index).unwrap_or((key.index, 0))).collect()
}

/// Makes the copies of a transaction, which are sent when EXEC has been answered. Returns true if
/// there are any.
pub fn mirror_transaction(
    context: &mut Context<'_>,
    client: &Client,
    (transaction, target): (&Transaction, usize),
    owner: Owner,
) -> bool {
    let config = client.rules.config.clone();
    let mirrors = config.targets.get(target).map(|target| target.mirrors.as_slice()).unwrap_or_default();
    let drawn = mirrors.iter().filter(|mirror| context.effects.random.chance(mirror.per_million));
    let all: Vec<MirrorCopy> = drawn.filter_map(|mirror| transaction_for(client, transaction, mirror)).collect();
    let is_mirrored = !all.is_empty();
    if is_mirrored {
        context.upstreams.copies.await_exec(owner, all);
    }
    is_mirrored
}

/// The copy of a transaction with those of its commands that a mirror gets; `None` if it gets none.
fn transaction_for(client: &Client, transaction: &Transaction, mirror: &MirrorConfig) -> Option<MirrorCopy> {
    let servers = MirrorServers::of(client, mirror);
    let (mut bytes, mut queued, mut scripts) = (Vec::new(), 0usize, Vec::new());
    let (mut places, mut for_all) = (Places::default(), 0);
    encode::command(&mut bytes, &[b"MULTI"]);
    each_command(transaction.commands(), |args| {
        let Some(Known { command, .. }) = Known::of(args) else { return };
        let is_left_out = mirror.exclude_read_commands && command.is_read();
        if is_left_out || !Mirroring::of(command, args).is_copied_in_transaction(mirror.includes_admin) {
            return;
        }
        queued += 1;
        scripts.extend(script::named(command, args));
        if servers.are_several() {
            let original = Original { command, args, edits: &[], part: None, shareable: Shareable::of_transaction() };
            servers.add_places(command, args, &keys(original), &mut places);
            for_all += usize::from(!command.has_keys() && RequestPolicy::of(command).is_for_all());
        }
        target::write(args, &[], None, &mut bytes);
    });
    encode::command(&mut bytes, &[b"EXEC"]);
    let route = match places.parts.as_slice() {
        [] if for_all == 0 => servers.at(None),
        [] if for_all == queued => servers.all(),
        [(place, _)] if for_all == 0 => servers.at(Some(*place)),
        // One server would execute what concerns all, or others what concerns one.
        _ => CopyRoute::Apart,
    };
    let header = CopyHeader {
        route,
        queued: Some(queued),
        scripts,
        patience: client.rules.config.patience,
        host: client.rules.stats,
        shareable: Shareable::of_transaction(),
    };
    (queued > 0).then_some(MirrorCopy { header, bytes })
}
