import type { Token, Verifier, VerifierOptions } from "./index.js";

declare module "fastify" {
  interface FastifyRequest {
    /** The verified token, after `keyosk.require()`. */
    token?: Token;
  }
}

export class Keyosk {
  constructor(verifier: Verifier | VerifierOptions);
  readonly verifier: Verifier;
  /** Route options that admit only tokens with all of these scopes. */
  require(...scopes: string[]): { onRequest: (request: any, reply: any) => Promise<unknown> };
}
