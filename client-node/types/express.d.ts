import type { Token, Verifier, VerifierOptions } from "./index.js";

declare global {
  namespace Express {
    interface Request {
      /** The verified token, after `keyosk.require()`. */
      token?: Token;
    }
  }
}

export class Keyosk {
  constructor(verifier: Verifier | VerifierOptions);
  readonly verifier: Verifier;
  /** Middleware that admits only tokens with all of these scopes. */
  require(...scopes: string[]): (request: any, response: any, next: (error?: any) => void) => void;
}
