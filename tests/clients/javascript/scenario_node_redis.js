// A script that prints what node-redis returns: scenario_node_redis.js HOST PORT PROTOCOL
'use strict';

const { createClient, createClientPool, defineScript, RESP_TYPES } = require('redis');
const { host, port, protocol, PREFIXES, say, sorted, attempt, keys, inbox, run, start } = require('./scenario');

const scripts = {
  double: defineScript({
    SCRIPT: "return {redis.call('incrby', KEYS[1], ARGV[1]) * 2, KEYS[1] == KEYS[2]}",
    NUMBER_OF_KEYS: 2,
    parseCommand(parser, first, second, number) {
      parser.pushKeys([first, second]);
      parser.push(String(number));
    },
    transformReply: (reply) => reply,
  }),
};

function options() {
  const version = protocol === 'default' ? {} : { RESP: Number(protocol) };
  return { socket: { host, port, reconnectStrategy: false }, scripts, ...version };
}

async function connect(more = {}) {
  const client = createClient({ ...options(), ...more });
  client.on('error', () => {});
  await client.connect();
  return client;
}

async function values(r, prefix) {
  const k = keys(prefix);
  say('set', await r.set(k('a'), 'väl ue'), await r.get(k('a')), await r.get(k('missing')), await r.set(k('a'), 'x', { NX: true }));
  say('incr', await r.incrBy(k('n'), 5), await r.incrByFloat(k('n'), 0.5));
  say('hash', await r.hSet(k('h'), { f: '1', g: 'two' }), await r.hGetAll(k('h')), await r.hGetAll(k('missing')));
  say('list', await r.rPush(k('l'), ['1', '2', '3']), await r.lRange(k('l'), 0, -1), await r.lMove(k('l'), k('l2'), 'LEFT', 'RIGHT'));
  say('set of', await r.sAdd(k('s'), ['a', 'b']), sorted(await r.sMembers(k('s'))), await r.sIsMember(k('s'), 'a'));
  say('zset', await r.zAdd(k('z'), [{ score: 1.5, value: 'a' }, { score: 2, value: 'b' }]), await r.zScore(k('z'), 'a'));
  say('zrange', await r.zRangeWithScores(k('z'), 0, -1), await r.zPopMin(k('z')), await r.zPopMax(k('missing')));
  say('stream', await r.xAdd(k('x'), '1-1', { k: 'v' }), await r.xRange(k('x'), '-', '+'), await r.xRead({ key: k('x'), id: '0' }));
  say('group', await r.xGroupCreate(k('x'), 'g', '0'), await r.xReadGroup('g', 'me', { key: k('x'), id: '>' }));
  say('geo', await r.geoAdd(k('geo'), { longitude: 13.361389, latitude: 38.115556, member: 'Palermo' }));
  say('geopos', await r.geoPos(k('geo'), ['Palermo', 'none']));
  say('rename', await r.rename(k('a'), k('b')), await r.exists([k('a'), k('b')]), await r.type(k('b')), await r.ttl(k('b')));
  say('lmpop', await r.lmPop([k('l'), k('l2')], 'LEFT'));
  await attempt('no integer', () => r.incr(k('b')));
  await attempt('wrong type', () => r.lPush(k('b'), '1'));
  await attempt('no group', () => r.xReadGroup('none', 'me', { key: k('x'), id: '>' }));
  const big = Buffer.from(Array.from({ length: 1 << 20 }, (_, i) => i % 256));
  const bytes = r.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer });
  say('big', await bytes.set(k('big'), big), big.equals(await bytes.get(k('big'))), await r.strLen(k('big')));
}

async function pipelines(r) {
  // Commands of one turn go in one piece.
  const calls = [];
  for (let i = 0; i < 300; i++) {
    calls.push(r.set(`${PREFIXES[i % 3]}k${i}`, String(i)), r.get(`${PREFIXES[i % 3]}k${i}`));
  }
  calls.push(r.lPush('n:k5', 'no list'), r.get('p:k3'));
  const settled = await Promise.allSettled(calls);
  say('pipeline', settled.map(({ value, reason }) => (reason ? reason.message : value)));
  const everywhere = Array.from({ length: 30 }, (_, i) => `${PREFIXES[i % 3]}k${i}`);
  say('mget', await r.mGet([...everywhere, 'p:missing']));
  say('mset', await r.mSet(everywhere.map((key) => [key, 'new'])), await r.mGet(everywhere));
  say('exists', await r.exists(everywhere), await r.touch(everywhere), await r.unlink(everywhere.slice(10)), await r.del(everywhere));
  const pool = await createClientPool(options(), { maximum: 4 }).connect();
  say('pool', await Promise.all(everywhere.map((key) => pool.append(key, key))));
  await pool.close();
}

async function transactions(r, prefix) {
  const k = keys(prefix);
  say('transaction', await r.multi().set(k('t'), '1').incr(k('t')).hGetAll(k('h')).get(k('missing')).zAdd(k('tz'), { score: 1, value: 'a' }).exec());
  await attempt('an error in it', () => r.multi().incr(k('t')).incr(k('h')).get(k('t')).exec());
  await attempt('doomed', () => r.multi().incr(k('t')).addCommand(['SET', k('t')]).exec());
  say('as a pipeline', await r.multi().incr(k('t')).get(k('t')).execAsPipeline());
  for (const conflict of [false, true]) {
    const watching = await connect();
    say('watch', await watching.watch(k('watched')), await watching.get(k('watched')));
    if (conflict) await r.set(k('watched'), 'changed');
    await attempt(`conflict ${conflict}`, () => watching.multi().set(k('watched'), 'mine').get(k('watched')).exec());
    await watching.close();
  }
}

async function waiting(r, prefix) {
  const k = keys(prefix);
  const other = await connect();
  say('blpop in vain', await other.blPop(k('queue'), 0.05));
  const calls = [
    () => other.blPop([k('none'), k('queue')], 10),
    () => other.blMove(k('queue'), k('done'), 'LEFT', 'LEFT', 10),
    // What is sent behind a command that waits is answered behind it.
    () => Promise.all([other.blPop(k('queue'), 10), other.get(k('missing')), other.set(k('behind'), '1')]),
  ];
  for (const call of calls) {
    const job = call();
    say('pushed', await r.rPush(k('queue'), 'job'), await job);
  }
  await other.close();
}

async function subscribers(r) {
  const subscriber = await connect();
  const { hear, until } = inbox();
  await subscriber.subscribe(['news', 'p:news'], hear);
  await subscriber.pSubscribe('ne*', (message, channel) => hear('pattern', message, channel));
  say('published', await r.publish('news', 'hello'), await r.publish('p:news', 'hi'), await r.publish('nobody', 'x'));
  say('heard', await until(3));
  await attempt('publishes itself', async () => [await subscriber.publish('p:news', 'own'), await until(1)]);
  await attempt('gets', () => subscriber.get('n:missing'));
  say('ping', await subscriber.ping());
  await subscriber.unsubscribe(['news', 'p:news']);
  await subscriber.pUnsubscribe('ne*');
  // The same connection is an ordinary one again.
  say('afterwards', await subscriber.set('p:after', '1'), await subscriber.get('p:after'));
  await subscriber.close();
  if (protocol === '2') return;
  const sharded = await connect();
  await sharded.sSubscribe('n:shard', hear);
  say('sharded', await r.sPublish('n:shard', 'hello'), await until(1));
  await sharded.close();
}

async function lua(r, prefix) {
  const k = keys(prefix);
  say('evalsha', await r.double(k('script'), k('x'), 4), await r.double(k('script'), k('script'), 1));
  say('in a transaction', await r.multi().double(k('script'), k('x'), 1).get(k('script')).exec());
  await attempt('no script', () => r.evalSha('0'.repeat(40), { keys: [k('a')] }));
  await attempt('my words', () => r.eval("return redis.error_reply('ERR my words')", { keys: [k('a')] }));
  say('without keys', await r.eval('return {ARGV[1], 7, false}', { arguments: ['x'] }));
}

async function scans(r) {
  say('flushall', await r.flushAll());
  for (let i = 0; i < 200; i++) await r.set(`${PREFIXES[i % 3]}scan${i}`, String(i));
  for (let i = 0; i < 50; i++) await r.hSet('p:hash', `f${i}`, String(i));
  const all = async (iterator) => {
    const found = [];
    for await (const some of iterator) found.push(...[].concat(some));
    return found.map((one) => JSON.stringify(one)).sort();
  };
  say('scan', await all(r.scanIterator({ COUNT: 20 })));
  say('scan match', await all(r.scanIterator({ MATCH: 'q:*1*', COUNT: 50 })));
  say('scan type', await all(r.scanIterator({ TYPE: 'hash' })));
  say('hscan', await all(r.hScanIterator('p:hash')));
  say('keys', (await r.keys('*')).length, sorted(await r.keys('n:scan1?')), await r.dbSize(), (await r.randomKey()) !== null);
}

async function main() {
  const r = await connect({ name: 'scenario' });
  say('ping', await r.ping(), await r.echo('words'), await r.clientGetName());
  await attempt('unknown', () => r.sendCommand(['NOSUCHCOMMAND', 'x']));
  await run(r, [values, transactions, waiting, lua], [pipelines, subscribers, scans]);
}

start(main);
