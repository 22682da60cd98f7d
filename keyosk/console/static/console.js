"use strict";
// "/" goes to the search; buttons copy a secret; times until something count down. Everything works without this.
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select")) return;
  const search = document.querySelector("[data-search]");
  if (search) {
    event.preventDefault();
    search.focus();
  }
});
// A list that cannot follow says so: htmx would leave the one before.
function fail(event, said) {
  const fault = document.createElement("p");
  fault.className = "fault";
  fault.setAttribute("role", "alert");
  fault.textContent = said || "That did not work: load the page again.";
  event.detail.target.replaceChildren(fault);
}
document.addEventListener("htmx:responseError", (event) => {
  const page = new DOMParser().parseFromString(event.detail.xhr.responseText, "text/html");
  const faults = page.querySelectorAll("main .fault, main .fault + ul li");
  fail(event, Array.from(faults, (each) => each.textContent).join(" "));
});
document.addEventListener("htmx:sendError", (event) => fail(event, "Keyosk cannot be reached."));
for (const button of document.querySelectorAll("[data-copy]")) {
  if (!navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).value);
    button.textContent = "Copied";
  });
}
// As ages.py says it.
const units = [[86400, "day"], [3600, "hour"], [60, "minute"], [1, "second"]];
function left(until) {
  let seconds = Math.floor((Date.parse(until) - Date.now()) / 1000);
  if (seconds <= 0) return "over";
  const first = units.findIndex(([size]) => seconds >= size);
  const words = units.slice(first, first + 2).map(([size, unit]) => {
    const count = Math.floor(seconds / size);
    seconds %= size;
    return count && `${count} ${unit}${count === 1 ? "" : "s"}`;
  });
  return `in ${words.filter(Boolean).join(" ")}`;
}
setInterval(() => {
  for (const each of document.querySelectorAll("[data-until]")) {
    const text = left(each.dataset.until);
    if (each.textContent !== text) each.textContent = text;
  }
}, 1000);
