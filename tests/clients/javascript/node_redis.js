// What people do with node-redis, on a host that is managed: node_redis.js HOST PORT PATH [USER] [PASSWORD]
'use strict';

const assert = require('node:assert/strict');
const { createClient, createClientPool, RESP_TYPES, WatchError } = require('redis');

const [host, port, path, username, password] = process.argv.slice(2);
const login = { username: username || undefined, password: password || undefined };
const NEEDS_DIRECT = /needs the direct or native data path/;

async function connect(options = {}) {
  const client = createClient({ socket: { host, port: Number(port), reconnectStrategy: false }, ...login, ...options });
  client.on('error', () => {});
  await client.connect();
  return client;
}

const plain = (value) => JSON.parse(JSON.stringify(value));

async function values(r) {
  assert.equal(await r.ping(), 'PONG');
  assert.equal(await r.set('name', 'väl ue'), 'OK');
  assert.equal(await r.get('name'), 'väl ue');
  assert.equal(await r.get('missing'), null);
  assert.equal(await r.set('short', '1', { EX: 1000 }), 'OK');
  const ttl = await r.ttl('short');
  assert.ok(ttl > 990 && ttl <= 1000);
  assert.equal(await r.incrBy('count', 5), 5);
  assert.equal(await r.mSet({ a: '1', b: '2' }), 'OK');
  assert.deepEqual(await r.mGet(['a', 'missing', 'b']), ['1', null, '2']);
  assert.equal(await r.del(['a', 'b', 'missing']), 2);
  assert.equal(await r.type('count'), 'string');
  const found = [];
  for await (const keys of r.scanIterator({ MATCH: '[ns]*', COUNT: 100 })) found.push(...[].concat(keys));
  assert.deepEqual(found.sort(), ['name', 'short']);
}

async function structures(r) {
  assert.equal(await r.hSet('hash', { f: '1', g: 'two' }), 2);
  assert.deepEqual(plain(await r.hGetAll('hash')), { f: '1', g: 'two' });
  assert.deepEqual(plain(await r.hGetAll('missing')), {});
  assert.deepEqual(await r.hmGet('hash', ['f', 'none']), ['1', null]);
  assert.equal(await r.rPush('list', ['1', '2', '3']), 3);
  assert.deepEqual(await r.lRange('list', 0, -1), ['1', '2', '3']);
  assert.equal(await r.lPop('list'), '1');
  assert.equal(await r.sAdd('set', ['a', 'b']), 2);
  assert.deepEqual([...(await r.sMembers('set'))].sort(), ['a', 'b']);
  assert.equal(await r.sIsMember('set', 'a'), 1);
  assert.equal(await r.zAdd('zset', [{ score: 1.5, value: 'a' }, { score: 2, value: 'b' }]), 2);
  assert.equal(await r.zScore('zset', 'a'), 1.5);
  assert.equal(await r.zScore('zset', 'none'), null);
  assert.deepEqual(plain(await r.zRangeWithScores('zset', 0, -1)), [{ value: 'a', score: 1.5 }, { value: 'b', score: 2 }]);
  assert.equal(await r.zIncrBy('zset', 1, 'a'), 2.5);
  assert.equal(await r.xAdd('stream', '1-1', { k: 'v' }), '1-1');
  const [entry] = plain(await r.xRange('stream', '-', '+'));
  assert.equal(entry.id, '1-1');
  assert.deepEqual(entry.message, { k: 'v' });
  assert.equal(await r.geoAdd('geo', { longitude: 13.361389, latitude: 38.115556, member: 'Palermo' }), 1);
  const [position, none] = await r.geoPos('geo', ['Palermo', 'none']);
  assert.ok(Math.abs(Number(position.longitude) - 13.361389) < 1e-5);
  assert.equal(none, null);
}

async function pipelines(r) {
  // Commands of one turn of the event loop go out together.
  const replies = await Promise.all(
    Array.from({ length: 500 }, (_, i) => [r.set(`p${i}`, String(i)), r.get(`p${i}`)]).flat());
  assert.deepEqual(replies, Array.from({ length: 500 }, (_, i) => ['OK', String(i)]).flat());
  const settled = await Promise.allSettled([r.get('p1'), r.lPush('p1', 'no list'), r.get('p2')]);
  assert.deepEqual(settled.map((one) => one.status), ['fulfilled', 'rejected', 'fulfilled']);
  assert.match(settled[1].reason.message, /WRONGTYPE/);
  const transaction = await r.multi().set('t', '1').incr('t').hGetAll('hash').zScore('zset', 'a').get('missing').exec();
  assert.deepEqual(plain(transaction), ['OK', 2, { f: '1', g: 'two' }, 2.5, null]);
  await assert.rejects(r.multi().incr('t').incr('set').exec());
  assert.equal(await r.get('t'), '3');
}

async function scriptsAndErrors(r) {
  const double = "return redis.call('incrby', KEYS[1], ARGV[1]) * 2";
  assert.equal(await r.eval(double, { keys: ['script'], arguments: ['4'] }), 8);
  const sha = await r.scriptLoad(double);
  assert.equal(await r.evalSha(sha, { keys: ['script'], arguments: ['1'] }), 10);
  await assert.rejects(r.evalSha('f'.repeat(40), { keys: ['script'], arguments: ['1'] }), /NOSCRIPT/);
  await assert.rejects(r.incr('name'), /not an integer/);
  await assert.rejects(r.sendCommand(['NOSUCHCOMMAND', 'x']), /NOSUCHCOMMAND/);
  assert.equal(await r.get('name'), 'väl ue');
}

async function connections(r) {
  const bytes = Buffer.from(Array.from({ length: 1 << 20 }, (_, i) => i % 256));
  await r.set('bytes', bytes);
  assert.ok(bytes.equals(await r.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer }).get('bytes')));
  const named = await connect({ name: 'everyday' });
  assert.equal(await named.clientGetName(), 'everyday');
  assert.ok((await named.info('server')).includes('redis_version'));
  named.destroy();
  for (const RESP of [2, 3]) {
    const other = await connect({ RESP });
    assert.deepEqual(plain(await other.hGetAll('hash')), { f: '1', g: 'two' });
    assert.equal(Number(await other.zScore('zset', 'a')), 2.5);
    await other.close();
  }
  const pool = createClientPool({ socket: { host, port: Number(port) }, ...login });
  await pool.connect();
  await Promise.all(Array.from({ length: 50 }, (_, i) => pool.set(`pool${i}`, String(i))));
  assert.equal(await pool.get('pool49'), '49');
  await pool.close();
  if (password) {
    await assert.rejects(connect({ password: 'wrong' }), /invalid/);
    await assert.rejects(async () => {
      const stranger = createClient({ socket: { host, port: Number(port), reconnectStrategy: false } });
      stranger.on('error', () => {});
      await stranger.connect();
      await stranger.get('name');
    }, /NOAUTH/);
  }
}

async function everything(r) {
  for (const conflict of [false, true]) {
    const watching = await connect();
    await watching.watch('watched');
    if (conflict) await r.set('watched', 'changed');
    const transaction = watching.multi().set('watched', 'mine').exec();
    if (conflict) await assert.rejects(transaction, WatchError);
    else assert.deepEqual(await transaction, ['OK']);
    await watching.close();
  }
  const subscriber = await connect();
  const heard = new Promise((resolve) => subscriber.subscribe('news', (message, channel) => resolve([message, channel])));
  while (await r.publish('news', 'hello') === 0);
  assert.deepEqual(await heard, ['hello', 'news']);
  await subscriber.unsubscribe('news');
  const waiting = subscriber.blPop('queue', 5);
  await r.rPush('queue', 'job');
  assert.deepEqual(plain(await waiting), { key: 'queue', element: 'job' });
  assert.equal(await subscriber.blPop('queue', 0.05), null);
  await subscriber.close();
  const other = await connect({ database: 1 });
  assert.equal(await other.get('name'), null);
  await other.close();
}

async function refusals(r) {
  await assert.rejects(r.blPop('queue', 1), NEEDS_DIRECT);
  await assert.rejects(r.watch('watched'), NEEDS_DIRECT);
  await assert.rejects(connect({ database: 1 }), NEEDS_DIRECT);
  assert.equal(await r.publish('news', 'hello'), 0);
}

async function main() {
  const r = await connect();
  for (const part of [values, structures, pipelines, scriptsAndErrors, connections]) await part(r);
  await (path === 'proxy' ? refusals : everything)(r);
  await r.close();
  console.log(`node-redis ${require('@redis/client/package.json').version}: all right`);
}

// Whatever waits for ever fails.
setTimeout(() => { throw new Error('not done after 30 seconds'); }, 30_000).unref();
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
