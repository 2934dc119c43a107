/** Sign-in: where the server needs a key, a browser shows it once and gets a cookie for a month. */

import { signIn } from "../lib/api.js";
import { h } from "../ui/h.js";
import { brandMark } from "../ui/icons.js";
import { settings } from "../ui/shell.js";
import { initLanguage, setText } from "../ui/text.js";

/** Where to go afterwards: a page of this server alone, whatever the address says. */
export function nextPage(search = location.search) {
  const next = new URLSearchParams(search).get("next") ?? "/";
  const url = new URL(next, location.origin);
  return url.origin === location.origin ? url.href : "/"; // a path alone may begin with two slashes
}

function form() {
  const input = h("input", {
    class: "signin-key",
    id: "key",
    attrs: { type: "password", autocomplete: "current-password", spellcheck: "false", required: true, autofocus: true, "aria-describedby": "trouble" },
  });
  const button = h("button", { class: "button primary large", t: "signin.go", icon: "arrow" });
  button.type = "submit";
  const trouble = h("p", { class: "signin-trouble", id: "trouble", attrs: { role: "alert" } });
  const element = h("form", { class: "signin-form", attrs: { autocomplete: "on" } },
    h("label", { t: "signin.key", attrs: { for: "key" } }), input, trouble, button);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    const outcome = await signIn(input.value);
    if (outcome === "signed in") return location.assign(nextPage());
    button.disabled = false;
    setText(trouble, outcome === "refused" ? "signin.wrong" : outcome === "too often" ? "signin.wait" : "signin.offline");
    input.focus();
    input.select();
  });
  return element;
}

async function main() {
  await initLanguage(settings);
  const title = document.querySelector("title");
  if (title) setText(title, "signin.title");
  document.getElementById("main")?.append(
    h("section", { class: "signin-card" },
      h("div", { class: "brand" }, brandMark(), h("span", {}, "omni")),
      h("h1", { t: "signin.headline" }),
      h("p", { class: "signin-lead", t: "signin.lead" }),
      form(),
      h("p", { class: "signin-note", icon: "info", t: "signin.note" })));
}

if (typeof document !== "undefined") void main();
