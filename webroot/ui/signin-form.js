/** The form that shows the server a key. The key goes into a cookie that no script can read, and stays nowhere here. */

import { signIn } from "../lib/api.js";
import { h } from "./h.js";
import { setText } from "./text.js";

/** @param {() => void} onDone the server knows the key */
export function signInForm(onDone) {
  const input = h("input", {
    class: "signin-key",
    id: "key",
    attrs: { type: "password", autocomplete: "current-password", spellcheck: "false", required: true, autofocus: true, "aria-describedby": "trouble" },
  });
  const button = h("button", { class: "button primary large", t: "signin.go", icon: "arrow", props: { type: "submit" } });
  const trouble = h("p", { class: "signin-trouble", id: "trouble", attrs: { role: "alert" } });
  const element = h("form", { class: "signin-form", attrs: { autocomplete: "on" } },
    h("label", { t: "signin.key", attrs: { for: "key" } }), input, trouble, button);
  element.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    const outcome = await signIn(input.value);
    if (outcome === "signed in") return onDone();
    button.disabled = false;
    setText(trouble, outcome === "refused" ? "signin.wrong" : outcome === "too often" ? "signin.wait" : "signin.offline");
    input.focus();
    input.select();
  });
  return element;
}
