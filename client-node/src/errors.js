// What can go wrong. Errors know nothing of HTTP: middleware.js maps them to responses.

export class KeyoskError extends Error {
  get name() {
    return this.constructor.name;
  }
}

export class NoToken extends KeyoskError {}

export class InvalidToken extends KeyoskError {}

/** An API key was sent in the place of a token. Its sender may be told, as they know it. */
export class ApiKeySent extends InvalidToken {}

export class InsufficientScope extends KeyoskError {
  constructor(scope) {
    super(`The token lacks a required scope: ${scope}`);
    this.scope = scope;
  }
}

export class Unavailable extends KeyoskError {
  constructor(message, { retryAfter, error }) {
    // Node's "fetch failed" has the reason in its cause.
    super(`${message}: ${error?.cause?.message ?? error?.message}`, { cause: error });
    this.retryAfter = Math.max(1, Math.ceil(retryAfter));
  }
}

export class KeysUnavailable extends Unavailable {}

export class RevocationsUnavailable extends Unavailable {}

export class TokenUnavailable extends Unavailable {}

export class LoginRefused extends KeyoskError {
  constructor(error, description) {
    super(`${error}: ${description}`);
    this.error = error;
  }
}
