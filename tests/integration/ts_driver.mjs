// Drives the compiled TypeScript client for the tests: one command per line in, one JSON object per line out.
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

const given = JSON.parse(process.argv[2]);
const { Backoff, EventStream, StaticToken, StoredCredentials, StoredLogin } = await import(pathToFileURL(given.library));
const { WebSocket } = await import(pathToFileURL(given.ws));

const say = (what) => process.stdout.write(`${JSON.stringify(what)}\n`);
// A listener that is held up takes no further event until `release`.
let release;
const held = given.hold ? new Promise((resolve) => (release = resolve)) : undefined;

// A login: every tab has a StoredLogin of its own on one storage, as in a browser.
const kept = new Map();
const storage = {
  getItem: (key) => kept.get(key) ?? null,
  setItem: (key, value) => kept.set(key, value),
  removeItem: (key) => kept.delete(key),
};
let refreshes = 0;
const counted = (url, init) => {
  if (String(url).endsWith('/refresh')) refreshes += 1;
  return fetch(url, init);
};
const logins = Array.from({ length: given.tabs ?? 1 }, () =>
  given.password === undefined
    ? new StaticToken(given.token)
    : new StoredLogin(given.url, new StoredCredentials(storage), { fetch: counted }),
);
if (given.password !== undefined) await logins[0].login('admin', given.password);

const streams = logins.map((login, tab) => {
  const stream = new EventStream(given.url, login, {
    WebSocket,
    backoff: new Backoff(50, 500),
    subscriptions: given.subscriptions,
    ...(given.positions === undefined ? {} : { positions: given.positions }),
    ...(given.limits === undefined ? {} : { limits: given.limits }),
  });
  stream.on('*', (event) => {
    say({ tab, event });
    return held;
  });
  for (const notice of ['connection_lost', 'reconnected', 'position_lost', 'catching_up', 'caught_up', 'contract_mismatch']) {
    stream.on(notice, (value) => say({ tab, notice, value }));
  }
  stream.on('ended', ({ error }) => say({ tab, notice: 'ended', value: { name: error.name, message: error.message } }));
  return stream;
});

const commands = {
  positions: () => streams[0].positions,
  release: () => release(),
  refreshes: () => refreshes,
  lose: () => streams[0].lose('cut by the test'),
  subscribe: (wanted) => streams[0].subscribe(wanted),
  request: ({ type, data }) => streams[0].request(type, data),
  // All tabs are refused the same token at the same moment.
  renew: async () => {
    const rejected = await logins[0].token();
    const renewed = await Promise.all(logins.map((login) => login.token(rejected)));
    return { rejected, renewed };
  },
};

for (const stream of streams) await stream.start();
say({ started: true });
for await (const line of createInterface({ input: process.stdin })) {
  const { command, value } = JSON.parse(line);
  try {
    say({ done: command, value: (await commands[command](value)) ?? null });
  } catch (error) {
    say({ done: command, error: { name: error.name, code: error.code, message: error.message } });
  }
}
for (const stream of streams) await stream.close();
process.exit(0);
