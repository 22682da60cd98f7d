// A stand-in for Keyosk in the tests of a service: no server, no network. See README.md.
import { decodeJwt, exportJWK, generateKeyPair, SignJWT } from "jose";
import { CachedValue } from "./src/documents.js";

const LIFETIME = 900; // seconds
// One key for the process, so that it does not matter which of several verifiers was made when.
let signing;

export class FakeKeyosk {
  /** False: as if Keyosk could not be reached. */
  available = true;
  #revoked = [];
  #restore;

  constructor({ issuer, audience }) {
    // SECURITY: whoever may make tokens may do anything.
    if (process.env.NODE_ENV === "production") throw new Error("FakeKeyosk is for tests only, and NODE_ENV is production");
    this.issuer = issuer;
    this.audience = audience;
  }

  /** Take Keyosk's place: the global `fetch` of this issuer, until `close`. */
  open() {
    if (this.#restore) throw new Error("This FakeKeyosk is open already");
    const { fetch } = globalThis;
    const isReady = Object.getOwnPropertyDescriptor(CachedValue.prototype, "isReady");
    const retryAfter = Object.getOwnPropertyDescriptor(CachedValue.prototype, "retryAfter");
    globalThis.fetch = (input, init) => {
      const isOurs = (input instanceof Request ? input.url : String(input)).startsWith(`${this.issuer}/`);
      return isOurs ? this.fetch(input, init) : fetch(input, init);
    };
    // Keys and revocations are loaded for each token, so that what a test changes is known at once.
    Object.defineProperty(CachedValue.prototype, "retryAfter", { configurable: true, get: () => 0 });
    CachedValue.prototype.isReady = async function () {
      await this.reload();
      return this.error === undefined;
    };
    this.#restore = () => {
      globalThis.fetch = fetch;
      Object.defineProperty(CachedValue.prototype, "isReady", isReady);
      Object.defineProperty(CachedValue.prototype, "retryAfter", retryAfter);
    };
    return this;
  }

  close() {
    this.#restore?.();
    this.#restore = undefined;
  }

  /** Return a signed token; other `claims` are added, or replace those it has. */
  async token({ scopes = [], subject, username = "alice", lifetime = LIFETIME, ...claims } = {}) {
    signing ??= generateKeyPair("ES256");
    const now = Math.floor(Date.now() / 1000);
    const every = {
      iss: this.issuer,
      sub: subject ?? "00000000-0000-7000-8000-000000000001",
      aud: this.audience,
      client_id: username,
      preferred_username: username,
      scope: scopes.join(" "),
      iat: now,
      exp: now + lifetime,
      auth_time: now,
      amr: ["api_key"],
      jti: crypto.randomUUID(),
      ...claims,
    };
    const { privateKey } = await signing;
    return new SignJWT(every).setProtectedHeader({ alg: "ES256", kid: "fake", typ: "at+jwt" }).sign(privateKey);
  }

  /** Return the headers for a token. */
  header(token) {
    return { Authorization: `Bearer ${token}` };
  }

  /** Revoke a token; verifiers that follow revocations know it at once. */
  revoke(token) {
    const { jti, exp } = decodeJwt(token);
    this.#revoked.push({ jti, expires: exp });
  }

  /** Respond as Keyosk, for verifiers and token sources that have a `fetch` of their own. */
  fetch = async (input, init) => {
    if (!this.available) throw new TypeError("fetch failed", { cause: new Error("FakeKeyosk is not available") });
    const request = new Request(input, init);
    const { pathname } = new URL(request.url);
    const { issuer } = this;
    if (pathname.endsWith("/.well-known/openid-configuration")) {
      const jwks_uri = `${issuer}/.well-known/jwks.json`;
      const revocations_endpoint = `${issuer}/auth/revocations`;
      return Response.json({ issuer, jwks_uri, revocations_endpoint, token_endpoint: `${issuer}/auth/token` });
    }
    if (pathname.endsWith("/.well-known/jwks.json")) {
      signing ??= generateKeyPair("ES256");
      const jwk = await exportJWK((await signing).publicKey);
      return Response.json({ keys: [{ ...jwk, kid: "fake", alg: "ES256", use: "sig" }] });
    }
    if (pathname.endsWith("/auth/revocations")) {
      return Response.json({ sequence: this.#revoked.length, since: 0, entries: this.#revoked });
    }
    if (pathname.endsWith("/auth/token")) {
      const form = new URLSearchParams(await request.text());
      const [aud, scope] = [form.get("audience") ?? this.audience, form.get("scope") ?? ""];
      const access_token = await this.token({ aud, scopes: scope.split(" ").filter(Boolean) });
      return Response.json({ access_token, token_type: "Bearer", expires_in: LIFETIME, scope });
    }
    return Response.json({ code: "not_found" }, { status: 404 });
  };
}
