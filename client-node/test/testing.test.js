import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { createServer } from "node:http";
import { after, afterEach, beforeEach, describe, test } from "node:test";
import { Guard, InvalidToken, KeysUnavailable, TokenSource, Verifier } from "@keyosk/client";
import { FakeKeyosk } from "@keyosk/client/testing";

const options = { issuer: "https://login.example.org", audience: "todo" };
const verifier = new Verifier(options); // made before there is a FakeKeyosk, as that of a service is
after(() => verifier.close());

describe("FakeKeyosk", () => {
  let keyosk;
  beforeEach(() => (keyosk = new FakeKeyosk(options).open()));
  afterEach(() => keyosk.close());

  test("issues tokens that a verifier takes", async () => {
    const token = await verifier.verify(await keyosk.token({ scopes: ["todo:read"], username: "bob", team: "blue" }));
    assert.deepEqual([[...token.scopes], token.username, token.claims.team], [["todo:read"], "bob", "blue"]);
  });

  test("is in its place for each test anew", async () => {
    await verifier.verify(await keyosk.token());
  });

  for (const [name, claims] of Object.entries({
    "that have expired": { lifetime: -60 },
    "for another service": { aud: "billing" },
    "of another issuer": { iss: "https://elsewhere.example.org" },
  })) {
    test(`issues tokens ${name}, which are refused`, async () => {
      await assert.rejects(verifier.verify(await keyosk.token(claims)), InvalidToken);
    });
  }

  test("revokes a token at once, and no other", async () => {
    const [revoked, other] = [await keyosk.token(), await keyosk.token()];
    await verifier.verify(revoked);
    keyosk.revoke(revoked);
    await assert.rejects(verifier.verify(revoked), InvalidToken);
    await verifier.verify(other);
  });

  test("is away and comes back", async () => {
    const text = await keyosk.token();
    keyosk.available = false;
    await assert.rejects(verifier.verify(text), (error) => {
      assert.equal(error.message, "The keys of https://login.example.org cannot be fetched: FakeKeyosk is not available");
      return error instanceof KeysUnavailable;
    });
    keyosk.available = true;
    await verifier.verify(text);
  });

  test("logs in whoever asks", async () => {
    const source = new TokenSource({ issuer: options.issuer, username: "u", secret: "s", audience: "todo", scope: "todo:read" });
    assert.deepEqual([...(await verifier.verify(await source.token())).scopes], ["todo:read"]);
  });

  test("leaves other addresses to the network", async () => {
    const server = createServer((request, response) => response.end("network")).listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    const response = await fetch(`http://127.0.0.1:${server.address().port}/`);
    assert.equal(await response.text(), "network");
    server.closeAllConnections();
    server.close();
  });

  test("leaves everything as it was", async () => {
    const text = await keyosk.token();
    await verifier.verify(text);
    keyosk.close();
    const { fetch } = globalThis;
    new FakeKeyosk(options).open().close();
    assert.equal(globalThis.fetch, fetch);
    await verifier.verify(text); // with the keys that it has
    keyosk.open();
  });

  test("serves a verifier with a fetch of its own", async () => {
    const text = await keyosk.token();
    keyosk.close();
    const own = new Verifier({ ...options, fetch: keyosk.fetch });
    await own.verify(text);
    own.close();
  });
});

test("FakeKeyosk is not for production", () => {
  const before = process.env.NODE_ENV;
  process.env.NODE_ENV = "production";
  try {
    assert.throws(() => new FakeKeyosk(options), /tests only/);
  } finally {
    if (before === undefined) delete process.env.NODE_ENV;
    else process.env.NODE_ENV = before;
  }
});

test("a Guard protects a service without a framework", async () => {
  const keyosk = new FakeKeyosk(options).open();
  const admit = new Guard(verifier).admit(["todo:read"]);
  const server = createServer(async (request, response) => {
    const { token, refusal } = await admit(request.headers.authorization);
    if (refusal) return response.writeHead(refusal.status, refusal.headers).end(JSON.stringify(refusal.body));
    return response.end(token.username);
  }).listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const url = `http://127.0.0.1:${server.address().port}/`;
  const good = await fetch(url, { headers: keyosk.header(await keyosk.token({ scopes: ["todo:read"] })) });
  assert.equal(await good.text(), "alice");
  const bad = await fetch(url, { headers: keyosk.header(await keyosk.token()) });
  assert.equal(bad.status, 403);
  assert.match(bad.headers.get("WWW-Authenticate"), /scope="todo:read"/);
  assert.equal((await fetch(url)).status, 401);
  server.closeAllConnections();
  server.close();
  keyosk.close();
});

describe("What is wrong is told to who runs the service", () => {
  for (const [name, given, said] of [
    ["a misspelt option", { ...options, revocation: "required" }, /no option revocation/],
    ["texts, as in Python", "https://login.example.org", /no option 0; write \{ issuer, audience/],
    ["no audience", { issuer: options.issuer }, /^audience must be/],
    ["no type", { ...options, typ: "" }, /^typ must be/],
  ]) {
    test(name, () => assert.throws(() => new Verifier(given), { name: "TypeError", message: said }));
  }

  test("another issuer, once", async () => {
    const keyosk = new FakeKeyosk(options);
    const fetch = (input, init) => keyosk.fetch(String(input).replace("localhost", "login.example.org"), init);
    const wrong = new Verifier({ issuer: "https://localhost/", audience: "todo", fetch, revocations: "off" });
    const said = "https://localhost/ calls itself https://login.example.org; the issuer must be that very text";
    const warnings = [];
    const note = ({ name, message }) => name === "KeyoskWarning" && warnings.push(message);
    process.on("warning", note);
    const [warned] = await Promise.all([once(process, "warning"), assert.rejects(wrong.start(), { message: `The keys of https://localhost/ cannot be fetched: ${said}` })]);
    assert.equal(warned[0].message, `Keys or revocations cannot be fetched: ${said}`);
    await assert.rejects(wrong.start(), KeysUnavailable);
    wrong.close();
    process.off("warning", note);
    assert.deepEqual(warnings, [warned[0].message]);
  });

  test("a refused request, with NODE_DEBUG", () => {
    const script = `
      import { Guard } from "@keyosk/client";
      import { FakeKeyosk } from "@keyosk/client/testing";
      const keyosk = new FakeKeyosk(${JSON.stringify(options)}).open();
      const { refusal } = await new Guard({ ...${JSON.stringify(options)}, fetch: keyosk.fetch }).admit([])("Bearer " + (await keyosk.token({ aud: "billing" })));
      console.log(refusal.body.error_description);
      process.exit();
    `;
    const ran = (environment) => execFileSync("sh", ["-c", '"$0" --input-type=module -e "$1" 2>&1', process.execPath, script], { env: { ...process.env, ...environment } }).toString();
    assert.equal(ran({ NODE_DEBUG: "" }), "The token is not valid.\n");
    assert.match(ran({ NODE_DEBUG: "keyosk" }), /refused a request: The token is not valid: unexpected "aud" claim value/);
  });
});
