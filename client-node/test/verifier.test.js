import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { after, before, test } from "node:test";
import { inspect, promisify } from "node:util";
import { InsufficientScope, InvalidToken, KeysUnavailable, Token, Verifier } from "@keyosk/client";
import { clock, makeAccount, makeService, until, url, watched } from "./keyosk.js";

const KEYS = "/.well-known/jwks.json";
const open = [];
let service, account, token;

before(async () => {
  service = await makeService();
  account = await makeAccount(`${service}:read`);
  token = await account.token();
});
after(() => open.forEach((each) => each.close()));

function verifier(options) {
  const made = new Verifier({ issuer: url, audience: service, ...options });
  open.push(made);
  return made;
}

/** The token with other claims or header, and the signature that it had. */
function changed(text, part, changes) {
  const parts = text.split(".");
  const value = { ...JSON.parse(Buffer.from(parts[part], "base64url")), ...changes };
  parts[part] = Buffer.from(JSON.stringify(value)).toString("base64url");
  return parts.join(".");
}

test("a token is returned as a value", async () => {
  const found = await verifier().verify(token);
  assert.ok(found instanceof Token);
  assert.equal(found.subject, account.id);
  assert.equal(found.username, account.username);
  assert.deepEqual([...found.scopes], [`${service}:read`]);
  assert.equal(found.claims.key_id, account.key);
  assert.equal(found.text, token);
  found.scopes.add(`${service}:write`);
  assert.throws(() => found.require(`${service}:write`), InsufficientScope);
});

test("printing a token does not reveal it", async () => {
  assert.ok(!inspect(await verifier().verify(token), { showHidden: false }).includes(token));
});

test("scopes are whole words", async () => {
  const found = await verifier().verify(token);
  found.require(`${service}:read`);
  for (const near of [`${service}:rea`, `${service}:reader`, "read", `${service}:READ`, `${service}:read `, ""]) {
    assert.throws(() => found.require(near), InsufficientScope, near);
  }
});

test("the token of another service, issuer or type is refused", async () => {
  const refused = (options) => assert.rejects(verifier(options).verify(token), InvalidToken);
  await refused({ audience: "another" });
  await refused({ audience: service.toUpperCase() });
  await refused({ typ: "JWT" });
  await verifier({ audience: ["another", service] }).verify(token);
});

test("metadata of another issuer is not believed", async () => {
  const other = verifier({ issuer: url.replace("127.0.0.1", "localhost") });
  await assert.rejects(other.verify(token), KeysUnavailable);
});

test("endpoints outside the issuer are not believed", async () => {
  const seen = [];
  const fake = async (input) => {
    seen.push(String(input));
    return Response.json({ issuer: url, jwks_uri: "https://attacker.invalid/keys" });
  };
  await assert.rejects(verifier({ fetch: fake }).verify(token), KeysUnavailable);
  assert.ok(seen.every((each) => each.startsWith(url)), seen);
});

test("a token has to be of now, give or take the leeway", async () => {
  const time = clock();
  const strict = verifier({ clock: time, leeway: 30 });
  await strict.verify(token);
  const { exp, iat } = (await strict.verify(token)).claims;
  time.ahead = (exp + 28) * 1000 - Date.now();
  await strict.verify(token);
  time.ahead = (exp + 31) * 1000 - Date.now();
  await assert.rejects(strict.verify(token), InvalidToken);
  time.ahead = (iat - 32) * 1000 - Date.now();
  await assert.rejects(strict.verify(token), InvalidToken);
});

test("what is too long or no token is refused without a request", async () => {
  const spy = watched();
  const fresh = verifier({ fetch: spy });
  const bad = ["", "a.b", "a.b.c.d", `${token} `, ` ${token}`, `${token}=`, `${token}\n`, "x".repeat(1e6), undefined, 1];
  for (const text of [...bad, token + "A".repeat(8_000)]) await assert.rejects(fresh.verify(text), InvalidToken);
  assert.deepEqual(spy.calls, []);
});

test("stray bits in the signature are refused", async () => {
  const letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const stray = token.slice(0, -1) + letters[letters.indexOf(token.at(-1)) ^ 1];
  await assert.rejects(verifier().verify(stray), InvalidToken);
});

test("nothing is fetched before the first token, then each document once, by name", async () => {
  const spy = watched();
  const fresh = verifier({ fetch: spy });
  await Promise.all(Array.from({ length: 50 }, () => fresh.verify(token)));
  assert.deepEqual(spy.calls.toSorted(), [
    `${KEYS}?service=${service}`,
    "/.well-known/openid-configuration",
    "/auth/revocations?since=0",
  ]);
});

test("keys are kept as long as Cache-Control says, and then fetched once for all callers", async () => {
  const [spy, time] = [watched(), clock()];
  const kept = verifier({ fetch: spy, clock: time, leeway: 1e6, revocations: "off" });
  await kept.verify(token);
  time.ahead = 290_000;
  await kept.verify(token);
  assert.equal(spy.to(KEYS).length, 1);
  time.ahead = 301_000;
  await Promise.all(Array.from({ length: 50 }, () => kept.verify(token)));
  assert.equal(spy.to(KEYS).length, 2);
});

test("keys are refreshed in the background before they expire", async () => {
  const spy = watched();
  const brief = async (input, init) => {
    const response = await spy(input, init);
    const headers = { "Cache-Control": "public, max-age=1" };
    return new Response(response.body, { status: response.status, headers });
  };
  await verifier({ fetch: brief, revocations: "off" }).verify(token);
  await until(() => spy.to(KEYS).length >= 3);
});

test("an unknown kid is looked up at most once in 30 seconds, by one caller at a time", async () => {
  const [spy, time] = [watched(), clock()];
  const wary = verifier({ fetch: spy, clock: time, leeway: 1e6, revocations: "off" });
  await wary.verify(token);
  const made = (name) => changed(token, 0, { kid: `made-up-${name}` });
  const flood = () => Promise.all(Array.from({ length: 50 }, (_, i) => assert.rejects(wary.verify(made(i)), InvalidToken)));
  await flood();
  await flood();
  assert.equal(spy.to(KEYS).length, 2);
  time.ahead = 29_000;
  await flood();
  assert.equal(spy.to(KEYS).length, 2);
  time.ahead = 31_000;
  await flood();
  assert.equal(spy.to(KEYS).length, 3);
  await wary.verify(token);
});

test("good tokens pass while Keyosk is away, until the keys are older than stated", async () => {
  const [spy, time] = [watched(), clock()];
  const kept = verifier({ fetch: spy, clock: time, leeway: 1e6, maxStale: 3_600 });
  await kept.verify(token);
  spy.away = true;
  for (const ahead of [600_000, 1_200_000, 3_500_000]) {
    time.ahead = ahead;
    await kept.verify(token);
  }
  time.ahead = 3_700_000;
  await assert.rejects(kept.verify(token), (error) => error instanceof KeysUnavailable && error.retryAfter >= 1);
  spy.away = false;
  time.ahead += 6_000;
  await kept.verify(token);
});

test("a system clock that was ahead keeps nobody from the keys once it is right", async (t) => {
  const [real, spy] = [Date.now, watched()];
  let ahead = 3_600_000;
  t.mock.method(Date, "now", () => real() + ahead);
  const late = verifier({ fetch: spy });
  spy.away = true;
  await assert.rejects(late.verify(token), KeysUnavailable);
  ahead = 0;
  spy.away = false;
  await until(() => late.verify(token).then(() => true, () => false));
});

test("nobody waits for a Keyosk that hangs while the keys may be used", async () => {
  const [spy, time] = [watched(), clock()];
  const kept = verifier({ fetch: spy, clock: time, leeway: 1e6 });
  await kept.verify(token);
  spy.away = true;
  time.ahead = 301_000;
  await kept.verify(token);
  spy.away = false;
  spy.held = new Promise(() => undefined);
  time.ahead += 10_000;
  await kept.verify(token);
  await kept.verify(token);
});

test("a token by an unknown key is not refused for good while Keyosk is away", async () => {
  const spy = watched();
  const wary = verifier({ fetch: spy });
  await wary.verify(token);
  spy.away = true;
  await assert.rejects(wary.verify(changed(token, 0, { kid: "new" })), KeysUnavailable);
  await wary.verify(token);
});

test("without keys nothing passes, and a flood does not reach Keyosk", async () => {
  const spy = watched();
  spy.away = true;
  const blind = verifier({ fetch: spy });
  for (let i = 0; i < 100; i += 1) await assert.rejects(blind.verify(token), KeysUnavailable);
  assert.ok(spy.calls.length < 10, spy.calls.length);
});

test("wrong settings are refused at the start", () => {
  const wrong = [
    { audience: undefined }, { audience: "" }, { audience: [] }, { issuer: undefined }, { issuer: "keyosk" },
    { issuer: "file:///etc" }, { revocations: "on" }, { revocations: undefined }, { leeway: -1 }, { leeway: NaN },
    { pollInterval: "x" }, { maxStale: undefined }, { typ: "" },
  ];
  for (const options of wrong) assert.throws(() => verifier(options), TypeError, JSON.stringify(options));
});

test("its timers do not keep a process alive", { timeout: 20_000 }, async () => {
  const script = `
    import { Verifier } from "@keyosk/client";
    await new Verifier({ issuer: ${JSON.stringify(url)}, audience: ${JSON.stringify(service)} }).start();
    console.log("started");`;
  const options = { cwd: import.meta.dirname };
  const { stdout } = await promisify(execFile)(process.execPath, ["--input-type=module", "-e", script], options);
  assert.equal(stdout, "started\n");
});
