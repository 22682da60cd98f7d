export * from "./errors.js";
export { Guard } from "./middleware.js";
export { TokenSource } from "./token_source.js";
export { Token, Verifier } from "./verifier.js";
