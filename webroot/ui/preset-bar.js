/** Ready-made beginnings of a call: chips, one of which may be chosen; it sets instructions and voice. */

import { getPresetAudio, getPresets } from "../lib/api.js";
import { h } from "./h.js";
import { settings } from "./shell.js";

/** @typedef {import("../lib/api.js").Preset} Preset */

export class PresetBar {
  #mode; #key;
  /** @type {Preset[]} */ #presets = [];
  #chips = h("div", { class: "chips", label: "preset.title", attrs: { role: "group" } });
  #about = h("p", { class: "preset-about", attrs: { role: "status" } });
  element = h("div", { class: "preset-bar", props: { hidden: true } }, h("p", { class: "preset-title", t: "preset.title" }), this.#chips, this.#about);

  /** @param {string} mode of the presets @param {"omniPreset"} key the setting that remembers the choice */
  constructor(mode, key) {
    this.#mode = mode;
    this.#key = key;
  }

  async load() {
    this.#presets = await getPresets(this.#mode);
    this.element.hidden = !this.#presets.length;
    const buttons = this.#presets.map((preset) =>
      h("button", { class: "chip", attrs: { title: preset.description }, on: { click: () => this.#choose(preset) } }, preset.name));
    this.#chips.replaceChildren(...buttons);
    settings.subscribe((values, before) => {
      // Instructions of one's own are no preset any more.
      if (values.systemPrompt && values.systemPrompt !== before.systemPrompt) settings.set({ [this.#key]: "" });
      const { chosen } = this;
      buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(this.#presets[at] === chosen)));
      this.#about.textContent = chosen?.description ?? "";
    });
  }

  /** @returns {Preset|undefined} */
  get chosen() {
    return this.#presets.find(({ id }) => id === settings.value[this.#key]);
  }

  /** What the chosen preset adds to a session's options. */
  async options() {
    const { chosen } = this;
    if (!chosen) return {};
    const refAudio = chosen.ref_audio ? await getPresetAudio(this.#mode, chosen.id) : null;
    return { systemPrompt: chosen.system_prompt ?? "", ...(refAudio ? { refAudio } : {}) };
  }

  /** Choosing the chosen one again lets it go. @param {Preset} preset */
  #choose(preset) {
    const isChosen = this.chosen === preset;
    settings.set(isChosen ? { [this.#key]: "" } : { [this.#key]: preset.id, systemPrompt: "" });
  }
}
