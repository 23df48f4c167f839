// What people do with ioredis, on a host that is managed: ioredis.js HOST PORT PATH [USER] [PASSWORD]
'use strict';

const assert = require('node:assert/strict');
const Redis = require('ioredis');

const [host, port, path, username, password] = process.argv.slice(2);
const login = { username: username || undefined, password: password || undefined };
const NEEDS_DIRECT = /needs the direct or native data path/;

function connect(options = {}) {
  const client = new Redis({ host, port: Number(port), ...login, ...options });
  client.on('error', () => {});
  return client;
}

async function values(r) {
  assert.equal(await r.ping(), 'PONG');
  assert.equal(await r.set('name', 'väl ue'), 'OK');
  assert.equal(await r.get('name'), 'väl ue');
  assert.equal(await r.get('missing'), null);
  assert.equal(await r.set('name', 'x', 'NX'), null);
  assert.equal(await r.set('short', 1, 'EX', 1000), 'OK');
  assert.equal(await r.incrby('count', 5), 5);
  assert.equal(await r.mset({ a: 1, b: 2 }), 'OK');
  assert.deepEqual(await r.mget('a', 'missing', 'b'), ['1', null, '2']);
  assert.equal(await r.del('a', 'b', 'missing'), 2);
  const found = [];
  for await (const keys of r.scanStream({ match: '[ns]*', count: 100 })) found.push(...keys);
  assert.deepEqual(found.sort(), ['name', 'short']);
}

async function structures(r) {
  assert.equal(await r.hset('hash', { f: 1, g: 'two' }), 2);
  assert.deepEqual({ ...(await r.hgetall('hash')) }, { f: '1', g: 'two' });
  assert.deepEqual({ ...(await r.hgetall('missing')) }, {});
  assert.deepEqual(await r.hmget('hash', 'f', 'none'), ['1', null]);
  assert.equal(await r.rpush('list', 1, 2, 3), 3);
  assert.deepEqual(await r.lrange('list', 0, -1), ['1', '2', '3']);
  assert.equal(await r.sadd('set', 'a', 'b'), 2);
  assert.deepEqual((await r.smembers('set')).sort(), ['a', 'b']);
  assert.equal(await r.zadd('zset', 1.5, 'a', 2, 'b'), 2);
  assert.equal(Number(await r.zscore('zset', 'a')), 1.5);
  assert.deepEqual((await r.zrange('zset', 0, -1, 'WITHSCORES')).flat().map(String), ['a', '1.5', 'b', '2']);
  assert.equal(await r.xadd('stream', '1-1', 'k', 'v'), '1-1');
  assert.deepEqual(await r.xrange('stream', '-', '+'), [['1-1', ['k', 'v']]]);
}

async function pipelines(r) {
  const pipeline = r.pipeline();
  for (let i = 0; i < 500; i++) pipeline.set(`p${i}`, i).get(`p${i}`);
  pipeline.lpush('p1', 'no list').get('p2');
  const replies = await pipeline.exec();
  for (let i = 0; i < 500; i++) {
    assert.deepEqual(replies.slice(2 * i, 2 * i + 2), [[null, 'OK'], [null, String(i)]]);
  }
  assert.match(replies[1000][0].message, /WRONGTYPE/);
  assert.deepEqual(replies[1001], [null, '2']);
  const transaction = await r.multi().set('t', 1).incr('t').hgetall('hash').get('missing').incr('set').exec();
  assert.deepEqual(transaction.slice(0, 2), [[null, 'OK'], [null, 2]]);
  assert.deepEqual({ ...transaction[2][1] }, { f: '1', g: 'two' });
  assert.deepEqual(transaction[3], [null, null]);
  assert.match(transaction[4][0].message, /WRONGTYPE/);
  await assert.rejects(r.multi().set('t', 9).call('set', 'only-a-key').exec(), /EXECABORT/);
  assert.equal(await r.get('t'), '2');
}

async function scriptsAndErrors(r) {
  r.defineCommand('double', { numberOfKeys: 1, lua: "return redis.call('incrby', KEYS[1], ARGV[1]) * 2" });
  assert.equal(await r.double('script', 4), 8);
  assert.equal(await r.double('script', 1), 10);
  assert.deepEqual(await r.eval('return {KEYS[1], ARGV[1]}', 1, 'k', 'v'), ['k', 'v']);
  await assert.rejects(r.incr('name'), /not an integer/);
  await assert.rejects(r.call('NOSUCHCOMMAND', 'x'), /NOSUCHCOMMAND/);
  const bytes = Buffer.from(Array.from({ length: 1 << 20 }, (_, i) => i % 256));
  await r.set('bytes', bytes);
  assert.ok(bytes.equals(await r.getBuffer('bytes')));
}

async function connections() {
  const named = connect({ connectionName: 'everyday' });
  assert.equal(await named.client('GETNAME'), 'everyday');
  await named.quit();
  const automatic = connect({ enableAutoPipelining: true });
  const replies = await Promise.all(Array.from({ length: 200 }, (_, i) => automatic.set(`auto${i}`, i)));
  assert.ok(replies.every((reply) => reply === 'OK'));
  assert.equal(await automatic.get('auto199'), '199');
  await automatic.quit();
  if (password) {
    for (const options of [{ password: 'wrong' }, { username: undefined, password: undefined }]) {
      const stranger = connect({ ...options, retryStrategy: null, maxRetriesPerRequest: 0 });
      await assert.rejects(stranger.get('name'));
      stranger.disconnect();
    }
  }
}

async function everything(r) {
  for (const conflict of [false, true]) {
    const watching = connect();
    await watching.watch('watched');
    if (conflict) await r.set('watched', 'changed');
    assert.deepEqual(await watching.multi().set('watched', 'mine').exec(), conflict ? null : [[null, 'OK']]);
    await watching.quit();
  }
  const subscriber = connect();
  const heard = new Promise((resolve) => subscriber.on('message', (channel, message) => resolve([channel, message])));
  assert.equal(await subscriber.subscribe('news'), 1);
  assert.equal(await r.publish('news', 'hello'), 1);
  assert.deepEqual(await heard, ['news', 'hello']);
  assert.equal(await subscriber.unsubscribe('news'), 0);
  const waiting = subscriber.blpop('queue', 5);
  await r.rpush('queue', 'job');
  assert.deepEqual(await waiting, ['queue', 'job']);
  assert.equal(await subscriber.blpop('queue', 0.05), null);
  await subscriber.quit();
  const other = connect({ db: 1 });
  assert.equal(await other.get('name'), null);
  await other.quit();
}

async function refusals(r) {
  await assert.rejects(r.blpop('queue', 1), NEEDS_DIRECT);
  await assert.rejects(r.watch('watched'), NEEDS_DIRECT);
  await assert.rejects(r.subscribe('news'), NEEDS_DIRECT);
  assert.equal(await r.publish('news', 'hello'), 0);
}

async function main() {
  const r = connect();
  for (const part of [values, structures, pipelines, scriptsAndErrors, connections]) await part(r);
  await (path === 'proxy' ? refusals(connect()) : everything(r));
  console.log(`ioredis ${require('ioredis/package.json').version}: all right`);
  process.exit(0);
}

// Whatever waits for ever fails.
setTimeout(() => { throw new Error('not done after 30 seconds'); }, 30_000).unref();
main().catch((error) => {
  console.error(error);
  process.exit(1);
});
