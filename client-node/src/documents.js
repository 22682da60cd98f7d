// Keyosk's public documents: how they are fetched, kept, and loaded again in the background.

const TIMEOUT = 5_000; // milliseconds
const MAX_AGE = 300; // seconds, where a response does not say
const LONGEST_AGE = 3_600;
const LONGEST_RETRY = 5; // seconds

let ahead = -Infinity;

// Milliseconds for ages: they go on where the system's clock is set back, and count the time in which the machine
// slept. Neither `Date.now` nor `performance.now` does both.
export function elapsed() {
  const steady = performance.now();
  ahead = Math.max(ahead, Date.now() - steady);
  return steady + ahead;
}

/** GET a JSON document of at most `longest` bytes. Without `body` it still has this `etag`. `date` may be NaN. */
export async function getJson(fetch, url, { etag, longest = 1_000_000 } = {}) {
  const headers = { Accept: "application/json", ...(etag && { "If-None-Match": etag }) };
  const response = await fetch(url, { headers, redirect: "error", signal: AbortSignal.timeout(TIMEOUT) });
  const date = Date.parse(response.headers.get("Date") ?? "");
  if (etag && response.status === 304) return { etag, date };
  if (response.status !== 200) throw new Error(`${url} returned status ${response.status}`);
  const decoder = new TextDecoder("utf-8", { fatal: true });
  let [text, size] = ["", 0];
  for await (const chunk of response.body) {
    size += chunk.length;
    if (size > longest) throw new Error(`${url} returned more than ${longest} bytes`);
    text += decoder.decode(chunk, { stream: true });
  }
  const body = JSON.parse(text + decoder.decode());
  const stated = /(?:^|[\s,])max-age=(\d{1,9})/i.exec(response.headers.get("Cache-Control") ?? "");
  const left = Number(stated?.[1] ?? MAX_AGE) - (Number(response.headers.get("Age")) || 0);
  // A second at least: just before a change of keys, max-age is 0.
  const maxAge = Math.min(Math.max(left, 1), LONGEST_AGE);
  return { body, etag: response.headers.get("ETag") ?? undefined, maxAge, date };
}

/** A value that is loaded when it is first needed, and then in the background before it expires. */
export class CachedValue {
  value;
  error; // of the last load
  pending; // the load that is going on; it never rejects
  #load;
  #elapsed;
  #times = { loaded: -Infinity, fresh: -Infinity, retry: -Infinity };
  #failures = 0;
  #timer;
  #inBackground;

  /** `load` returns `{ value, maxAge }`. */
  constructor(load, elapsed, { inBackground = true } = {}) {
    this.#load = load;
    this.#elapsed = elapsed;
    this.#inBackground = inBackground;
  }

  /** Seconds until the next load after one that failed. */
  get retryAfter() {
    return Math.max(0, this.#times.retry - this.#elapsed()) / 1000;
  }

  /** Return whether there is a value at most `longest` seconds old. */
  async isReady(longest = Infinity) {
    if (this.#elapsed() < this.#times.fresh) return true;
    const isUsable = () => this.#elapsed() - this.#times.loaded < longest * 1000;
    const load = this.reload();
    // While Keyosk is away nobody waits for it, as long as the last value may be used.
    if (!this.error || !isUsable()) await load;
    return isUsable();
  }

  /** Load now, unless a load is going on or has just failed. */
  reload() {
    if (this.retryAfter === 0) this.pending ??= this.#run().finally(() => (this.pending = undefined));
    return this.pending;
  }

  close() {
    this.#inBackground = false;
    clearTimeout(this.#timer);
  }

  async #run() {
    const started = this.#elapsed();
    let wait;
    try {
      const { value, maxAge } = await this.#load();
      this.value = value;
      this.error = undefined;
      this.#failures = 0;
      this.#times = { loaded: started, fresh: started + maxAge * 1000, retry: -Infinity };
      wait = maxAge * (0.8 + 0.1 * Math.random());
    } catch (error) {
      this.error = error;
      this.#failures += 1;
      // Once for each outage; requests get 503 meanwhile, or tokens pass that were revoked.
      const said = `Keys or revocations cannot be fetched: ${error.cause?.message ?? error.message}`;
      if (this.#failures === 1 && this.#inBackground) process.emitWarning(said, "KeyoskWarning");
      wait = Math.min(this.#failures, LONGEST_RETRY) * (0.8 + 0.2 * Math.random());
      this.#times.retry = this.#elapsed() + wait * 1000;
    }
    clearTimeout(this.#timer);
    // It does not keep the process alive.
    if (this.#inBackground) this.#timer = setTimeout(() => this.reload(), Math.min(wait, 86_400) * 1000 + 5).unref();
  }
}

/** Return a function that finds endpoints in the issuer's metadata (RFC 8414). */
export function metadataOf({ issuer, fetch, elapsed }) {
  if (!/^https?:\/\/[^?#]+$/.test(issuer)) throw new TypeError("issuer must be an http or https URL");
  const base = issuer.replace(/\/$/, "");
  const load = async () => {
    const { body, maxAge } = await getJson(fetch, `${base}/.well-known/openid-configuration`);
    // SECURITY: RFC 8414 section 3.3.
    if (body?.issuer !== issuer) throw new Error(`${issuer} calls itself ${body?.issuer}; the issuer must be that very text`);
    return { value: body, maxAge };
  };
  const metadata = new CachedValue(load, elapsed, { inBackground: false });
  return async (name, path) => {
    if (!(await metadata.isReady())) throw metadata.error;
    const url = String(metadata.value[name] ?? `${base}${path}`);
    // SECURITY: all endpoints are below the issuer; secrets and trust go nowhere else.
    if (!url.startsWith(`${base}/`)) throw new Error(`The metadata has a foreign ${name}`);
    return url;
  };
}
