import { CachedValue, getJson } from "./documents.js";
import { RevocationsUnavailable } from "./errors.js";

const CLAIMS = ["jti", "sub", "key_id", "aud", "kid"];
const LONGEST = 64_000_000; // bytes
const KEPT = 30; // seconds that an entry is kept after it expired, because clocks differ
const PURGE = 60_000; // milliseconds
const MISSED = 6; // intervals after which a list that is required is too old

/** The revocations that Keyosk publishes. To look one up takes the same time however many there are. */
export class Revocations extends CachedValue {
  #endpoint;
  #settings;
  #entries = new Map(); // from "claim value" to { before, expires }
  #sequence = 0;
  #etag;
  #purgedAt = -Infinity;

  constructor(endpoint, settings) {
    super(() => this.#load(), settings.elapsed);
    this.#endpoint = endpoint;
    this.#settings = settings;
  }

  /** Have the list, as far as it is required. */
  async ready() {
    const { revocations, pollInterval } = this.#settings;
    if (revocations === "off") return;
    const isRecent = await this.isReady(revocations === "required" ? pollInterval * MISSED : Infinity);
    if (isRecent || revocations !== "required") return;
    throw new RevocationsUnavailable(`The revocations of ${this.#settings.issuer} cannot be fetched`, this);
  }

  /** Return whether a token, verified before, is revoked. */
  has({ iat, sub, act, jti, key_id: keyId, aud }, kid) {
    // SECURITY: an exchanged token is in the hands of the account that acts (RFC 8693).
    const names = [`kid ${kid}`, `sub ${sub}`, `sub ${act?.sub}`, `jti ${jti}`, `key_id ${keyId}`];
    names.push(...[aud].flat().map((each) => `aud ${each}`));
    return names.some((name) => iat < (this.#entries.get(name)?.before ?? -Infinity));
  }

  async #load() {
    const { fetch, clock, pollInterval } = this.#settings;
    const url = `${await this.#endpoint("revocations_endpoint", "/auth/revocations")}?since=${this.#sequence}`;
    const { body, etag, date } = await getJson(fetch, url, { etag: this.#etag, longest: LONGEST });
    if (body !== undefined) this.#apply(body, etag);
    // SECURITY: by the clock that is behind, ours or Keyosk's. An entry that is dropped never comes back, so a clock
    // that is ahead for a moment would have what it revoked accepted once that clock is right.
    this.#purge(Math.min(clock(), Number.isNaN(date) ? Infinity : date));
    return { maxAge: pollInterval };
  }

  #apply({ sequence, since, entries }, etag) {
    if (!Number.isSafeInteger(sequence)) throw new Error("This is no list of revocations");
    const read = entries.map(readEntry);
    // With another `since` it has all entries, for example after the database was restored.
    const merged = since === this.#sequence && since > 0 ? this.#entries : new Map();
    for (const [name, { before, expires }] of read) {
      const old = merged.get(name) ?? { before, expires };
      merged.set(name, { before: Math.max(before, old.before), expires: Math.max(expires, old.expires) });
    }
    // An ETag is that of one URL.
    this.#etag = sequence === this.#sequence ? etag : undefined;
    this.#entries = merged;
    this.#sequence = sequence;
  }

  #purge(now) {
    const { elapsed, leeway } = this.#settings;
    if (elapsed() < this.#purgedAt + PURGE) return;
    this.#purgedAt = elapsed();
    const oldest = now / 1000 - KEPT - leeway;
    for (const [name, { expires }] of this.#entries) if (expires < oldest) this.#entries.delete(name);
  }
}

function readEntry(entry) {
  const claim = CLAIMS.find((name) => typeof entry[name] === "string");
  const { issued_before: before = Infinity, expires } = entry;
  if (!claim || typeof before !== "number" || typeof expires !== "number") throw new Error("This is no revocation");
  return [`${claim} ${entry[claim]}`, { before, expires }];
}
