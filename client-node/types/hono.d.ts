import type { Token, Verifier, VerifierOptions } from "./index.js";

declare module "hono" {
  interface ContextVariableMap {
    /** The verified token, after `keyosk.require()`. */
    token: Token;
  }
}

export class Keyosk {
  constructor(verifier: Verifier | VerifierOptions);
  readonly verifier: Verifier;
  /** Middleware that admits only tokens with all of these scopes. */
  require(...scopes: string[]): (c: any, next: () => Promise<void>) => Promise<any>;
}
