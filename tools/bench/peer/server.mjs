// The fastest other system that mints tokens which a service can verify offline: oidc-provider with
// two processes, EdDSA signatures, and its one client and its secret in memory.
import cluster from 'node:cluster';
import { generateKeyPairSync } from 'node:crypto';
import { Provider } from 'oidc-provider';

const port = Number(process.env.PEER_PORT);
const secret = process.env.PEER_SECRET;

if (cluster.isPrimary) {
  const { privateKey } = generateKeyPairSync('ed25519');
  const jwk = { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'EdDSA', kid: 'bench' };
  for (let i = 0; i < 2; i += 1) cluster.fork({ PEER_JWK: JSON.stringify(jwk) });
  process.on('SIGTERM', () => process.exit(0));
} else {
  const provider = new Provider(`http://127.0.0.1:${port}`, {
    jwks: { keys: [JSON.parse(process.env.PEER_JWK)] },
    clients: [
      {
        client_id: 'bench',
        client_secret: secret,
        grant_types: ['client_credentials'],
        redirect_uris: [],
        response_types: [],
        token_endpoint_auth_method: 'client_secret_basic',
        id_token_signed_response_alg: 'EdDSA',
      },
    ],
    scopes: ['bench:read', 'bench:write'],
    features: {
      devInteractions: { enabled: false },
      clientCredentials: { enabled: true },
      resourceIndicators: {
        enabled: true,
        defaultResource: () => 'urn:bench',
        getResourceServerInfo: () => ({
          scope: 'bench:read bench:write',
          audience: 'bench',
          accessTokenFormat: 'jwt',
          accessTokenTTL: 900,
          jwt: { sign: { alg: 'EdDSA' } },
        }),
      },
    },
  });
  provider.listen(port, '127.0.0.1');
}
