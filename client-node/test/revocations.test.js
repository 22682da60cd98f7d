import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { InvalidToken, RevocationsUnavailable, Verifier } from "@keyosk/client";
import { api, clock, login, makeAccount, makeService, until, url, watched } from "./keyosk.js";

const LIST = "/auth/revocations";
const open = [];
let service;

before(async () => {
  service = await makeService();
});
after(() => open.forEach((each) => each.close()));

function verifier(options) {
  const made = new Verifier({ issuer: url, audience: service, ...options });
  open.push(made);
  return made;
}

const holder = () => makeAccount(`${service}:read`);

async function accepts(known, token) {
  try {
    await known.verify(token);
    return true;
  } catch (error) {
    assert.ok(error instanceof InvalidToken, error);
    return false;
  }
}

const ENDS = {
  jti: async ({ username, secret }, token) => {
    const headers = { Authorization: `Basic ${btoa(`${username}:${secret}`)}` };
    await fetch(`${url}/auth/revoke`, { method: "POST", headers, body: new URLSearchParams({ token }) });
  },
  sub: ({ id }) => api("DELETE", `/accounts/${id}/tokens`),
  key_id: ({ id, key }) => api("DELETE", `/accounts/${id}/api-keys/${key}`),
};

for (const [claim, end] of Object.entries(ENDS)) {
  test(`what is revoked by ${claim} is refused within the interval, and other tokens pass`, async () => {
    const [account, other] = [await holder(), await holder()];
    const [token, kept] = [await account.token(), await other.token()];
    const known = verifier({ pollInterval: 1 });
    await known.verify(token);
    await end(account, token);
    const revokedAt = Date.now();
    await until(async () => !(await accepts(known, token)));
    assert.ok(Date.now() - revokedAt < 1_500, "later than the interval");
    await known.verify(kept);
  });
}

test("a token that was exchanged ends with the account that acts in it", async () => {
  const first = await makeService();
  const [actor, account] = [await makeAccount(), await makeAccount(`${first}:read`, `${service}:read`)];
  const exchanges = [{ service, scopes: [`${service}:read`] }];
  await api("PATCH", `/services/${first}`, { account: actor.username, exchanges });
  const token = await actor.token({
    grant_type: "urn:ietf:params:oauth:grant-type:token-exchange",
    subject_token: await account.token({ audience: first }),
    subject_token_type: "urn:ietf:params:oauth:token-type:access_token",
    audience: service,
  });
  const known = verifier({ pollInterval: 1 });
  await known.verify(token);
  await ENDS.sub(actor);
  await until(async () => !(await accepts(known, token)));
});

test("what is revoked by aud is refused, and a token issued later passes", async () => {
  const name = await makeService();
  const account = await makeAccount(`${name}:read`, `${name}:write`);
  const token = await account.token();
  const known = verifier({ audience: name, pollInterval: 1 });
  await known.verify(token);
  await api("PATCH", `/services/${name}`, { enabled: false });
  await until(async () => !(await accepts(known, token)));
  await api("PATCH", `/services/${name}`, { enabled: true });
  await until(async () => accepts(known, await account.token()));
});

test("the first token already meets the list", async () => {
  const account = await holder();
  const token = await account.token();
  await ENDS.sub(account);
  assert.equal(await accepts(verifier(), token), false);
  assert.equal(await accepts(verifier({ revocations: "off" }), token), true);
});

test("only what is new is asked for, and what did not change is not sent again", async () => {
  const spy = watched();
  const bodies = [];
  const seen = async (input, init) => {
    const response = await spy(input, init);
    if (String(input).includes(LIST)) bodies.push(response.status);
    return response;
  };
  const account = await holder();
  const known = verifier({ fetch: seen, pollInterval: 0.2 });
  await known.verify(await account.token());
  await ENDS.sub(account);
  await until(() => bodies.includes(304) && bodies.length > 4);
  const since = spy.to(LIST).map((call) => Number(call.split("=")[1]));
  assert.equal(since[0], 0);
  assert.ok(since.at(-1) > 0, since);
});

test("required: without a list that is recent nothing passes, with 503", async () => {
  const [spy, time] = [watched(), clock()];
  const token = await (await holder()).token();
  const away = async (input, init) => {
    if (time.blind && String(input).includes(LIST)) throw new TypeError("fetch failed");
    return spy(input, init);
  };
  time.blind = true;
  const strict = verifier({ fetch: away, clock: time, leeway: 1e6, revocations: "required" });
  await assert.rejects(strict.verify(token), RevocationsUnavailable);
  time.blind = false;
  time.ahead = 10_000;
  await strict.verify(token);
  time.blind = true;
  time.ahead += 50_000;
  await strict.verify(token);
  time.ahead += 20_000;
  await assert.rejects(strict.verify(token), RevocationsUnavailable);
});

test("best-effort: what was revoked stays revoked while Keyosk is away", async () => {
  const [spy, time] = [watched(), clock()];
  const [account, other] = [await holder(), await holder()];
  const [token, kept] = [await account.token(), await other.token()];
  await ENDS.sub(account);
  const known = verifier({ fetch: spy, clock: time });
  await known.verify(kept);
  spy.away = true;
  time.ahead = 600_000;
  await known.verify(kept);
  assert.equal(await accepts(known, token), false);
});

/** A Keyosk whose list is what the test says, sent at this date if it says so. */
function listed(list, date) {
  const headers = date && { Date: date.toUTCString() };
  return async (input, init) => (String(input).includes(LIST) ? Response.json(list(), { headers }) : fetch(input, init));
}

test("entries are dropped once no token can be meant any more", async () => {
  const time = clock();
  const account = await holder();
  const token = await account.token();
  const now = Math.floor(Date.now() / 1000);
  const entry = { sub: account.id, issued_before: now + 60, expires: now + 100 };
  let list = { sequence: 1, since: 0, entries: [entry] };
  const known = verifier({ fetch: listed(() => list), clock: time, leeway: 0 });
  assert.equal(await accepts(known, token), false);
  list = { sequence: 1, since: 1, entries: [] };
  time.ahead = 120_000;
  assert.equal(await accepts(known, token), false);
  time.ahead = 200_000;
  assert.equal(await accepts(known, token), true);
});

test("a clock that was ahead accepts nothing that was revoked once it is right", async () => {
  const time = clock();
  const account = await holder();
  const token = await account.token();
  const now = Math.floor(Date.now() / 1000);
  let list = { sequence: 1, since: 0, entries: [{ sub: account.id, issued_before: now + 60, expires: now + 900 }] };
  const known = verifier({ fetch: listed(() => list, new Date()), clock: time });
  time.ahead = 86_400_000;
  assert.equal(await accepts(known, token), false);
  list = { sequence: 1, since: 1, entries: [] };
  time.ahead = 86_500_000;
  assert.equal(await accepts(known, token), false);
  time.ahead = 0;
  assert.equal(await accepts(known, token), false);
});

test("with another since the list is all there is", async () => {
  const time = clock();
  const account = await holder();
  const token = await account.token();
  const now = Math.floor(Date.now() / 1000);
  let list = { sequence: 9, since: 0, entries: [{ sub: account.id, expires: now + 900 }] };
  const known = verifier({ fetch: listed(() => list), clock: time });
  assert.equal(await accepts(known, token), false);
  list = { sequence: 3, since: 0, entries: [] };
  time.ahead = 20_000;
  assert.equal(await accepts(known, token), true);
});

test("what is no list is not believed", async () => {
  const token = await (await holder()).token();
  const expires = 2e9;
  const wrong = [
    {}, [], null, "x", { sequence: "1", since: 0, entries: [] }, { sequence: 1, since: 0 },
    { sequence: 1, since: 0, entries: [{ expires }] }, { sequence: 1, since: 0, entries: [{ sub: 1, expires }] },
    { sequence: 1, since: 0, entries: [{ sub: "x" }] }, { sequence: 1, since: 0, entries: [null] },
    { sequence: 1, since: 0, entries: [{ sub: "x", expires, issued_before: "1" }] },
  ];
  for (const list of wrong) {
    const strict = verifier({ fetch: listed(() => list), revocations: "required" });
    await assert.rejects(strict.verify(token), RevocationsUnavailable, JSON.stringify(list));
  }
});

test("a list of 100,000 costs a token as much as an empty one", async () => {
  const token = await (await holder()).token();
  const expires = Math.floor(Date.now() / 1000) + 900;
  const entries = Array.from({ length: 100_000 }, (_, i) => ({ jti: `jti-${i}`, expires }));
  const full = verifier({ fetch: listed(() => ({ sequence: 1, since: 0, entries })) });
  const empty = verifier({ fetch: listed(() => ({ sequence: 1, since: 0, entries: [] })) });
  const costs = { full: [], empty: [] };
  await Promise.all([full.verify(token), empty.verify(token)]);
  for (let round = 0; round < 20; round += 1) {
    for (const [name, known] of Object.entries({ full, empty })) {
      const began = process.cpuUsage();
      for (let i = 0; i < 50; i += 1) await known.verify(token);
      const { user, system } = process.cpuUsage(began);
      costs[name].push((user + system) / 50);
    }
  }
  const [least, most] = [Math.min(...costs.empty), Math.min(...costs.full)];
  console.log(`microseconds of CPU time: ${least.toFixed(0)} with none, ${most.toFixed(0)} with 100,000`);
  // A walk over the list alone would take more than a hundred times as long.
  assert.ok(most < 3 * least, `${most} and ${least}`);
});

test("a password that is changed ends the tokens before it, and the next one passes", async () => {
  const account = await holder();
  const known = verifier({ pollInterval: 0.5 });
  const token = await account.token();
  await known.verify(token);
  await ENDS.sub(account);
  await until(async () => !(await accepts(known, token)));
  await known.verify((await login(account.username, account.secret)).access_token);
});
