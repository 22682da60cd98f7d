// What a service returns to whoever may not pass: RFC 6750 section 3.
import { debuglog } from "node:util";
import { ApiKeySent, InsufficientScope, InvalidToken, NoToken, Unavailable } from "./errors.js";
import { Verifier } from "./verifier.js";

const SCOPE = /^[\x21\x23-\x5b\x5d-\x7e]+$/; // RFC 6749 section 3.3

/** What the middleware of every framework has in common. */
export class Guard {
  constructor(given) {
    this.verifier = given instanceof Verifier ? given : new Verifier(given);
  }

  /** Return a function from an `Authorization` header to `{ token }`, or to the response to its lack. */
  admit(scopes) {
    const areScopes = scopes.every((scope) => typeof scope === "string" && SCOPE.test(scope));
    if (!areScopes) throw new TypeError(`Each must be one scope: ${scopes.join(", ")}`);
    return async (authorization) => {
      try {
        const [, text] = /^Bearer +(\S.*?) *$/i.exec(authorization ?? "") ?? [];
        if (text === undefined) throw new NoToken("The request has no Bearer token.");
        if (text.startsWith("kysk_")) throw new ApiKeySent("This is an API key. Get a token with it from Keyosk, and send that.");
        const token = await this.verifier.verify(text);
        token.require(...scopes);
        return { token };
      } catch (error) {
        return { refusal: this.#refusal(error) };
      }
    };
  }

  #refusal(error) {
    debuglog("keyosk")("refused a request: %s", error.message); // with NODE_DEBUG=keyosk in the environment
    const realm = `Bearer realm="${this.verifier.audience.replace(/[^\x20-\x7e]|["\\]/g, "")}"`;
    const refuse = (status, code, description, header) => ({
      status,
      headers: { "Cache-Control": "no-store", ...header },
      body: { error: code, error_description: description },
    });
    const challenge = (parameters) => ({ "WWW-Authenticate": realm + parameters });
    // Without an error code: the client did not know yet (RFC 6750 section 3.1).
    if (error instanceof NoToken) return refuse(401, "token_required", "This needs a Bearer token.", challenge(""));
    // What is wrong with a token is for no caller to know.
    const told = error instanceof ApiKeySent ? error.message : "The token is not valid.";
    if (error instanceof InvalidToken) return refuse(401, "invalid_token", told, challenge(', error="invalid_token"'));
    if (error instanceof InsufficientScope) {
      const header = challenge(`, error="insufficient_scope", scope="${error.scope}"`);
      return refuse(403, "insufficient_scope", `This needs the scope ${error.scope}.`, header);
    }
    if (!(error instanceof Unavailable)) throw error;
    // Not 401: the token may be good, and a client would throw it away.
    const header = { "Retry-After": String(error.retryAfter) };
    return refuse(503, "temporarily_unavailable", "The token cannot be verified now.", header);
  }
}
