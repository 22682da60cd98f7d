/** What a token gets; other members are claims, which are added or replace those it has. */
export interface FakeToken {
  scopes?: readonly string[];
  /** The account's id (`sub`). */
  subject?: string;
  /** `alice` by default. */
  username?: string;
  /** Seconds; 900 by default, below zero for a token that has expired. */
  lifetime?: number;
  [claim: string]: unknown;
}

/** A stand-in for Keyosk in the tests of a service: no server, no network. */
export class FakeKeyosk {
  constructor(options: { issuer: string; audience: string });
  readonly issuer: string;
  readonly audience: string;
  /** False: as if Keyosk could not be reached. */
  available: boolean;
  /** Takes Keyosk's place: the global `fetch` of this issuer, until `close`. */
  open(): this;
  close(): void;
  /** Returns a signed token for the service. */
  token(token?: FakeToken): Promise<string>;
  /** Returns the headers for a token. */
  header(token: string): { Authorization: string };
  /** Revokes a token; verifiers that follow revocations know it at once. */
  revoke(token: string): void;
  /** Responds as Keyosk, for verifiers and token sources that have a `fetch` of their own. */
  fetch: typeof globalThis.fetch;
}
