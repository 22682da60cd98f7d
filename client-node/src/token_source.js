import { readFile } from "node:fs/promises";
import { setTimeout as pause } from "node:timers/promises";
import { elapsed, metadataOf } from "./documents.js";
import { LoginRefused, TokenUnavailable } from "./errors.js";

const TIMEOUT = 10_000; // milliseconds
const TOKEN = /^[\w.~+/-]+=*$/; // RFC 6750 section 2.1
const FOREVER = 2 ** 31; // seconds
const PAUSE = 5_000; // after a failure, while the last token is still good
const ATTEMPTS = 4;
const LONGEST_PAUSE = 30; // seconds
const EARLY = 60; // seconds before the end of a token, at most, at which the next one is requested

export class TokenSource {
  #options;
  #endpoint;
  #token;
  #refreshAt = -Infinity;
  #expiresAt = -Infinity;
  #pending;

  constructor(options = {}) {
    const { KEYOSK_CLIENT_ISSUER: issuer, KEYOSK_CLIENT_USERNAME: username = "" } = process.env;
    const { KEYOSK_CLIENT_SECRET: secret, KEYOSK_CLIENT_SECRET_FILE: secretFile } = process.env;
    const login = "secret" in options || "secretFile" in options ? {} : { secret, secretFile };
    this.#options = { issuer, username, ...login, fetch: (...sent) => globalThis.fetch(...sent), elapsed: options.clock ?? elapsed, ...options };
    if (!this.#options.secret === !this.#options.secretFile) throw new TypeError("Either secret or secretFile is required");
    this.#endpoint = metadataOf(this.#options);
  }

  async token() {
    const { elapsed } = this.#options;
    if (elapsed() < this.#refreshAt) return this.#token;
    const login = (this.#pending ??= this.#login().finally(() => (this.#pending = undefined)));
    // Whoever has a token that is still good does not wait for the next one, and does without it.
    if (elapsed() < this.#expiresAt) {
      login.catch(() => (this.#refreshAt = Math.min(elapsed() + PAUSE, this.#expiresAt)));
      return this.#token;
    }
    return login;
  }

  async fetch(input, init = {}) {
    const send = async (token) => {
      const headers = new Headers(init.headers ?? input.headers);
      headers.set("Authorization", `Bearer ${token}`);
      return this.#options.fetch(input instanceof Request ? input.clone() : input, { ...init, headers });
    };
    const token = await this.token();
    const response = await send(token);
    if (response.status !== 401) return response;
    // Refused before its end, for example because it was revoked: unless it is another one by now, forget it.
    if (token === this.#token) this.#refreshAt = this.#expiresAt = -Infinity;
    if (init.body instanceof ReadableStream) return response; // which was sent already
    await response.body?.cancel();
    return send(await this.token());
  }

  async #login() {
    const { elapsed, audience, scope } = this.#options;
    const form = new URLSearchParams({ grant_type: "client_credentials" });
    for (const each of [audience ?? []].flat()) form.append("audience", each);
    if (scope !== undefined) form.set("scope", [scope].flat().join(" "));
    const sent = elapsed();
    const { access_token: token, expires_in: lasts } = await this.#post(form, await this.#basic());
    const isToken = typeof token === "string" && TOKEN.test(token);
    if (!isToken || !(lasts >= 1 && lasts < FOREVER)) throw new LoginRefused("invalid_response", "There is no token in it.");
    this.#token = token;
    this.#expiresAt = sent + lasts * 1000;
    this.#refreshAt = this.#expiresAt - Math.min(EARLY, lasts / 5) * 1000;
    return token;
  }

  async #post(form, authorization) {
    for (let attempt = 1; ; attempt += 1) {
      let wait = 2 ** (attempt - 2);
      try {
        const response = await this.#options.fetch(await this.#endpoint("token_endpoint", "/auth/token"), {
          method: "POST",
          headers: { Authorization: authorization, Accept: "application/json" },
          body: form,
          redirect: "error",
          signal: AbortSignal.timeout(TIMEOUT),
        });
        if (response.status === 200) return await response.json();
        wait = Math.max(wait, Number(response.headers.get("Retry-After")) || 0);
        const { error, error_description: description } = await response.json();
        if (response.status !== 429 && response.status < 500) throw new LoginRefused(error, description);
        throw new Error(`Keyosk returned status ${response.status}: ${description}`);
      } catch (error) {
        if (error instanceof LoginRefused) throw error;
        if (attempt === ATTEMPTS || wait > LONGEST_PAUSE) {
          throw new TokenUnavailable(`No token can be fetched from ${this.#options.issuer}`, { retryAfter: wait, error });
        }
      }
      await pause(wait * 1000 * (1 + 0.5 * Math.random())); // so that not all try again at once
    }
  }

  async #basic() {
    const { username, secret, secretFile } = this.#options;
    const text = secret ?? (await read(secretFile));
    return `Basic ${Buffer.from(`${username}:${text}`).toString("base64")}`;
  }
}

/** Read a secret each time, so that it may be replaced. */
async function read(file) {
  const refuse = (why) => new LoginRefused("no_secret", `${file} ${why}.`);
  const text = await readFile(file, "utf8").catch(({ code }) => Promise.reject(refuse(`cannot be read: ${code}`)));
  const secret = text.replace(/^\ufeff/, "").trim();
  if (!secret) throw refuse("has no secret");
  return secret;
}
