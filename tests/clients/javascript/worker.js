// Workers, subscribers and what gives the workers their jobs: worker.js WHAT HOST PORT [TEXT [COUNT]].
// What a job or a message says is written to the standard output.
'use strict';

const [what, host, port, text, count] = process.argv.slice(2);
const say = (words) => console.log(`said ${words}`);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };
const pause = () => new Promise((done) => setTimeout(done, 50));
const same = (found) => {
  if (found !== text) throw new Error(`${found} instead of ${text}`);
};

const programs = {
  'bullmq-work': async () => {
    const { Worker } = require('bullmq');
    const work = async (job) => {
      await pause();
      say(job.data);
    };
    new Worker('work', work, { connection, prefix: '{bull}', stalledInterval: 3000, lockDuration: 3000 })
      .on('error', (error) => console.log(String(error)));
  },
  'bullmq-give': async () => {
    const { Queue } = require('bullmq');
    const queue = new Queue('work', { connection, prefix: '{bull}' });
    for (let i = 0; i < Number(count); i++) await queue.add('say', `${text}-${i}`);
    await queue.close();
  },
  'ioredis-hear': async () => {
    const Redis = require('ioredis');
    const client = new Redis({ host, port: Number(port) });
    client.on('error', () => {});
    client.on('message', (channel, words) => say(words));
    await client.subscribe('news');
  },
  'node-redis-hear': async () => {
    const { createClient } = require('redis');
    const client = createClient({ socket: { host, port: Number(port) } });
    client.on('error', () => {});
    await client.connect();
    await client.subscribe('news', say);
  },
  'ioredis-greet': async () => {
    const Redis = require('ioredis');
    const client = new Redis({ host, port: Number(port) });
    await client.set('greeting', text);
    same(await client.get('greeting'));
    for (const [error, found] of await client.pipeline().get('greeting').get('greeting').exec()) {
      if (error) throw error;
      same(found);
    }
    client.disconnect();
    say(text);
  },
  'node-redis-greet': async () => {
    const { createClient } = require('redis');
    // By default, RESP3 since version 6.
    const client = createClient({ socket: { host, port: Number(port), reconnectStrategy: false } });
    client.on('error', () => {});
    await client.connect();
    await client.set('greeting', text);
    for (const found of await Promise.all([1, 2, 3].map(() => client.get('greeting')))) same(found);
    client.destroy();
    say(text);
  },
};

programs[what]().catch((error) => {
  console.error(error);
  process.exit(1);
});
