// Tokens forged by the classes of RFC 8725 (tests/test_forged.py makes them), and Wycheproof's vectors.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { InvalidToken, Verifier } from "@keyosk/client";
import { examples, url } from "./keyosk.js";

const { audience, good, forged, vectors } = JSON.parse(await readFile(examples, "utf8"));

async function accepts(verifier, token) {
  try {
    await verifier.verify(token);
    return true;
  } catch (error) {
    assert.ok(error instanceof InvalidToken, error);
    return false;
  }
}

/**
 * What is signed by the right key and is for Keyosk's own API to refuse: other libraries accept it too. Unknown
 * members are ignored (RFC 7515 section 4), of two with the same name the last one counts (the same section), and
 * only some claims are of interest to a service.
 */
const LAWFUL = [
  / by the right key$/, /^(zip|cty)$/, /^typ 'application\/at\+jwt'$/, /twice/, /^padding in the middle$/,
  /^claims \{'(jti|amr|auth_time|act|key_id)'/, /^claims \{'amr'.*key_id/, /^claims \{'sub'/, /^claims \{'scope': (None|\.\.\.|Ellipsis)/,
  /^long /,
];

test("no forgery passes", async () => {
  const verifier = new Verifier({ issuer: url, audience, leeway: 0 });
  for (const token of good) assert.ok(await accepts(verifier, token));
  const passed = [];
  for (const [name, token] of Object.entries(forged)) if (await accepts(verifier, token)) passed.push(name);
  assert.ok(Object.keys(forged).length > 250);
  assert.deepEqual(passed.filter((name) => !LAWFUL.some((each) => each.test(name))), []);
  verifier.close();
});

/** Whether the signature of a JWS is accepted: the claims of a vector never are. */
async function signs(keys, jws) {
  const fetch = async (input) => Response.json(String(input).includes("jwks") ? keys : { issuer: url });
  const verifier = new Verifier({ issuer: url, audience, fetch, revocations: "off" });
  const { name, cause } = await verifier.verify(jws).catch((error) => error);
  verifier.close();
  assert.ok(["InvalidToken", "KeysUnavailable"].includes(name), name);
  return ["ERR_JWT_INVALID", "ERR_JWT_CLAIM_VALIDATION_FAILED"].includes(cause?.code);
}

/** Weak keys, which Keyosk does not import, and a signature by PS384 with a key for PS256. */
const EXCEPT = ["rejectsKeyWithRocaVulnerability", "rejectsPublicExponent1", "Figure20"];

test("Wycheproof: signatures are accepted that are right and of an algorithm of Keyosk, and no others", async () => {
  const OURS = ["ES256", "RS256", "PS256", "EdDSA"];
  const wrong = [];
  let asked = 0;
  for (const file of vectors) {
    for (const { public: open, private: closed, tests } of JSON.parse(await readFile(file, "utf8")).testGroups) {
      const keys = (open ?? closed).keys ?? [open ?? closed];
      const areOurs = open !== undefined && keys.every(({ alg }) => OURS.includes(alg));
      for (const { jws, result, comment, tcId } of tests) {
        asked += 1;
        const taken = await signs({ keys }, jws);
        if (taken !== (areOurs && result === "valid") && !EXCEPT.includes(comment)) wrong.push(`${tcId} ${comment} ${result}`);
      }
    }
  }
  assert.ok(asked > 400, asked);
  assert.deepEqual(wrong, []);
});
