// A service of Fastify as the readme of @fastify/jwt and get-jwks has it: the status that each token gets.
import Fastify from "fastify";
import jwt from "@fastify/jwt";
import buildGetJwks from "get-jwks";

const { jwksPath, issuer, audience, tokens } = JSON.parse(process.argv[2]);
const keys = buildGetJwks({ jwksPath });
const app = Fastify();
app.register(jwt, {
  decode: { complete: true },
  secret: (request, token) => {
    const { kid, alg } = token.header;
    return keys.getPublicKey({ kid, domain: issuer, alg });
  },
  verify: { allowedIss: issuer, ...(audience ? { allowedAud: audience } : {}) },
});
app.get("/", async (request, reply) => {
  await request.jwtVerify();
  return { hello: true };
});

const statuses = [];
for (const token of tokens) {
  const answer = await app.inject({ url: "/", headers: { authorization: `Bearer ${token}` } });
  statuses.push(answer.statusCode);
}
console.log(JSON.stringify(statuses));
await app.close();
