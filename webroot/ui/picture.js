/** The picture on the stage: self view and its tools. */

import { Camera } from "../lib/video/camera.js";
import { h } from "./h.js";
import { icon } from "./icons.js";
import { settings } from "./shell.js";
import { setLabel } from "./text.js";
import { toast } from "./toast.js";

/** @typedef {"flip"|"isHd"|"captions"|"talk"|"full"} Tool */

/** Icon, name when off, name when on. @type {Record<Tool, [string, string, string]>} */
const TOOLS = {
  flip: ["flip", "omni.flip", "omni.flip"],
  isHd: ["hd", "omni.hd_on", "omni.hd_off"],
  captions: ["captions", "omni.captions_on", "omni.captions_off"],
  talk: ["chat", "omni.talk_on", "omni.talk_off"],
  full: ["expand", "omni.full_on", "omni.full_off"],
};

export class Picture {
  #video = h("video", { class: "self-view", label: "omni.preview", attrs: { playsinline: true, tabindex: "-1" }, props: { muted: true, disablePictureInPicture: true } });
  /** @type {Map<Tool, HTMLButtonElement>} */ #tools = new Map();
  camera = new Camera(this.#video);
  tools = h("div", { class: "picture-tools", label: "omni.tools", attrs: { role: "group" } });

  /** @param {Record<Tool, () => void>} actions */
  constructor(actions) {
    for (const tool of /** @type {Tool[]} */ (Object.keys(TOOLS))) {
      const button = h("button", { class: `picture-tool tool-${tool}`, icon: TOOLS[tool][0], label: TOOLS[tool][1], on: { click: actions[tool] } });
      this.#tools.set(tool, button);
      this.tools.append(button);
    }
    this.element = h("div", { class: "picture" }, this.#video, h("div", { class: "picture-shade" }));
    this.#follow();
  }

  /** Say whether *tool* is on. @param {Tool} tool @param {boolean} isOn */
  mark(tool, isOn) {
    const button = /** @type {HTMLButtonElement} */ (this.#tools.get(tool));
    button.setAttribute("aria-pressed", String(isOn));
    setLabel(button, TOOLS[tool][isOn ? 2 : 1]);
    if (tool === "full") button.replaceChildren(icon(isOn ? "shrink" : "expand"));
  }

  /** Open the camera of the settings. Raises: SessionError. */
  async open() {
    const { cameraId, cameraFacing } = settings.value;
    await this.camera.open({ cameraId, cameraFacing });
  }

  /** The other side of a phone; the next camera of anything else. */
  async flip() {
    const cameras = await listCameras();
    const at = cameras.findIndex(({ deviceId }) => deviceId === this.camera.deviceId);
    if (hasSides()) settings.set({ cameraId: "", cameraFacing: this.camera.looksAtUser ? "environment" : "user" });
    else if (cameras.length > 1) settings.set({ cameraId: cameras[(at + 1) % cameras.length].deviceId });
  }

  #follow() {
    const camera = this.camera;
    const show = () => {
      document.body.dataset.camera = camera.isOpen ? "on" : "off";
      this.#video.classList.toggle("is-mirrored", settings.value.mirrored && camera.looksAtUser);
    };
    camera.addEventListener("open", () => (show(), void this.#countCameras()));
    camera.addEventListener("closed", show);
    camera.addEventListener("lost", () => void this.#reopen("warning.cam_lost"));
    document.addEventListener("visibilitychange", () => (camera.isPaused = document.hidden));
    settings.subscribe((values, before) => {
      show();
      const isOther = values.cameraId !== before.cameraId || values.cameraFacing !== before.cameraFacing;
      if (isOther && camera.isOpen) void this.#reopen("");
    });
  }

  /** @param {string} warning said first, if any */
  async #reopen(warning) {
    if (warning) toast(warning, { kind: "bad" });
    try {
      await (warning ? this.camera.open({}) : this.open());
    } catch {
      if (!warning) await this.#reopen("warning.cam_lost");
    }
  }

  async #countCameras() {
    const button = /** @type {HTMLButtonElement} */ (this.#tools.get("flip"));
    button.hidden = (await listCameras()).length < 2;
  }
}

async function listCameras() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices.filter(({ kind }) => kind === "videoinput");
}

/** Phones and tablets name their cameras by side; their lists hold several lenses of each. */
function hasSides() {
  return matchMedia("(pointer: coarse)").matches;
}
