// What no Keyosk would issue or publish, from an issuer of this test's own.
import assert from "node:assert/strict";
import { test } from "node:test";
import { CompactSign, exportJWK, generateKeyPair } from "jose";
import { InvalidToken, KeysUnavailable, Verifier } from "@keyosk/client";

const issuer = "https://login.example.org";
const { privateKey, publicKey } = await generateKeyPair("ES256", { extractable: true });
const published = { ...(await exportJWK(publicKey)), kid: "one", alg: "ES256", use: "sig" };
const now = Math.floor(Date.now() / 1000);
const CLAIMS = { iss: issuer, sub: "account", aud: "todo", jti: "token", iat: now, exp: now + 60, scope: "todo:read" };

/** A verifier of an issuer that publishes these documents. */
function verifier({ keys = [published], metadata = { issuer }, entries = [] } = {}) {
  const fetch = async (input) => {
    if (String(input).includes("/.well-known/openid-configuration")) return Response.json(metadata);
    return Response.json(String(input).includes("jwks") ? { keys } : { sequence: 1, since: 0, entries });
  };
  return new Verifier({ issuer, audience: "todo", fetch });
}

async function signed(claims, header = {}) {
  const text = typeof claims === "string" ? claims : JSON.stringify({ ...CLAIMS, ...claims });
  const signing = new CompactSign(Buffer.from(text));
  return signing.setProtectedHeader({ alg: "ES256", kid: "one", typ: "at+jwt", ...header }).sign(privateKey);
}

async function accepts(known, token) {
  try {
    await known.verify(token);
    return true;
  } catch (error) {
    assert.ok(error instanceof InvalidToken, error);
    return false;
  } finally {
    known.close();
  }
}

test("claims have to be there and of the right type", async () => {
  assert.ok(await accepts(verifier(), await signed({})));
  assert.ok(await accepts(verifier(), await signed({ scope: undefined })));
  const wrong = [
    ...["iss", "sub", "aud", "exp", "iat"].flatMap((name) => [undefined, null, [], {}, true].map((value) => ({ [name]: value }))),
    { exp: String(now + 60) }, { iat: String(now) }, { sub: "" }, { sub: 1 }, { scope: ["todo:read"] }, { scope: 1 },
    { aud: ["another"] }, { iss: [issuer] }, { iss: `${issuer}/` }, { nbf: now + 60 },
  ];
  for (const claims of wrong) assert.equal(await accepts(verifier(), await signed(claims)), false, JSON.stringify(claims));
  const text = JSON.stringify(CLAIMS);
  for (const name of ["exp", "iat"]) {
    const endless = text.replace(`"${name}":${CLAIMS[name]}`, `"${name}":${name === "iat" ? "-" : ""}1e999`);
    assert.notEqual(endless, text);
    assert.equal(await accepts(verifier(), await signed(endless)), false, endless);
  }
});

test("only public keys for signatures are keys", async () => {
  const secret = { kty: "oct", k: "c2VjcmV0", kid: "one", alg: "HS256" };
  const hidden = { ...(await exportJWK(privateKey)), kid: "one", alg: "ES256" };
  const sets = [{ ...published, use: "enc" }, { ...published, alg: undefined }, { ...published, alg: "RS256" }, secret, hidden, null, "x"];
  for (const key of sets) {
    const known = verifier({ keys: [key] });
    await assert.rejects(known.verify(await signed({})), KeysUnavailable, JSON.stringify(key));
    known.close();
    assert.ok(await accepts(verifier({ keys: [{ ...key, kid: "other" }, published] }), await signed({})));
  }
  for (const keys of [[], {}, undefined]) {
    const known = verifier({ keys: keys ?? null });
    await assert.rejects(known.verify(await signed({})), KeysUnavailable);
    known.close();
  }
});

test("metadata has to name the issuer", async () => {
  for (const named of ["https://attacker.invalid", `${issuer}/`, undefined]) {
    const known = verifier({ metadata: { issuer: named } });
    await assert.rejects(known.verify(await signed({})), KeysUnavailable);
    known.close();
  }
});

test("a document without end is not read to the end", async () => {
  let sent = 0;
  const endless = () =>
    new ReadableStream({
      pull(controller) {
        sent += 65_536;
        if (sent > 50_000_000) return controller.close();
        return controller.enqueue(new Uint8Array(65_536).fill(0x20));
      },
    });
  const fetch = async () => new Response(endless());
  const known = new Verifier({ issuer, audience: "todo", fetch, revocations: "off" });
  await assert.rejects(known.verify(await signed({})), KeysUnavailable);
  known.close();
  assert.ok(sent < 2_000_000, sent);
});

test("each kind of entry revokes the tokens that it names, and no others", async () => {
  const expires = now + 900;
  const token = await signed({ key_id: "key", aud: ["another", "todo"] });
  for (const [claim, value] of Object.entries({ jti: "token", sub: "account", key_id: "key", aud: "another", kid: "one" })) {
    const revoked = (entry) => accepts(verifier({ entries: [{ expires, ...entry }] }), token).then((taken) => !taken);
    assert.ok(await revoked({ [claim]: value }), claim);
    assert.ok(await revoked({ [claim]: value, issued_before: now + 1 }), claim);
    assert.ok(!(await revoked({ [claim]: value, issued_before: now })), claim);
    assert.ok(!(await revoked({ [claim]: `${value}x` })), claim);
  }
});
