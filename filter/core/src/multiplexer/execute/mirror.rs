//! Copies of commands for mirrors. Nobody waits for their replies, and a mirror that doesn't keep
//! up misses copies.

use super::context::{Context, Request};
use crate::cluster::slot::slot;
use crate::command::sharing::Shareable;
use crate::multiplexer::client::Client;
use crate::multiplexer::config::MirrorConfig;
use crate::multiplexer::routing::target::KeyEdit;
use crate::multiplexer::upstream::discovery::{Missing, NodeAccess};
use crate::multiplexer::upstream::pending::{InFlight, PendingReply};
use crate::multiplexer::upstream::pool::SharedConnection;
use crate::multiplexer::upstream::pool_key::PoolKey;
use crate::stats::Stat;

/// How many copies a mirror may leave unanswered before it misses some.
const MAX_OWED: usize = 16 * 1024;

/// Sends copies of a command to the mirrors of a target. `write` appends the copy. Only commands
/// that may be shared have copies, since any other would hold up the copies behind it.
#[inline]
pub fn mirror(
    context: &mut Context<'_>,
    client: &mut Client,
    target: usize,
    (request, keys, shareable): (Request<'_>, &[KeyEdit], Shareable),
    write: impl Fn(&mut Vec<u8>),
) {
    if client.rules.config.targets.get(target).is_none_or(|target| target.mirrors.is_empty()) {
        return;
    }
    let config = client.rules.config.clone();
    let mirrors = config.targets.get(target).map(|target| target.mirrors.as_slice()).unwrap_or_default();
    let mut is_mirrored = false;
    for mirror in mirrors {
        let is_left_out = mirror.exclude_read_commands && request.is_read();
        if is_left_out || !context.effects.random.chance(mirror.per_million) {
            continue;
        }
        let Ok(connection) = connect(context, client, mirror, request, keys) else { continue };
        if context.upstreams.pool.is_full(connection.id()) || context.upstreams.pool.owes(connection.id()) >= MAX_OWED {
            continue;
        }
        is_mirrored = true;
        if let Some(script) = request.script() {
            context.upstreams.ensure_loaded(connection.id(), script, context.effects);
        }
        let to = InFlight { patience: config.patience, ..PendingReply::Ignored.into() };
        context.upstreams.send((connection, shareable), to, context.effects, &write);
    }
    if is_mirrored {
        client.count(Stat::Mirrored, context.stats);
    }
}

fn connect(
    context: &mut Context<'_>,
    client: &Client,
    mirror: &MirrorConfig,
    request: Request<'_>,
    keys: &[KeyEdit],
) -> Result<SharedConnection, Missing> {
    let endpoint = mirror.upstream.clone();
    if !mirror.is_cluster {
        let key = PoolKey { database: client.session.database, ..PoolKey::new(endpoint, false) };
        return context.upstreams.shared(key, context.effects);
    }
    let first = || {
        let found = request.known?.command.keys(request.args).ok()?.first()?;
        let strip = keys.iter().find(|(index, _)| *index == found.index).map_or(0, |(_, strip)| *strip);
        Some((found.index, strip))
    };
    let key = keys.first().copied().or_else(first);
    let slot = key.map(|(index, strip)| slot(request.args.get(index).get(strip..).unwrap_or_default()));
    let cluster = context.upstreams.discovery.cluster_of(&endpoint);
    let shard = context.upstreams.shard(cluster, slot, context.effects)?;
    context.upstreams.node(cluster, shard, NodeAccess::Write, false, context.effects)
}
