// BullMQ, which queues jobs in Redis: jobs.js HOST PORT PATH [USER] [PASSWORD]
'use strict';

const assert = require('node:assert/strict');
const { Queue, QueueEvents, Worker } = require('bullmq');

const [host, port, , username, password] = process.argv.slice(2);
const connection = {
  host, port: Number(port), username: username || undefined, password: password || undefined, maxRetriesPerRequest: null,
};
// Its scripts name keys that they aren't told of: all have to be of one slot, and of a route that removes nothing.
const options = { connection, prefix: 'j:{bull}' };

async function main() {
  const queue = new Queue('work', options);
  const events = new QueueEvents('work', options);
  await events.waitUntilReady();
  const worker = new Worker('work', async (job) => {
    if (job.data.fails && job.attemptsMade === 0) throw new Error('once');
    return job.data.n * 2;
  }, { ...options, concurrency: 5 });
  const jobs = await queue.addBulk(Array.from({ length: 50 }, (_, n) => ({ name: 'double', data: { n } })));
  const results = await Promise.all(jobs.map((job) => job.waitUntilFinished(events, 10_000)));
  assert.deepEqual(results, Array.from({ length: 50 }, (_, n) => n * 2));
  const delayed = await queue.add('later', { n: 100 }, { delay: 100 });
  assert.equal(await delayed.waitUntilFinished(events, 10_000), 200);
  const again = await queue.add('again', { n: 7, fails: true }, { attempts: 2 });
  assert.equal(await again.waitUntilFinished(events, 10_000), 14);
  assert.equal((await queue.getJobCounts()).completed, 52);
  await worker.close();
  await events.close();
  await queue.close();
  console.log(`bullmq ${require('bullmq/package.json').version}: all right`);
}

// Whatever waits for ever fails.
setTimeout(() => { throw new Error('not done after 30 seconds'); }, 30_000).unref();
main().then(() => process.exit(0), (error) => {
  console.error(error);
  process.exit(1);
});
