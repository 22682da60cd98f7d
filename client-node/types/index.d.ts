/** Every error of this library. */
export class KeyoskError extends Error {}
/** The request has no Bearer token. */
export class NoToken extends KeyoskError {}
/** The token is malformed, forged, expired, revoked, or not for this service. The message is for logs. */
export class InvalidToken extends KeyoskError {}
/** An API key was sent in the place of a token. Its sender may be told, as they know it. */
export class ApiKeySent extends InvalidToken {}
/** The token is valid, but lacks a scope. */
export class InsufficientScope extends KeyoskError {
  constructor(scope: string);
  /** The scopes that are required, separated by spaces. */
  readonly scope: string;
}
/** Keyosk cannot be reached, and what is known of it is too old: 503, never 401. */
export class Unavailable extends KeyoskError {
  constructor(message: string, more: { retryAfter: number; error?: unknown });
  /** Seconds after which it is worth trying again. */
  readonly retryAfter: number;
}
/** There are no public keys that are recent enough. */
export class KeysUnavailable extends Unavailable {}
/** Revocations are required, and the list is not recent enough. */
export class RevocationsUnavailable extends Unavailable {}
/** Keyosk cannot be reached to get a token, or is too busy. */
export class TokenUnavailable extends Unavailable {}
/** Keyosk issues no token for this login. */
export class LoginRefused extends KeyoskError {
  constructor(error: string, description?: string);
  /** The code of RFC 6749 section 5.2, such as `invalid_client`. */
  readonly error: string;
}

export interface Claims {
  readonly iss: string;
  readonly sub: string;
  readonly aud: string | string[];
  readonly exp: number;
  readonly iat: number;
  readonly [name: string]: unknown;
}

/** An access token (RFC 9068) that was verified. */
export class Token {
  private constructor();
  /** The id of the account (`sub`). A username may change, this does not. */
  readonly subject: string;
  /** The account's name when the token was issued. */
  readonly username: string | undefined;
  /** Who acts for the account, if somebody does (RFC 8693 section 4.1). */
  readonly act: { readonly sub: string; readonly [name: string]: unknown } | undefined;
  readonly claims: Claims;
  /** The token itself. It is a secret. */
  readonly text: string;
  readonly scopes: ReadonlySet<string>;
  /** Throws `InsufficientScope` unless the token has all of these scopes. */
  require(...scopes: string[]): void;
}

export interface VerifierOptions {
  /** Keyosk's issuer (`KEYOSK_ISSUER`), letter by letter: the `iss` of tokens. */
  issuer: string;
  /** The audience of this service, or several. */
  audience: string | readonly string[];
  /**
   * `best-effort` (the default) goes on with the list it has while Keyosk is unavailable; `required`
   * then throws `RevocationsUnavailable`, after six poll intervals; `off` accepts revoked tokens until
   * they expire.
   */
  revocations?: "required" | "best-effort" | "off";
  /** Seconds by which clocks may differ; 10 by default. */
  leeway?: number;
  /** Seconds between two requests for revocations, at most; 10 by default. */
  pollInterval?: number;
  /** Seconds that keys are used while Keyosk is unavailable; a day by default. */
  maxStale?: number;
  /** The token type of the service, if it has its own; `at+jwt` by default. */
  typ?: string;
  /** The name of the service at Keyosk, so that a rotation knows that it has the new key; the audience by default. */
  service?: string;
  /** What to fetch with, for example through a proxy. */
  fetch?: typeof globalThis.fetch;
  /** The time in milliseconds since 1970. */
  clock?: () => number;
}

/** Verifies tokens offline, with keys and revocations that it fetches in the background. */
export class Verifier {
  constructor(options: VerifierOptions);
  readonly audience: string;
  /** Fetches keys and revocations now; otherwise the first token does. Throws `Unavailable`. */
  start(): Promise<void>;
  /** Throws `InvalidToken` or `Unavailable`. */
  verify(token: string): Promise<Token>;
  /** Stops fetching in the background. */
  close(): void;
}

/** What a service responds to a request without a good token (RFC 6750). */
export interface Refusal {
  status: number;
  headers: Record<string, string>;
  body: { error: string; error_description: string };
}

/** Protects a service of any framework, or of none. */
export class Guard {
  constructor(verifier: Verifier | VerifierOptions);
  readonly verifier: Verifier;
  /** Returns a function from an `Authorization` header to the token, or to the response to its lack. */
  admit(
    scopes: readonly string[],
  ): (authorization: string | null | undefined) => Promise<{ token: Token; refusal?: never } | { token?: never; refusal: Refusal }>;
}

/** What is left out comes from `KEYOSK_CLIENT_ISSUER`, `_USERNAME`, `_SECRET` or `_SECRET_FILE`. */
export interface TokenSourceOptions {
  issuer?: string;
  /** The account. An API key alone needs none. */
  username?: string;
  /** An API key or a password. */
  secret?: string;
  /** A file with the secret, which is read for each login, so that it may be replaced. */
  secretFile?: string;
  /** The services that the tokens are for; by default all services of the account. */
  audience?: string | readonly string[];
  /** Fewer scopes than the account holds. */
  scope?: string | readonly string[];
  fetch?: typeof globalThis.fetch;
  clock?: () => number;
}

/** Gets tokens (RFC 6749 section 4.4) and keeps them until shortly before they expire. */
export class TokenSource {
  constructor(options?: TokenSourceOptions);
  /** Of all callers that need a new token, one requests it. Throws `LoginRefused` or `TokenUnavailable`. */
  token(): Promise<string>;
  /** `fetch` with a token. If the token is refused, it tries another one once. */
  fetch(input: string | URL | Request, init?: RequestInit): Promise<Response>;
}
