// A script that prints what ioredis returns: scenario_ioredis.js HOST PORT PROTOCOL
'use strict';

const Redis = require('ioredis');
const { host, port, protocol, PREFIXES, say, sorted, attempt, keys, inbox, run, start } = require('./scenario');

function connect(options = {}) {
  const version = protocol === 'default' ? {} : { protocol: Number(protocol) };
  const client = new Redis({ host, port, retryStrategy: null, ...version, ...options });
  client.on('error', () => {});
  return client;
}

async function values(r, prefix) {
  const k = keys(prefix);
  say('set', await r.set(k('a'), 'väl ue'), await r.get(k('a')), await r.get(k('missing')), await r.set(k('a'), 'x', 'NX'));
  say('incr', await r.incrby(k('n'), 5), await r.incrbyfloat(k('n'), 0.5));
  say('hash', await r.hset(k('h'), { f: 1, g: 'two' }), await r.hgetall(k('h')), await r.hgetall(k('missing')));
  say('list', await r.rpush(k('l'), 1, 2, 3), await r.lrange(k('l'), 0, -1), await r.lmove(k('l'), k('l2'), 'LEFT', 'RIGHT'));
  say('set of', await r.sadd(k('s'), 'a', 'b'), sorted(await r.smembers(k('s'))), await r.sismember(k('s'), 'a'));
  say('zset', await r.zadd(k('z'), 1.5, 'a', 2, 'b'), await r.zscore(k('z'), 'a'), await r.zrange(k('z'), 0, -1, 'WITHSCORES'));
  say('zpop', await r.zpopmin(k('z')), await r.zpopmax(k('missing')));
  say('stream', await r.xadd(k('x'), '1-1', 'k', 'v'), await r.xrange(k('x'), '-', '+'), await r.xread('STREAMS', k('x'), '0'));
  say('group', await r.xgroup('CREATE', k('x'), 'g', '0'), await r.xreadgroup('GROUP', 'g', 'me', 'STREAMS', k('x'), '>'));
  say('geo', await r.geoadd(k('geo'), 13.361389, 38.115556, 'Palermo'), await r.geopos(k('geo'), 'Palermo', 'none'));
  say('rename', await r.rename(k('a'), k('b')), await r.exists(k('a'), k('b')), await r.type(k('b')), await r.ttl(k('b')));
  say('lmpop', await r.lmpop(2, k('l'), k('l2'), 'LEFT'));
  await attempt('no integer', () => r.incr(k('b')));
  await attempt('wrong type', () => r.lpush(k('b'), 1));
  await attempt('no group', () => r.xreadgroup('GROUP', 'none', 'me', 'STREAMS', k('x'), '>'));
  const big = Buffer.from(Array.from({ length: 1 << 20 }, (_, i) => i % 256));
  say('big', await r.set(k('big'), big), big.equals(await r.getBuffer(k('big'))), await r.strlen(k('big')));
}

async function pipelines(r) {
  const pipeline = r.pipeline();
  for (let i = 0; i < 300; i++) pipeline.set(`${PREFIXES[i % 3]}k${i}`, i).get(`${PREFIXES[i % 3]}k${i}`);
  pipeline.lpush('n:k5', 'no list').get('p:k3');
  say('pipeline', (await pipeline.exec()).map(([error, value]) => (error ? error.message : value)));
  const everywhere = Array.from({ length: 30 }, (_, i) => `${PREFIXES[i % 3]}k${i}`);
  say('mget', await r.mget(...everywhere, 'p:missing'));
  say('mset', await r.mset(Object.fromEntries(everywhere.map((key) => [key, 'new']))), await r.mget(everywhere));
  say('exists', await r.exists(everywhere), await r.touch(everywhere), await r.unlink(everywhere.slice(10)), await r.del(everywhere));
  const automatic = connect({ enableAutoPipelining: true });
  say('automatic', await Promise.all(everywhere.map((key) => automatic.append(key, key))));
  await automatic.quit();
}

async function transactions(r, prefix) {
  const k = keys(prefix);
  say('transaction', await r.multi().set(k('t'), 1).incr(k('t')).hgetall(k('h')).get(k('missing')).exec());
  const replies = await r.multi().incr(k('t')).incr(k('h')).get(k('t')).exec();
  say('an error in it', replies.map(([error, value]) => (error ? error.message : value)));
  await attempt('doomed', () => r.multi().incr(k('t')).call('set', k('t')).exec());
  // Command by command, each answered before the next.
  await r.multi({ pipeline: false });
  say('one by one', await r.incr(k('t')), await r.get(k('t')), await r.exec());
  for (const conflict of [false, true]) {
    const watching = connect();
    say('watch', await watching.watch(k('watched')), await watching.get(k('watched')));
    if (conflict) await r.set(k('watched'), 'changed');
    say(`conflict ${conflict}`, await watching.multi().set(k('watched'), 'mine').get(k('watched')).exec());
    await watching.quit();
  }
}

async function waiting(r, prefix) {
  const k = keys(prefix);
  const other = connect();
  say('blpop in vain', await other.blpop(k('queue'), 0.05));
  const calls = [
    () => other.blpop(k('none'), k('queue'), 10),
    () => other.blmove(k('queue'), k('done'), 'LEFT', 'LEFT', 10),
    // What is sent behind a command that waits is answered behind it.
    () => Promise.all([other.blpop(k('queue'), 10), other.get(k('missing')), other.set(k('behind'), 1)]),
  ];
  for (const call of calls) {
    const job = call();
    say('pushed', await r.rpush(k('queue'), 'job'), await job);
  }
  await other.quit();
}

async function subscribers(r) {
  const subscriber = connect();
  const { hear, until } = inbox();
  subscriber.on('message', hear);
  subscriber.on('pmessage', hear);
  say('subscribed', await subscriber.subscribe('news', 'p:news'), await subscriber.psubscribe('ne*'));
  say('published', await r.publish('news', 'hello'), await r.publish('p:news', 'hi'), await r.publish('nobody', 'x'));
  say('heard', await until(3));
  await attempt('publishes itself', () => subscriber.publish('p:news', 'own'));
  await attempt('gets', () => subscriber.get('n:missing'));
  say('ping', await subscriber.ping());
  say('unsubscribed', await subscriber.unsubscribe('news', 'p:news'), await subscriber.punsubscribe('ne*'));
  // The same connection is an ordinary one again.
  say('afterwards', await subscriber.set('p:after', 1), await subscriber.get('p:after'));
  await subscriber.quit();
}

async function scripts(r, prefix) {
  const k = keys(prefix);
  r.defineCommand('double', {
    numberOfKeys: 2,
    lua: "return {redis.call('incrby', KEYS[1], ARGV[1]) * 2, KEYS[1] == KEYS[2]}",
  });
  say('evalsha', await r.double(k('script'), k('x'), 4), await r.double(k('script'), k('script'), 1));
  say('in a pipeline', await r.pipeline().double(k('script'), k('x'), 1).get(k('script')).exec());
  say('in a transaction', await r.multi().double(k('script'), k('x'), 1).get(k('script')).exec());
  await attempt('no script', () => r.evalsha('0'.repeat(40), 1, k('a')));
  await attempt('my words', () => r.eval("return redis.error_reply('ERR my words')", 1, k('a')));
  say('without keys', await r.eval('return {ARGV[1], 7, false}', 0, 'x'));
}

async function scans(r) {
  say('flushall', await r.flushall());
  for (let i = 0; i < 200; i++) await r.set(`${PREFIXES[i % 3]}scan${i}`, i);
  for (let i = 0; i < 50; i++) await r.hset('p:hash', `f${i}`, i);
  const all = async (stream) => {
    const found = [];
    for await (const some of stream) found.push(...some);
    return sorted(found);
  };
  say('scan', await all(r.scanStream({ count: 20 })));
  say('scan match', await all(r.scanStream({ match: 'q:*1*', count: 50 })));
  say('scan type', await all(r.scanStream({ type: 'hash' })));
  say('hscan', await all(r.hscanStream('p:hash')));
  say('keys', (await r.keys('*')).length, sorted(await r.keys('n:scan1?')), await r.dbsize(), (await r.randomkey()) !== null);
}

async function main() {
  const r = connect({ connectionName: 'scenario' });
  say('ping', await r.ping(), await r.echo('words'), await r.client('GETNAME'));
  await attempt('unknown', () => r.call('NOSUCHCOMMAND', 'x'));
  await run(r, [values, transactions, waiting, scripts], [pipelines, subscribers, scans]);
}

start(main);
