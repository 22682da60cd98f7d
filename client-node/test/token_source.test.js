import assert from "node:assert/strict";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { inspect } from "node:util";
import { LoginRefused, TokenSource, TokenUnavailable, Verifier } from "@keyosk/client";
import { api, clock, makeAccount, makeService, until, url, watched } from "./keyosk.js";

const TOKEN = "/auth/token";
let service, other, account, folder, verifier;

before(async () => {
  [service, other] = [await makeService(), await makeService()];
  account = await makeAccount(`${service}:read`, `${service}:write`, `${other}:read`);
  folder = await mkdtemp(join(tmpdir(), "keyosk-"));
  verifier = new Verifier({ issuer: url, audience: service });
});
after(async () => {
  verifier.close();
  await rm(folder, { recursive: true });
});

function source(options) {
  const { username, secret } = account;
  return new TokenSource({ issuer: url, username, ...(options?.secretFile ? {} : { secret }), ...options });
}

test("a token is for the audience and the scopes that were asked for", async () => {
  const token = await verifier.verify(await source({ audience: service }).token());
  assert.deepEqual([token.claims.aud, [...token.scopes].sort()], [service, [`${service}:read`, `${service}:write`]]);
  const narrow = await verifier.verify(await source({ scope: `${service}:read` }).token());
  assert.deepEqual([...narrow.scopes], [`${service}:read`]);
  const both = await verifier.verify(await source({ audience: [service, other], scope: [`${service}:read`, `${other}:read`] }).token());
  assert.deepEqual([...both.claims.aud].sort(), [service, other].sort());
});

test("an API key needs no username, and a file may have a line end", async () => {
  const file = join(folder, "key");
  await writeFile(file, `\ufeff${account.secret}\r\n`);
  await verifier.verify(await source({ username: "", audience: service, secretFile: file }).token());
});

test("a password may have any character", async () => {
  const password = " p\u00e4ss: w+rd %41 & \u00e9=/? ";
  await api("PUT", `/accounts/${account.id}/password`, { password });
  await source({ secret: password, audience: service }).token();
});

test("the environment gives what is left out, and a file is read again for each login", async () => {
  const names = { ISSUER: url, USERNAME: account.username, SECRET_FILE: join(folder, "rotated") };
  for (const [name, value] of Object.entries(names)) process.env[`KEYOSK_CLIENT_${name}`] = value;
  const time = clock();
  await writeFile(names.SECRET_FILE, account.secret);
  const fromFile = new TokenSource({ clock: time });
  await fromFile.token();
  await writeFile(names.SECRET_FILE, "kysk_no_longer");
  time.ahead = 1e6;
  await assert.rejects(fromFile.token(), LoginRefused);
  assert.throws(() => new TokenSource({ secret: "a", secretFile: "b" }), TypeError);
  assert.throws(() => new TokenSource({ secret: undefined }), TypeError);
  delete process.env.KEYOSK_CLIENT_SECRET_FILE;
  assert.throws(() => new TokenSource(), TypeError);
  process.env.KEYOSK_CLIENT_SECRET = account.secret;
  await new TokenSource().token();
  for (const name of ["ISSUER", "USERNAME", "SECRET"]) delete process.env[`KEYOSK_CLIENT_${name}`];
});

test("however many callers there are, one request is sent", async () => {
  const spy = watched();
  const shared = source({ fetch: spy, audience: service });
  const tokens = await Promise.all(Array.from({ length: 100 }, () => shared.token()));
  assert.equal(new Set(tokens).size, 1);
  assert.equal(await shared.token(), tokens[0]);
  await fetch(`${url}/health/live`); // time enough for a request that should not be
  assert.equal(spy.to(TOKEN).length, 1);
});

test("a token is replaced shortly before it expires, and nobody waits for that", async () => {
  const [spy, time] = [watched(), clock()];
  const kept = source({ fetch: spy, clock: time, audience: service });
  const first = await kept.token();
  time.ahead = 830_000;
  assert.equal(await kept.token(), first);
  assert.equal(spy.to(TOKEN).length, 1);
  time.ahead = 850_000;
  spy.held = new Promise((resolve) => (spy.release = resolve));
  assert.deepEqual([await kept.token(), await kept.token()], [first, first]);
  spy.held = spy.release();
  await until(async () => (await kept.token()) !== first);
  assert.equal(spy.to(TOKEN).length, 2);
});

test("a token is used to its end while Keyosk is away, and no longer", async () => {
  const [spy, time] = [watched(), clock()];
  const kept = source({ fetch: spy, clock: time, audience: service });
  const first = await kept.token();
  spy.away = true;
  time.ahead = 890_000;
  assert.equal(await kept.token(), first);
  time.ahead = 901_000;
  await assert.rejects(kept.token(), TokenUnavailable);
});

test("a token ends when its time is over, though the system's clock was set back", async (t) => {
  const [now, steady] = [Date.now, performance.now.bind(performance)];
  const kept = source({ audience: service });
  const first = await kept.token();
  t.mock.method(Date, "now", () => now() - 3_600_000);
  t.mock.method(performance, "now", () => steady() + 901_000);
  assert.notEqual(await kept.token(), first);
});

test("a file that is not there for a moment costs nobody a token that is good", async () => {
  const [file, time] = [join(folder, "moved"), clock()];
  await writeFile(file, account.secret);
  const kept = source({ clock: time, secretFile: file });
  const first = await kept.token();
  await rm(file);
  time.ahead = 850_000;
  assert.equal(await kept.token(), first);
  time.ahead = 901_000;
  await assert.rejects(kept.token(), (error) => error instanceof LoginRefused && error.error === "no_secret");
  await writeFile(file, "\n");
  await assert.rejects(kept.token(), (error) => error.error === "no_secret");
});

test("a response without a token is no token", async () => {
  const bodies = ["{}", '{"access_token":"a"}', '{"access_token":null,"expires_in":900}', '{"access_token":"a b","expires_in":900}'];
  for (const body of [...bodies, '{"access_token":"a","expires_in":0}', '{"access_token":"a","expires_in":1e999}']) {
    const strange = async (input, init) => (String(input).endsWith(TOKEN) ? new Response(body) : fetch(input, init));
    await assert.rejects(source({ fetch: strange }).token(), (error) => error.error === "invalid_response");
  }
});

/** A Keyosk that is busy for the first requests. */
function busy(times, status, retryAfter) {
  const spy = watched();
  const asked = [];
  const fetch = async (input, init) => {
    const response = await spy(input, init);
    if (!String(input).endsWith(TOKEN)) return response;
    asked.push(performance.now());
    if (asked.length > times) return response;
    const body = JSON.stringify({ error: "temporarily_unavailable" });
    return new Response(body, { status, headers: retryAfter && { "Retry-After": retryAfter } });
  };
  return [fetch, asked];
}

for (const status of [429, 503]) {
  test(`after ${status} it waits as long as Retry-After says, and a little more`, async () => {
    const [fetch, asked] = busy(1, status, "2");
    await source({ fetch, audience: service }).token();
    assert.equal(asked.length, 2);
    assert.ok(asked[1] - asked[0] >= 1_990);
  });
}

test("it gives up in the end, at once where it would have to wait for long", async () => {
  const [fetch, asked] = busy(100, 503, "3600");
  const long = source({ fetch, audience: service });
  await assert.rejects(long.token(), (error) => error instanceof TokenUnavailable && error.retryAfter === 3600);
  assert.equal(asked.length, 1);
  const [again, tried] = busy(100, 503);
  await assert.rejects(source({ fetch: again, audience: service }).token(), TokenUnavailable);
  assert.equal(tried.length, 4);
});

test("a login that is refused is not tried again", async () => {
  const spy = watched();
  const wrong = source({ fetch: spy, secret: "kysk_wrong" });
  await assert.rejects(wrong.token(), (error) => error instanceof LoginRefused && error.error === "invalid_client");
  const greedy = source({ fetch: spy, scope: "nobody:has" });
  await assert.rejects(greedy.token(), (error) => error.error === "invalid_scope");
  assert.equal(spy.to(TOKEN).length, 2);
});

test("no secret is in what is printed", async () => {
  const kept = source({ audience: service });
  const token = await kept.token();
  const failed = await source({ secret: `${account.secret}x` }).token().catch((error) => error);
  const shown = inspect([kept, failed], { depth: 9, showHidden: true }) + JSON.stringify(kept) + failed.stack;
  for (const secret of [account.secret, token, btoa(account.secret)]) assert.ok(!shown.includes(secret));
});

test("fetch sends a token, and another one where it was refused", async (t) => {
  const seen = [];
  const server = createServer((request, response) => {
    const bearer = request.headers.authorization;
    const refused = seen.length > 0 && bearer === seen[0].bearer;
    let body = "";
    request.on("data", (chunk) => (body += chunk));
    request.on("end", () => {
      seen.push({ bearer, body, kind: request.headers["x-kind"] });
      response.writeHead(refused ? 401 : 200).end();
    });
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  const address = `http://127.0.0.1:${server.address().port}/`;
  const kept = source({ audience: service });
  assert.equal((await kept.fetch(address)).status, 200);
  await api("DELETE", `/accounts/${account.id}/tokens`);
  const request = new Request(address, { method: "POST", body: "text", headers: { "X-Kind": "a" } });
  assert.equal((await kept.fetch(request)).status, 200);
  assert.equal(seen.length, 3);
  assert.deepEqual(seen.slice(1).map(({ body, kind }) => [body, kind]), [["text", "a"], ["text", "a"]]);
  assert.notEqual(seen[2].bearer, seen[0].bearer);
  assert.ok(seen[2].bearer.startsWith("Bearer ey"));
});

test("a redirect does not carry the secret away", async () => {
  const modes = [];
  const redirected = async (input, init) => {
    if (!String(input).endsWith(TOKEN)) return fetch(input, init);
    modes.push(init.redirect);
    throw new TypeError("redirect");
  };
  await assert.rejects(source({ fetch: redirected }).token(), TokenUnavailable);
  assert.deepEqual([...new Set(modes)], ["error"]);
});
