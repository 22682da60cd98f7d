// oidc-provider as somebody runs it: its own pages to log in, and ID tokens for one application.
import { generateKeyPairSync } from 'node:crypto';
import { createInterface } from 'node:readline';
import { Provider } from 'oidc-provider';

const { port, kid, client, redirect } = JSON.parse(process.argv[2]);
const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const provider = new Provider(`http://127.0.0.1:${port}`, {
  jwks: { keys: [{ ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'ES256', kid }] },
  clients: [
    {
      client_id: client,
      token_endpoint_auth_method: 'none',
      redirect_uris: [redirect],
      id_token_signed_response_alg: 'ES256',
    },
  ],
  cookies: { keys: ['of a test'] },
});
const server = provider.listen(port, '127.0.0.1', () => console.log('ready'));
createInterface({ input: process.stdin }).on('close', () => {
  server.closeAllConnections();
  server.close();
});
