// A worker and subscribers that run until they are ended, and what gives the worker its jobs:
// worker.js WHAT HOST PORT [TEXT]. What a job or a message says is written to the standard output.
'use strict';

const [what, host, port, text] = process.argv.slice(2);
const say = (words) => console.log(`said ${words}`);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };

const programs = {
  'bullmq-work': async () => {
    const { Worker } = require('bullmq');
    new Worker('work', async (job) => say(job.data), { connection, prefix: '{bull}' }).on('error', () => {});
  },
  'bullmq-give': async () => {
    const { Queue } = require('bullmq');
    const queue = new Queue('work', { connection, prefix: '{bull}' });
    await queue.add('say', text);
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
};

programs[what]().catch((error) => {
  console.error(error);
  process.exit(1);
});
