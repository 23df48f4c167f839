// The parts of the scenario scripts that don't depend on the client library.
'use strict';

const [host, port, protocol] = process.argv.slice(2);
const PREFIXES = ['p:', 'q:', 'n:'];

const say = (what, ...results) => console.log(`${what}: ${JSON.stringify(results)}`);
const sorted = (list) => [...list].sort();

async function attempt(what, call) {
  try {
    say(what, await call());
  } catch (error) {
    const replies = error.replies ? error.replies.map((reply) => (reply instanceof Error ? reply.message : reply)) : [];
    say(what, error.message, ...replies);
  }
}

// Names of keys of one slot.
const keys = (prefix) => (name) => `${prefix}{${prefix}}${name}`;

// Messages of subscriptions: `hear` takes one, `until` waits for a number of them.
function inbox() {
  const heard = [];
  let wake = () => {};
  const hear = (...words) => {
    heard.push(words.join(' '));
    wake();
  };
  const until = async (count) => {
    while (heard.length < count) await new Promise((resolve) => (wake = resolve));
    return sorted(heard.splice(0));
  };
  return { hear, until };
}

// Runs the parts, first those that take a prefix, with each prefix.
async function run(r, withPrefix, others) {
  for (const prefix of PREFIXES) {
    for (const part of withPrefix) await part(r, prefix);
  }
  for (const part of others) await part(r);
  console.log('end');
  process.exit(0);
}

// Starts a script, which fails after 50 seconds.
function start(main) {
  setTimeout(() => { throw new Error('not done after 50 seconds'); }, 50_000).unref();
  main().catch((error) => {
    console.error(error);
    process.exit(1);
  });
}

module.exports = { host, port: Number(port), protocol, PREFIXES, say, sorted, attempt, keys, inbox, run, start };
