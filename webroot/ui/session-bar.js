/** The buttons of a live page, in the same order everywhere. */

import { h } from "./h.js";
import { icon } from "./icons.js";
import { setLabel, setText } from "./text.js";

/**
 * @typedef {object} BarActions
 * @property {() => void} start
 * @property {() => void} stop
 * @property {() => void} mute
 * @property {() => void} interrupt
 * @property {(() => void)|null} pause null where the mode has none
 * @property {((isOn: boolean) => void)|null} force keep the model listening; null where the mode cannot
 * @property {() => void} inspect
 */

export class SessionBar {
  #start; #stop; #mute; #pause; #interrupt; #force; #inspect;
  element;

  /** @param {BarActions} actions @param {string} startKey @param {string} [startIcon] */
  constructor(actions, startKey, startIcon = "mic") {
    this.#start = h("button", { class: "bar-start", icon: startIcon, t: startKey, id: "start", on: { click: actions.start } });
    this.#mute = barButton("mic", "bar.mute", actions.mute, "bar-mute");
    this.#pause = actions.pause ? barButton("pause", "bar.pause", actions.pause, "bar-pause") : null;
    this.#interrupt = barButton("hand", "bar.interrupt", actions.interrupt, "bar-interrupt");
    this.#force = actions.force ? barButton("ear", "bar.force", () => this.#toggleForce(actions.force), "bar-force") : null;
    this.#stop = barButton("end", "bar.end", actions.stop, "bar-stop");
    this.#inspect = barButton("sliders", "bar.settings", actions.inspect, "bar-inspect");
    this.element = h("div", { class: "session-bar", label: "bar.title", attrs: { role: "toolbar" } },
      this.#start, this.#mute, this.#pause, this.#interrupt, this.#force, this.#stop, this.#inspect);
    this.show("idle", false);
  }

  /** @param {import("../lib/session.js").State} state @param {boolean} isMuted */
  show(state, isMuted) {
    const isLive = state === "live" || state === "paused";
    const isStarting = ["permission", "connecting", "queued", "preparing"].includes(state);
    this.#start.hidden = isLive || isStarting || state === "ending";
    this.#stop.hidden = !(isLive || isStarting);
    this.#mute.hidden = this.#interrupt.hidden = !isLive;
    if (this.#pause) this.#pause.hidden = !isLive;
    if (this.#force) this.#force.hidden = !isLive;
    if (!isLive) this.#force?.setAttribute("aria-pressed", "false");
    this.#interrupt.disabled = state !== "live";
    relabel(this.#stop, "end", isStarting ? "action.cancel" : "bar.end");
    relabel(this.#mute, isMuted ? "mic_off" : "mic", isMuted ? "bar.unmute" : "bar.mute");
    this.#mute.setAttribute("aria-pressed", String(isMuted));
    if (this.#pause) relabel(this.#pause, state === "paused" ? "play" : "pause", state === "paused" ? "bar.resume" : "bar.pause");
  }

  /** @param {BarActions["force"]} force */
  #toggleForce(force) {
    const isOn = this.#force?.getAttribute("aria-pressed") !== "true";
    this.#force?.setAttribute("aria-pressed", String(isOn));
    force?.(isOn);
  }

  /** @param {boolean} isSpeaking the model is heard: interrupting makes sense */
  showSpeaking(isSpeaking) {
    this.#interrupt.classList.toggle("is-hot", isSpeaking);
  }

  /** @param {boolean} isOpen */
  showInspector(isOpen) {
    this.#inspect.setAttribute("aria-expanded", String(isOpen));
  }
}

/** @param {string} iconName @param {string} key @param {() => void} onClick @param {string} className */
function barButton(iconName, key, onClick, className) {
  return h("button", { class: `bar-button ${className}`, label: key, on: { click: onClick } },
    h("span", { class: "bar-disc", icon: iconName }), h("span", { class: "bar-text", t: key, attrs: { "aria-hidden": "true" } }));
}

/** @param {HTMLElement} button @param {string} iconName @param {string} key */
function relabel(button, iconName, key) {
  /** @type {Element} */ (button.firstElementChild).replaceChildren(icon(iconName));
  setText(/** @type {Element} */ (button.lastElementChild), key);
  setLabel(button, key);
}
