import { importJWK } from "jose";
import { CachedValue, getJson } from "./documents.js";
import { InvalidToken, KeysUnavailable } from "./errors.js";

// SECURITY: asymmetric only. With a symmetric one a public key would be the secret (RFC 8725 section 2.1).
export const ALGORITHMS = ["ES256", "EdDSA", "Ed25519", "RS256", "PS256", "ML-DSA-44", "ML-DSA-65"];
const UNKNOWN = 30_000; // milliseconds between two fetches for keys that are unknown

/** The public keys of an issuer. */
export class KeySet extends CachedValue {
  #endpoint;
  #settings;
  #unknownAt = -Infinity;

  constructor(endpoint, settings) {
    super(() => this.#load(), settings.elapsed);
    this.#endpoint = endpoint;
    this.#settings = settings;
  }

  /** Have keys that are recent enough. */
  async ready() {
    if (!(await this.isReady(this.#settings.maxStale))) throw this.#unavailable();
  }

  /** Return the key with this id and its algorithm. */
  async find(kid) {
    if (!this.value.has(kid)) await this.#lookAgain(kid);
    const found = this.value.get(kid);
    if (found) return found;
    // It may be a new key: only Keyosk knows.
    if (this.error) throw this.#unavailable();
    throw new InvalidToken("The token is signed by an unknown key.");
  }

  async #lookAgain(kid) {
    await this.pending;
    const now = this.#settings.elapsed();
    // SECURITY: made-up key ids must not become a flood of requests to Keyosk.
    if (!this.value.has(kid) && now >= this.#unknownAt + UNKNOWN) {
      this.#unknownAt = now;
      this.reload();
    }
    await this.pending;
  }

  async #load() {
    const url = new URL(await this.#endpoint("jwks_uri", "/.well-known/jwks.json"));
    url.searchParams.set("service", this.#settings.service); // so that a rotation can wait for this service
    const { body, maxAge } = await getJson(this.#settings.fetch, url.href);
    const keys = (await Promise.all(body.keys.map(imported))).filter(Boolean);
    if (keys.length === 0) throw new Error(`${url} has no key that can be used`);
    return { value: new Map(keys), maxAge };
  }

  #unavailable() {
    return new KeysUnavailable(`The keys of ${this.#settings.issuer} cannot be fetched`, this);
  }
}

/** Import a public key for signatures; other keys are left out (RFC 7517 section 5). */
async function imported(jwk) {
  if (typeof jwk?.kid !== "string" || !ALGORITHMS.includes(jwk.alg) || (jwk.use ?? "sig") !== "sig") return undefined;
  // Not every version of Node has ML-DSA.
  const key = await importJWK(jwk, jwk.alg).catch(() => undefined);
  return key?.type === "public" && [jwk.kid, { key, algorithm: jwk.alg }];
}
