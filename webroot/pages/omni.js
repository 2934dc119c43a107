/** Omni full duplex: a conversation in which the model sees what the camera sees. */

import { delayText, devicePicker, slider, textArea, toggle } from "../ui/controls.js";
import { FullScreen } from "../ui/fullscreen.js";
import { h, iconButton } from "../ui/h.js";
import { Picture } from "../ui/picture.js";
import { PresetBar } from "../ui/preset-bar.js";
import { settings } from "../ui/shell.js";
import { Subtitles } from "../ui/subtitles.js";
import { toast } from "../ui/toast.js";
import { startLivePage } from "./live.js";

/** The address that phones were given for a call with pictures: it fills the screen from the start. */
const FULL_PATH = "/mobile-omni";

/** @typedef {import("./live.js").LivePage} LivePage */

// Made when the texts are there: by controls() and dress().
/** @type {ReturnType<typeof devicePicker>} */ let cameras;
/** @type {PresetBar} */ let presets;
/** @type {Picture} */ let picture;
/** @type {LivePage} */ let page;
const subtitles = new Subtitles();
const full = new FullScreen((isOn) => picture.mark("full", isOn));

const actions = {
  flip: () => void picture.flip(),
  isHd: () => settings.set({ isHd: !settings.value.isHd }),
  captions: () => settings.set({ captions: !settings.value.captions }),
  talk: () => picture.mark("talk", document.body.classList.toggle("has-talk")),
  full: () => void full.toggle(),
};

/** @param {LivePage} made */
function dress(made) {
  page = made;
  picture = new Picture(actions);
  presets = new PresetBar("omni", "omniPreset");
  const { stage } = page;
  stage.prepend(picture.element);
  stage.querySelector(".stage-top")?.append(picture.tools);
  stage.querySelector(".stage-words")?.before(h("div", { class: "picture-art", icon: "video" }));
  stage.querySelector(".stage-hint")?.after(
    h("button", { class: "button on-picture", icon: "video", t: "omni.show_camera", id: "show-camera", on: { click: () => void showCamera() } }),
    presets.element);
  stage.querySelector(".lanes")?.before(h("div", { class: "speaker-row" }, page.orb.element, subtitles.element));
  page.keys = { f: actions.full, c: actions.captions, h: actions.isHd };
  document.querySelector(".talk-tools")?.append(iconButton("close", "action.close", actions.talk, "small talk-close"));
  page.escape = escape;
  page.addEventListener("session", (event) => follow(/** @type {CustomEvent} */ (event).detail));
  page.addEventListener("show", (event) => onShow(/** @type {CustomEvent} */ (event).detail));
  page.addEventListener("defaults", (event) => void onDefaults(/** @type {CustomEvent} */ (event).detail));
  picture.camera.addEventListener("open", () => void cameras.refresh());
  settings.subscribe(({ isHd, captions }) => {
    picture.mark("isHd", isHd);
    picture.mark("captions", captions);
    document.body.classList.toggle("has-captions", captions);
    if (page.session) /** @type {any} */ (page.session).isHd = isHd;
  });
  if (location.pathname.startsWith(FULL_PATH)) full.fill();
  void presets.load();
}

/** Escape closes what lies over the page, the sheet first. */
function escape() {
  const hasSheet = document.body.classList.contains("has-talk");
  if (hasSheet) actions.talk();
  else if (full.isOn) full.leave();
  else return false;
  return true;
}

/** @param {EventTarget} session */
function follow(session) {
  subtitles.clear();
  const on = (/** @type {string} */ type, /** @type {(detail: any) => void} */ run) =>
    session.addEventListener(type, (event) => run(/** @type {CustomEvent} */ (event).detail));
  on("caption", (caption) => subtitles.aiSays(caption));
  on("user", ({ text }) => subtitles.userSaid(text));
  on("warning", ({ code }) => code === "slow_pictures" && toast("warning.slow_pictures", { kind: "bad" }));
}

/** A camera that nobody needs any more is switched off. @param {{session: any}} shown */
function onShow({ session }) {
  if (session?.isOver) picture.camera.close();
}

/** @param {import("../lib/protocol.js").FrontendDefaults} defaults */
async function onDefaults({ engine, model_name, vision, modes, recording }) {
  if (recording) page.stage.querySelector(".stage-words")?.append(h("p", { class: "record-note", icon: "info", t: "omni.recorded" }));
  page.isBlocked = Boolean(engine) && (vision === false || modes?.includes("omni_duplex") === false);
  document.body.classList.toggle("is-blind", page.isBlocked);
  if (page.isBlocked) {
    full.leave();
    page.stage.querySelector(".stage-center")?.append(blindCard(model_name || engine || ""));
  }
  if (!page.isBlocked && settings.value.camExplained && (await isAllowed())) await showCamera();
}

/** @param {string} name of the model */
function blindCard(name) {
  return h("section", { class: "stage-card blind-card", attrs: { role: "status" } },
    h("div", { class: "card-icon", icon: "video_off" }),
    h("h1", { t: "omni.blind.title" }),
    h("p", { t: ["omni.blind.text", { name }] }),
    h("div", { class: "card-buttons" },
      h("a", { class: "button primary", icon: "wave", t: "omni.blind.audio", attrs: { href: "/audio_duplex" } }),
      h("a", { class: "button", icon: "chat", t: "nav.chat", attrs: { href: "/turnbased" } })));
}

/** Before the call: to see oneself, and choose a camera. */
async function showCamera() {
  if (page.isBlocked || !(await page.explain())) return;
  try {
    await picture.open();
  } catch (cause) {
    toast(`error.${/** @type {any} */ (cause).code ?? "unknown"}.title`, { kind: "bad" });
  }
}

/** True when the camera opens without a question. Browsers that do not tell: false. */
async function isAllowed() {
  try {
    return (await navigator.permissions.query({ name: /** @type {any} */ ("camera") })).state === "granted";
  } catch {
    return false;
  }
}

void startLivePage({
  name: "omni",
  icon: "video",
  loadSession: async () => (await import("../lib/omni.js")).OmniSession,
  canPause: true,
  canForce: true,
  permission: { icon: "video", text: "omni.permission", seen: "camExplained" },
  parts: () => ({ camera: picture.camera }),
  examples: ["omni.example1", "omni.example2", "omni.example3"],
  numbers: ["frames", "frame", "vision"],
  options: async () => {
    const { systemPrompt, clientBargeIn, lengthPenalty, isHd, cameraId, cameraFacing } = settings.value;
    const preset = await presets.options();
    return { clientBargeIn, lengthPenalty, isHd, cameraId, cameraFacing, ...preset, ...(systemPrompt ? { systemPrompt } : {}) };
  },
  controls: () => [
    (cameras = devicePicker("cameraId", "videoinput")).element,
    toggle("mirrored"),
    toggle("isHd"),
    slider("volume", { step: 0.05, show: (value) => ["settings.percent", { value: Math.round(value * 100) }] }),
    textArea("systemPrompt"),
    slider("lengthPenalty", { step: 0.05 }),
    toggle("clientBargeIn"),
    toggle("echoCancellation"),
    slider("playbackDelayMs", { step: 50, show: delayText }),
    toggle("chimes"),
    toggle("singleKeys"),
  ],
  keys: [
    ["Ctrl Enter", "keys.start"], ["Space", "keys.hold"], ["M", "keys.mute"], ["P", "keys.pause"], ["F", "keys.full"],
    ["C", "keys.captions"], ["H", "keys.hd"], ["Esc Esc", "keys.end"], ["?", "keys.help"],
  ],
  dress,
});
