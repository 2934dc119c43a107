/** The replay of a session: sound or film, the two voices over time, and the way to any moment of it. */

import { h } from "./h.js";

const BAR_PX = 2;
const STEP_PX = 3;

export class Replay {
  /** @type {HTMLMediaElement} */ #media;
  /** @type {import("../lib/recording.js").Peaks|null} */ #peaks = null;
  #canvas = h("canvas", { class: "replay-wave", attrs: { "aria-hidden": "true" } });
  element;

  /** @param {{video: string|null, sound: string, captions: string|null}} source addresses */
  constructor({ video, sound, captions }) {
    const attrs = { controls: true, preload: "metadata", src: video ?? sound };
    this.#media = video ? h("video", { class: "replay-film", attrs: { ...attrs, playsinline: true } }) : h("audio", { class: "replay-sound", attrs });
    const caption = h("p", { class: "replay-caption", attrs: { "aria-live": "off" } });
    if (captions) this.#media.append(this.#captionTrack(captions, caption));
    this.element = h("div", { class: "replay" }, this.#media, this.#canvas, video ? null : caption);
    this.#canvas.addEventListener("click", (event) => this.seek((event.offsetX / this.#canvas.clientWidth) * this.#durationMs));
    for (const type of ["timeupdate", "seeked", "loadedmetadata"]) this.#media.addEventListener(type, () => this.#draw());
    document.addEventListener("themechange", () => this.#draw());
    new ResizeObserver(() => this.#draw()).observe(this.#canvas);
  }

  /** @param {import("../lib/recording.js").Peaks} peaks */
  showPeaks(peaks) {
    this.#peaks = peaks;
    this.#draw();
  }

  /** Go there, and play. @param {number} ms */
  seek(ms) {
    this.#media.currentTime = ms / 1000;
    void this.#media.play().catch(() => {});
  }

  /** Call *listener* with the place in ms as the replay goes on. @param {(ms: number) => void} listener */
  onMove(listener) {
    this.#media.addEventListener("timeupdate", () => listener(this.#media.currentTime * 1000));
  }

  get #durationMs() {
    const { duration } = this.#media;
    if (Number.isFinite(duration) && duration > 0) return duration * 1000;
    return this.#peaks ? (this.#peaks.user.length / this.#peaks.bins_per_s) * 1000 : 1;
  }

  /** The film has its words in its pictures already. @param {string} src @param {HTMLElement} shown */
  #captionTrack(src, shown) {
    const element = h("track", { attrs: { kind: "captions", src } });
    element.track.mode = "hidden";
    element.track.addEventListener("cuechange", () => {
      const cue = /** @type {VTTCue|undefined} */ (element.track.activeCues?.[0]);
      shown.textContent = cue ? cue.getCueAsHTML().textContent : "";
    });
    return element;
  }

  #draw() {
    const canvas = this.#canvas;
    const scale = devicePixelRatio;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width || !this.#peaks) return;
    canvas.width = width * scale;
    canvas.height = height * scale;
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));
    context.scale(scale, scale);
    const style = getComputedStyle(canvas);
    const place = (this.#media.currentTime * 1000) / this.#durationMs;
    this.#lane(context, this.#peaks.user, style.getPropertyValue("--you-bright"), -1, place);
    this.#lane(context, this.#peaks.ai, style.getPropertyValue("--ai-bright"), 1, place);
    context.globalAlpha = 1;
    context.fillStyle = style.color;
    context.fillRect(Math.round(place * width), 0, 1.5, height);
  }

  /** @param {CanvasRenderingContext2D} context @param {number[]} values @param {string} colour @param {-1|1} side @param {number} place */
  #lane(context, values, colour, side, place) {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    const bars = Math.floor(width / STEP_PX);
    context.fillStyle = colour;
    for (let bar = 0; bar < bars; bar++) {
      const from = Math.floor((bar / bars) * values.length);
      const to = Math.max(from + 1, Math.floor(((bar + 1) / bars) * values.length));
      const peak = Math.max(0, ...values.slice(from, to)) / 100;
      const length = Math.max(1, Math.sqrt(peak) * (height / 2 - 2));
      context.globalAlpha = bar / bars <= place ? 1 : 0.45;
      context.fillRect(bar * STEP_PX, side < 0 ? height / 2 - length : height / 2, BAR_PX, length);
    }
  }
}
