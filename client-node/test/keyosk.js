// A running Keyosk, which tests/test_client_node.py started, and what tests make in it.
import assert from "node:assert/strict";

const given = process.env.KEYOSK_TEST;
if (!given) throw new Error('Start these tests by "make test ARGS=tests/test_client_node.py"');
export const { url, password, examples } = JSON.parse(given);

let admin;
let number = 0;

/** Call the API as the first admin. */
export async function api(method, path, body) {
  admin ??= (await login("admin", password, { audience: "keyosk" })).access_token;
  const headers = { Authorization: `Bearer ${admin}`, "Content-Type": "application/json" };
  const response = await fetch(url + path, { method, headers, body: body && JSON.stringify(body) });
  assert.ok(response.ok, `${method} ${path}: ${response.status}`);
  return response.status === 204 ? undefined : response.json();
}

/** Log in by Basic. */
export async function login(username, secret, form = {}) {
  const headers = { Authorization: `Basic ${btoa(`${username}:${secret}`)}` };
  const response = await fetch(`${url}/auth/token`, { method: "POST", headers, body: new URLSearchParams(form) });
  assert.equal(response.status, 200);
  return response.json();
}

/** A name that no other test uses. */
export const unique = (stem) => `${stem}-${process.pid}-${(number += 1)}`;

/** A new service with the scopes `NAME:read` and `NAME:write`. */
export async function makeService(fields = {}) {
  const name = unique("node");
  await api("POST", "/services", { name, scopes: [`${name}:read`, `${name}:write`], ...fields });
  return name;
}

/** A new account that holds these scopes, with an API key. */
export async function makeAccount(...scopes) {
  const username = unique("machine");
  const { id } = await api("POST", "/accounts", { username, kind: "machine", grants: { scopes } });
  const { id: key, secret } = await api("POST", `/accounts/${id}/api-keys`, { name: "k" });
  const token = async (form) => (await login(username, secret, form)).access_token;
  return { id, username, key, secret, token };
}

/** `fetch` that counts what it is asked for, by path. `away`: as if nobody listened. */
export function watched() {
  const calls = [];
  const seen = async (input, init) => {
    const { pathname, search } = new URL(input);
    calls.push(pathname + search);
    if (seen.away) throw new TypeError("fetch failed");
    if (seen.held) await seen.held;
    return fetch(input, init);
  };
  const to = (path) => calls.filter((call) => call.startsWith(path));
  return Object.assign(seen, { calls, to, away: false });
}

/** Wait until a condition holds. */
export async function until(condition) {
  for (const end = Date.now() + 20_000; ; ) {
    if (await condition()) return;
    assert.ok(Date.now() < end, `not in time: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** A clock that a test sets. */
export function clock() {
  const now = () => Date.now() + now.ahead;
  return Object.assign(now, { ahead: 0 });
}
