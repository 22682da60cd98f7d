import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { serve } from "@hono/node-server";
import express from "express";
import Fastify from "fastify";
import { Hono } from "hono";
import { Verifier } from "@keyosk/client";
import { Keyosk as ForExpress } from "@keyosk/client/express";
import { Keyosk as ForFastify } from "@keyosk/client/fastify";
import { Keyosk as ForHono } from "@keyosk/client/hono";
import { makeAccount, makeService, url, watched } from "./keyosk.js";

let service, reader;
let written = 0; // what must not happen without the scope

before(async () => {
  service = await makeService();
  reader = await (await makeAccount(`${service}:read`)).token();
});

const listening = (server) =>
  new Promise((resolve) => server.on("listening", () => resolve(`http://127.0.0.1:${server.address().port}`)));

/** A service of each framework; it returns how to reach and how to stop it. */
const FRAMEWORKS = {
  async Express(options) {
    const [keyosk, app] = [new ForExpress(options), express()];
    app.get("/open", (request, response) => response.json({}));
    app.use("/any", keyosk.require(), (request, response) => response.json({ subject: request.token.subject }));
    app.get("/read", keyosk.require(`${service}:read`), (request, response) => response.json({ subject: request.token.subject }));
    app.post("/write", keyosk.require(`${service}:read`, `${service}:write`), (request, response) => response.json({ written: (written += 1) }));
    app.use((error, request, response, next) => response.status(500).json({ error: "ours" }) && next);
    const server = app.listen(0, "127.0.0.1");
    return [keyosk, await listening(server), () => server.close()];
  },
  async Fastify(options) {
    const [keyosk, app] = [new ForFastify(options), Fastify()];
    app.get("/open", async () => ({}));
    app.get("/any", keyosk.require(), async (request) => ({ subject: request.token.subject }));
    app.get("/read", keyosk.require(`${service}:read`), async (request) => ({ subject: request.token.subject }));
    app.post("/write", keyosk.require(`${service}:read`, `${service}:write`), async () => ({ written: (written += 1) }));
    app.setErrorHandler((error, request, reply) => reply.code(500).send({ error: "ours" }));
    return [keyosk, await app.listen({ port: 0, host: "127.0.0.1" }), () => app.close()];
  },
  async Hono(options) {
    const [keyosk, app] = [new ForHono(options), new Hono()];
    app.get("/open", (c) => c.json({}));
    app.get("/any", keyosk.require(), (c) => c.json({ subject: c.get("token").subject }));
    app.get("/read", keyosk.require(`${service}:read`), (c) => c.json({ subject: c.get("token").subject }));
    app.post("/write", keyosk.require(`${service}:read`, `${service}:write`), (c) => c.json({ written: (written += 1) }));
    app.onError((error, c) => c.json({ error: "ours" }, 500));
    const server = serve({ fetch: app.fetch, port: 0, hostname: "127.0.0.1" });
    return [keyosk, await listening(server), () => server.close()];
  },
};

for (const [name, start] of Object.entries(FRAMEWORKS)) {
  describe(name, () => {
    let base, spy, verifier, stop;

    before(async () => {
      spy = watched();
      verifier = new Verifier({ issuer: url, audience: service, fetch: spy });
      let keyosk;
      [keyosk, base, stop] = await start(verifier);
      assert.equal(keyosk.verifier, verifier);
    });
    after(async () => {
      verifier.close();
      await stop();
    });

    async function ask(path, authorization, method = "GET") {
      const headers = authorization === undefined ? {} : { Authorization: authorization };
      const response = await fetch(base + path, { method, headers });
      const { status } = response;
      return { status, challenge: response.headers.get("WWW-Authenticate"), headers: response.headers, body: await response.json() };
    }

    test("without a token it is 401 with a bare challenge", async () => {
      for (const given of [undefined, "Basic YTpi", "Token x", "Bearer", reader]) {
        const { status, challenge, body } = await ask("/read", given);
        assert.deepEqual([status, challenge], [401, `Bearer realm="${service}"`], String(given));
        assert.equal(body.error, "token_required");
      }
    });

    test("an invalid token is 401 invalid_token, and nobody learns what is wrong with it", async () => {
      for (const text of ["x", "a.b.c", `${reader}x`, `x ${reader}`, `${reader} ${reader}`, "x".repeat(9_000)]) {
        const { status, challenge, headers, body } = await ask("/read", `Bearer ${text}`);
        assert.deepEqual([status, challenge], [401, `Bearer realm="${service}", error="invalid_token"`]);
        assert.deepEqual(body, { error: "invalid_token", error_description: "The token is not valid." });
        assert.equal(headers.get("Cache-Control"), "no-store");
      }
    });

    test("whoever sends an API key is told to get a token", async () => {
      const { status, body } = await ask("/read", `Bearer kysk_${"a".repeat(38)}`);
      assert.deepEqual([status, body.error], [401, "invalid_token"]);
      assert.match(body.error_description, /^This is an API key\./);
    });

    test("a token passes, whatever the case of the scheme", async () => {
      for (const scheme of ["Bearer", "bearer", "BEARER", "Bearer "]) {
        const { status, body } = await ask("/read", `${scheme} ${reader}`);
        assert.equal(status, 200);
        assert.ok(body.subject);
      }
      assert.equal((await ask("/any", `Bearer ${reader}`)).status, 200);
      assert.equal((await ask("/open")).status, 200);
    });

    test("a token that lacks one scope is 403 with all that are required", async () => {
      const { status, challenge, body } = await ask("/write", `Bearer ${reader}`, "POST");
      const scope = `${service}:read ${service}:write`;
      const expected = `Bearer realm="${service}", error="insufficient_scope", scope="${scope}"`;
      assert.deepEqual([status, challenge, body.error], [403, expected, "insufficient_scope"]);
      assert.equal((await ask("/write", undefined, "POST")).status, 401);
      assert.equal(written, 0);
    });

    test("without keys it is 503 with Retry-After, never 401", async (t) => {
      const away = watched();
      away.away = true;
      const blind = new Verifier({ issuer: url, audience: service, fetch: away });
      const [, address, end] = await start(blind);
      t.after(end);
      t.after(() => blind.close());
      const response = await fetch(`${address}/read`, { headers: { Authorization: `Bearer ${reader}` } });
      assert.equal(response.status, 503);
      assert.match(response.headers.get("Retry-After"), /^[1-9]\d*$/);
      assert.equal(response.headers.get("WWW-Authenticate"), null);
      assert.equal((await response.json()).error, "temporarily_unavailable");
    });

    test("a defect is an error of the service, not a way in", async (t) => {
      const [, address, end] = await start({ issuer: url, audience: service, clock: () => { throw new Error("broken"); } });
      t.after(end);
      const response = await fetch(`${address}/read`, { headers: { Authorization: `Bearer ${reader}` } });
      assert.deepEqual([response.status, await response.json()], [500, { error: "ours" }]);
    });
  });
}

test("what is no scope is refused when the route is made", () => {
  const keyosk = new ForExpress({ issuer: url, audience: service });
  for (const wrong of ["", "todo:read todo:write", 'todo"', undefined, ["todo:read"], "todo\n"]) {
    assert.throws(() => keyosk.require(wrong), TypeError, String(wrong));
  }
});

test("an audience cannot break the header", async () => {
  const keyosk = new ForExpress({ issuer: url, audience: 'x", error="y\r\nSet-Cookie: z\u20ac' });
  const sent = [];
  const response = { status: () => response, set: (headers) => sent.push(headers) && response, json: () => response };
  await keyosk.require()({ headers: {} }, response, () => undefined);
  await new Promise(setImmediate);
  assert.equal(sent[0]["WWW-Authenticate"], 'Bearer realm="x, error=ySet-Cookie: z"');
});
