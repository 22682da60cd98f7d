// What users write in TypeScript: `npm run types` compiles it under the strictest settings.
import express from "express";
import Fastify from "fastify";
import { Hono } from "hono";
import { Keyosk as ForExpress } from "@keyosk/client/express";
import { Keyosk as ForFastify } from "@keyosk/client/fastify";
import { Keyosk as ForHono } from "@keyosk/client/hono";
import { FakeKeyosk } from "@keyosk/client/testing";
import { Guard, InsufficientScope, KeysUnavailable, TokenSource, Verifier } from "@keyosk/client";

const options = { issuer: "https://login.example.org", audience: "todo", revocations: "required" } as const;

const forExpress = new ForExpress(options);
express().get("/todos", forExpress.require("todo:read"), (request, response) => {
  response.json({ subject: request.token?.subject });
});

const forFastify = new ForFastify(new Verifier(options));
Fastify().get("/todos", forFastify.require("todo:read"), async (request) => ({ subject: request.token?.subject }));

const forHono = new ForHono(options);
new Hono().get("/todos", forHono.require("todo:read"), (c) => c.json({ subject: c.get("token").subject }));

const token = await new Verifier(options).verify("text");
const scopes: ReadonlySet<string> = token.scopes;
token.require("todo:read");
const email: unknown = token.claims["email"];

export function seconds(error: unknown): number | string | undefined {
  if (error instanceof KeysUnavailable) return error.retryAfter;
  return error instanceof InsufficientScope ? error.scope : undefined;
}

const source = new TokenSource({ username: "todo-backend", secretFile: "/run/secrets/todo", audience: ["billing"] });
const answer: Response = await source.fetch("https://billing.example.org/", { method: "POST", body: "{}" });

const { token: admitted, refusal } = await new Guard(options).admit(["todo:read"])(null);
const subject: string = refusal ? refusal.body.error : admitted.subject;

const fake = new FakeKeyosk({ issuer: options.issuer, audience: "todo" }).open();
const headers: HeadersInit = fake.header(await fake.token({ scopes: ["todo:read"], team: "blue" }));
new Verifier({ ...options, fetch: fake.fetch });
export { answer, email, headers, scopes, subject };

// @ts-expect-error: the audience is required
new Verifier({ issuer: "https://login.example.org" });
// @ts-expect-error: not a mode
new Verifier({ ...options, revocations: "sometimes" });
// @ts-expect-error: only a verifier makes tokens
new (token.constructor as typeof import("@keyosk/client").Token)();
