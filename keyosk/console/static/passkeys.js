"use strict";
// Makes a passkey, or shows one (WebAuthn), and sends what the browser says of it with its form.
const bytes = (text) =>
  Uint8Array.from(atob(text.replace(/-/g, "+").replace(/_/g, "/")), (c) => c.charCodeAt(0));
const text = (buffer) =>
  btoa(String.fromCharCode(...new Uint8Array(buffer)))
    .replace(/\+/g, "-")
    .replace(/\//g, "_")
    .replace(/=+$/, "");
const described = (list) => (list || []).map((each) => ({ ...each, id: bytes(each.id) }));
for (const form of document.querySelectorAll("[data-passkey]")) {
  if (!window.PublicKeyCredential) continue;
  // Beside another way, a button of its own in the form of that.
  const own = form.querySelector("[data-by-passkey]");
  (own || form).hidden = false;
  for (const each of document.querySelectorAll("[data-no-passkey]")) each.hidden = true;
  form.addEventListener("submit", async (event) => {
    if (own && event.submitter !== own) return;
    event.preventDefault();
    const fault = document.getElementById("passkey-fault");
    const options = JSON.parse(form.dataset.options);
    const publicKey = { ...options, challenge: bytes(options.challenge) };
    if (options.user) publicKey.user = { ...options.user, id: bytes(options.user.id) };
    for (const name of ["excludeCredentials", "allowCredentials"]) {
      if (options[name]) publicKey[name] = described(options[name]);
    }
    try {
      const made = await navigator.credentials[form.dataset.passkey]({ publicKey });
      const response = {};
      for (const name of ["clientDataJSON", "attestationObject", "authenticatorData", "signature"]) {
        if (made.response[name]) response[name] = text(made.response[name]);
      }
      const { id, type } = made;
      form.elements.passkey.value = JSON.stringify({ id, rawId: text(made.rawId), type, response });
      form.submit();
    } catch (error) {
      fault.textContent = `That did not work (${error.name}). Try again.`;
      fault.hidden = false;
    }
  });
}
