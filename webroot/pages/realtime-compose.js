/** Events written by hand: a template, JSON, and a button. */

import { h } from "../ui/h.js";
import { setText } from "../ui/text.js";

/** @type {Record<import("../lib/realtime-dialects.js").DialectName, object[]>} */
const TEMPLATES = {
  r1: [{ type: "session.close", reason: "user_stop" }, { type: "session.update", session: { instructions: "" } }, { type: "input_audio_buffer.append", audio: "" }],
  r2: [{ type: "session.close", reason: "user_stop" }, { type: "session.init", payload: { system_prompt: "" } }, { type: "input.append", input: { audio: "" } }],
  openai: [
    { type: "conversation.item.create", item: { type: "message", role: "user", content: [{ type: "input_text", text: "Hello, who are you?" }] } },
    { type: "response.create" },
    { type: "response.cancel" },
    { type: "session.update", session: { type: "realtime", output_modalities: ["text"] } },
    { type: "input_audio_buffer.commit" },
  ],
};

/** @param {(event: object) => boolean} send false where there is no connection */
export function eventComposer(send) {
  const templates = h("select", { id: "template", label: "realtime.template" });
  const text = h("textarea", { id: "event", label: "realtime.own", attrs: { rows: 4, spellcheck: "false", autocapitalize: "off" } });
  const trouble = h("p", { class: "compose-trouble", attrs: { role: "alert" } });
  const button = h("button", { class: "button", id: "send-event", icon: "send", t: "realtime.send", props: { disabled: true } });
  /** @type {object[]} */ let offered = [];
  const fill = () => (text.value = JSON.stringify(offered[templates.selectedIndex] ?? {}, null, 2));
  templates.addEventListener("change", fill);
  button.addEventListener("click", () => {
    const event = parsed(text.value);
    if (!event) return setText(trouble, "realtime.no_json");
    if (!send(event)) return setText(trouble, "realtime.not_connected");
    trouble.textContent = "";
    delete trouble.dataset.i18n;
  });
  const element = h("details", { class: "compose" },
    h("summary", { t: "realtime.own" }),
    h("div", { class: "compose-body" }, templates, text, h("div", { class: "compose-foot" }, button, trouble)));
  return {
    element,
    /** @param {import("../lib/realtime-dialects.js").DialectName} dialect */
    offer: (dialect) => {
      offered = TEMPLATES[dialect];
      templates.replaceChildren(...offered.map((event) => h("option", {}, /** @type {any} */ (event).type)));
      fill();
    },
    /** @param {boolean} isConnected */
    enable: (isConnected) => (button.disabled = !isConnected),
  };
}

/** @param {string} text @returns {object|null} null for what is no JSON object */
function parsed(text) {
  try {
    const value = JSON.parse(text);
    return value !== null && typeof value === "object" && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}
