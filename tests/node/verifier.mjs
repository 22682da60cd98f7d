// jose as a long-running service has it: a token a line in, "ok" or the code of its error a line out. Its
// own cooldown keeps it from looking again for a key that it does not know.
import * as readline from "node:readline";
import * as jose from "jose";

const { jwks, issuer, cacheMaxAge } = JSON.parse(process.argv[2]);
const keys = jose.createRemoteJWKSet(new URL(jwks), { cacheMaxAge });

for await (const token of readline.createInterface({ input: process.stdin })) {
  try {
    // Expiry is not what this is about.
    await jose.jwtVerify(token, keys, { issuer, clockTolerance: 3600 });
    console.log("ok");
  } catch (error) {
    console.log(error.code);
  }
}
