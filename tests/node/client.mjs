// What openid-client and jose, as users have them, make of a Keyosk: JSON in by the first argument, JSON
// out on standard output. Secrets come by the environment.
import * as client from "openid-client";
import * as jose from "jose";

const { issuer, username, scope, audience } = JSON.parse(process.argv[2]);
const secret = process.env.SECRET;
const found = {};

for (const algorithm of ["oidc", "oauth2"]) {
  const config = await client.discovery(
    new URL(issuer),
    username,
    undefined,
    client.ClientSecretBasic(secret),
    { algorithm, execute: [client.allowInsecureRequests] },
  );
  const token = await client.clientCredentialsGrant(config, { scope, resource: audience });
  const keys = jose.createRemoteJWKSet(new URL(config.serverMetadata().jwks_uri));
  const options = { issuer, audience, typ: "at+jwt", requiredClaims: ["exp", "sub", "jti"] };
  const { payload, protectedHeader } = await jose.jwtVerify(token.access_token, keys, options);
  const before = await client.tokenIntrospection(config, token.access_token);
  await client.tokenRevocation(config, token.access_token);
  const after = await client.tokenIntrospection(config, token.access_token);
  const offline = await client.clientCredentialsGrant(config, { scope: `${scope} offline_access` });
  const refreshed = await client.refreshTokenGrant(config, offline.refresh_token);
  let tampered = "accepted";
  try {
    await jose.jwtVerify(token.access_token.slice(0, -6) + "AAAAAA", keys, options);
  } catch (error) {
    tampered = error.code;
  }
  found[algorithm] = {
    payload,
    protectedHeader,
    before,
    after,
    tampered,
    scope: refreshed.scope,
    rotated: refreshed.refresh_token !== offline.refresh_token,
  };
}
console.log(JSON.stringify(found));
