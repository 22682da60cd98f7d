import { jwtVerify } from "jose";
import { elapsed, metadataOf } from "./documents.js";
import { InsufficientScope, InvalidToken, KeyoskError } from "./errors.js";
import { ALGORITHMS, KeySet } from "./keys.js";
import { Revocations } from "./revocations.js";

const LONGEST = 8_000; // characters; Keyosk issues no token above 6 KiB
// SECURITY: base64url has one form for each value (RFC 4648 section 3.5); libraries take others as well.
const PART = "(?:[\\w-]{4})*(?:[\\w-][AQgw]|[\\w-]{2}[AEIMQUYcgkosw048])?";
const COMPACT = new RegExp(`^${PART}\\.${PART}\\.${PART}$`);
const SECONDS = { leeway: 10, pollInterval: 10, maxStale: 86_400 };
const MODES = ["required", "best-effort", "off"];
const isText = (value) => typeof value === "string" && value !== "";

export class Token {
  #scopes;

  constructor(text, claims) {
    Object.defineProperty(this, "text", { value: text }); // not enumerable, so that logs do not have it
    this.subject = claims.sub;
    this.username = claims.preferred_username;
    this.act = claims.act;
    this.claims = claims;
    this.#scopes = new Set((claims.scope ?? "").split(" ").filter(Boolean));
    Object.freeze(this);
  }

  get scopes() {
    return new Set(this.#scopes);
  }

  require(...scopes) {
    // Whole words: "todo:write" is not in "todo:writer".
    if (!scopes.every((scope) => this.#scopes.has(scope))) throw new InsufficientScope(scopes.join(" "));
  }
}

export class Verifier {
  #settings;
  #keys;
  #revocations;

  constructor(options) {
    const fetch = (...sent) => globalThis.fetch(...sent); // that of each call, so that tests can replace it
    const names = { issuer: undefined, audience: undefined, service: undefined };
    const defaults = { ...names, revocations: "best-effort", typ: "at+jwt", fetch, clock: Date.now, ...SECONDS };
    // SECURITY: with a misspelt name, revocations would not be required.
    const unknown = Object.keys(options).find((name) => !(name in defaults));
    if (unknown !== undefined) throw new TypeError(`There is no option ${unknown}; write { issuer, audience, ... }`);
    const settings = (this.#settings = { ...defaults, elapsed: options.clock ?? elapsed, ...options });
    const wrong = Object.keys(SECONDS).find((name) => !(settings[name] >= 0));
    if (wrong !== undefined) throw new TypeError(`${wrong} must be a number of seconds`);
    if (!MODES.includes(settings.revocations)) throw new TypeError(`revocations must be one of ${MODES.join(", ")}`);
    const audiences = [settings.audience].flat();
    if (!audiences.every(isText) || audiences.length === 0) throw new TypeError("audience must be a text, or several");
    if (!isText(settings.typ)) throw new TypeError("typ must be a text");
    this.audience = audiences[0];
    settings.service ??= this.audience;
    const endpoint = metadataOf(settings);
    this.#keys = new KeySet(endpoint, settings);
    this.#revocations = new Revocations(endpoint, settings);
  }

  async start() {
    await Promise.all([this.#keys.ready(), this.#revocations.ready()]);
  }

  close() {
    this.#keys.close();
    this.#revocations.close();
  }

  async verify(text) {
    if (typeof text !== "string" || text.length > LONGEST) throw new InvalidToken("The token is too long.");
    if (!COMPACT.test(text)) throw new InvalidToken("The token is malformed.");
    await this.start();
    const { issuer, audience, typ, leeway: clockTolerance, clock } = this.#settings;
    try {
      const options = { algorithms: ALGORITHMS, issuer, audience, typ, clockTolerance, currentDate: new Date(clock()) };
      const { payload, protectedHeader } = await jwtVerify(text, (header) => this.#keyFor(header), options);
      this.#check(payload, protectedHeader);
      return new Token(text, payload);
    } catch (error) {
      if (error instanceof KeyoskError) throw error;
      throw new InvalidToken(`The token is not valid: ${error.message}.`, { cause: error });
    }
  }

  async #keyFor({ kid, alg, crit, b64 }) {
    // Keyosk uses no extensions (RFC 7515 section 4.1.11).
    const isPlain = typeof kid === "string" && crit === undefined && b64 === undefined;
    const { key, algorithm } = isPlain ? await this.#keys.find(kid) : {};
    // SECURITY: the key says what it is for, never the token (RFC 8725 section 3.1).
    if (alg !== algorithm) throw new InvalidToken("The token is not valid.");
    return key;
  }

  #check(claims, { kid }) {
    const latest = this.#settings.clock() / 1000 + this.#settings.leeway;
    // SECURITY: in JSON 1e999 is a number, here it is infinite.
    const isRight = Number.isFinite(claims.exp) && Number.isFinite(claims.iat) && claims.iat <= latest;
    const isKnown = isText(claims.sub) && typeof (claims.scope ?? "") === "string";
    if (!isRight || !isKnown) throw new InvalidToken("The token is not valid: a claim is wrong.");
    if (this.#revocations.has(claims, kid)) throw new InvalidToken("The token was revoked.");
  }
}
