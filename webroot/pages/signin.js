/** Sign-in: where the server needs a key, a browser shows it once and gets a cookie for a month. */

import { h } from "../ui/h.js";
import { brandMark } from "../ui/icons.js";
import { settings } from "../ui/shell.js";
import { signInForm } from "../ui/signin-form.js";
import { initLanguage, setText } from "../ui/text.js";

/** Where to go afterwards: a page of this server alone, whatever the address says. */
export function nextPage(search = location.search) {
  const next = new URLSearchParams(search).get("next") ?? "/";
  const url = URL.canParse(next, location.origin) ? new URL(next, location.origin) : null;
  return url?.origin === location.origin ? url.href : "/"; // a path alone may begin with two slashes
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
      signInForm(() => location.assign(nextPage())),
      h("p", { class: "signin-note", icon: "info", t: "signin.note" })));
}

if (typeof document !== "undefined") void main();
