/** Form controls bound to a setting: slider, switch, text, choice; each with its name, hint and value. */

import { DEFAULTS, LIMITS } from "../lib/settings.js";
import { h, iconButton } from "./h.js";
import { settings } from "./shell.js";
import { onLangChange, setPlaceholder, setText } from "./text.js";

/** @typedef {keyof import("../lib/settings.js").SettingsValues} Key */

/** True where the page can choose the speaker. */
export const canChooseSpeaker = typeof AudioContext !== "undefined" && "setSinkId" in AudioContext.prototype;

let nextId = 0;

/** @param {Key} key @param {(value: any) => void} show */
function bind(key, show) {
  settings.subscribe((values) => show(values[key]));
}

/** @param {Key} key */
function resetButton(key) {
  const button = iconButton("refresh", "settings.reset", () => settings.set({ [key]: DEFAULTS[key] }), "small reset");
  bind(key, (value) => (button.hidden = value === DEFAULTS[key]));
  return button;
}

/**
 * @param {Key} key
 * @param {{step: number, unit?: string, show?: (value: number) => [string, import("../lib/i18n.js").Params]}} options
 */
export function slider(key, { step, show }) {
  const id = `control-${nextId++}`;
  const [min, max] = LIMITS[key];
  const output = h("output", { attrs: { for: id } });
  const input = h("input", { id, attrs: { type: "range", min, max, step }, on: { input: () => settings.set({ [key]: Number(input.value) }) } });
  bind(key, (value) => {
    input.value = String(value);
    input.style.setProperty("--fill", `${(100 * (value - min)) / (max - min)}%`);
    const [text, params] = show?.(value) ?? ["settings.plain", { value }];
    setText(output, text, params);
  });
  return field(key, id, h("div", { class: "control-row" }, input, output));
}

/** A delay where below 0 the server decides. @param {number} value @returns {[string, import("../lib/i18n.js").Params]} */
export const delayText = (value) => (value < 0 ? ["settings.server_default", {}] : ["settings.ms", { value }]);

/** @param {Key} key */
export function toggle(key) {
  const id = `control-${nextId++}`;
  const input = h("input", { id, class: "switch", attrs: { type: "checkbox", role: "switch" }, on: { change: () => settings.set({ [key]: input.checked }) } });
  bind(key, (value) => (input.checked = value));
  return h("div", { class: "field field-switch" },
    h("div", {}, h("label", { t: `settings.${key}`, attrs: { for: id } }), h("p", { class: "field-hint", t: `settings.${key}.hint` })),
    input,
  );
}

/** @param {Key} key */
export function textArea(key) {
  const id = `control-${nextId++}`;
  const input = h("textarea", { id, attrs: { rows: 3, maxlength: 4000 }, on: { change: () => settings.set({ [key]: input.value.trim() }) } });
  setPlaceholder(input, `settings.${key}.placeholder`);
  bind(key, (value) => (input.value = value));
  return field(key, id, input);
}

/** @param {Key} key @param {string} id @param {HTMLElement} control */
function field(key, id, control) {
  return h("div", { class: "field" },
    h("div", { class: "field-head" }, h("label", { t: `settings.${key}`, attrs: { for: id } }), resetButton(key)),
    control,
    h("p", { class: "field-hint", t: `settings.${key}.hint` }),
  );
}

/**
 * Microphone, speaker or camera choice; the names appear once the browser gave permission.
 * @param {"micId"|"speakerId"|"cameraId"} key
 * @param {"audioinput"|"audiooutput"|"videoinput"} kind
 */
export function devicePicker(key, kind) {
  const id = `control-${nextId++}`;
  const select = h("select", { id, on: { change: () => settings.set({ [key]: select.value }) } });
  const refresh = async () => {
    const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
    const named = devices.filter((device) => device.kind === kind && device.deviceId && device.deviceId !== "default");
    select.replaceChildren(
      h("option", { t: "settings.device_default", props: { value: "" } }),
      ...named.map(({ deviceId, label }) => h("option", { props: { value: deviceId } }, label || deviceId.slice(0, 8))),
    );
    select.value = named.some(({ deviceId }) => deviceId === settings.value[key]) ? settings.value[key] : "";
  };
  navigator.mediaDevices?.addEventListener?.("devicechange", refresh);
  onLangChange(refresh);
  void refresh();
  return { element: field(key, id, select), refresh };
}
