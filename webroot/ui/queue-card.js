/** Where a waiting user stands: position, countdown, progress, sound, cancel. */

import { playChime } from "../lib/audio/chimes.js";
import { QueueCountdown } from "../lib/queue.js";
import { h } from "./h.js";
import { setText } from "./text.js";
import { settings } from "./shell.js";

const RING = 2 * Math.PI * 52;
/** "You are next" sounds this often, ms. */
const NEXT_EVERY_MS = 2000;

export class QueueCard {
  #countdown = new QueueCountdown(() => performance.now());
  /** @type {any} */ #tick = 0;
  #chimedMs = 0;
  #position = h("p", { class: "queue-position" });
  #time = h("strong", { class: "queue-time" });
  #unit = h("span", { class: "queue-unit" });
  #bar;
  #sound;
  element;

  /** @param {() => void} onCancel */
  constructor(onCancel) {
    const svg = ring();
    this.#bar = /** @type {SVGCircleElement} */ (svg.lastElementChild);
    this.#sound = h("button", { class: "button quiet", icon: "speaker", t: "queue.sound_on", on: { click: () => settings.set({ chimes: !settings.value.chimes }) } });
    settings.subscribe(({ chimes }) => {
      this.#sound.setAttribute("aria-pressed", String(chimes));
      setText(/** @type {Element} */ (this.#sound.querySelector("span")), chimes ? "queue.sound_on" : "queue.sound_off");
    });
    this.element = h("section", { class: "queue-card", label: "queue.title" },
      h("div", { class: "queue-ring" }, /** @type {any} */ (svg), h("div", { class: "queue-count" }, this.#time, this.#unit)),
      h("h2", { t: "queue.title" }),
      h("div", { attrs: { role: "status" } }, this.#position),
      h("div", { class: "card-buttons" }, h("button", { class: "button", t: "action.cancel", on: { click: onCancel } }), this.#sound),
    );
  }

  /** @param {import("../lib/protocol.js").QueueMessage} message */
  update(message) {
    this.#countdown.update(message);
    const { position, queueLength } = this.#countdown.read();
    setText(this.#position, position === 1 ? "queue.next" : "queue.position", { position, total: queueLength });
    if (!this.#tick) this.#tick = setInterval(() => this.#show(), 250);
    this.#show();
  }

  /** The wait is over, one way or the other. */
  stop() {
    clearInterval(this.#tick);
    this.#tick = 0;
    this.#countdown = new QueueCountdown(() => performance.now());
  }

  #show() {
    const { position, progress, ...times } = this.#countdown.read();
    const [time, unit] = timeOf(times);
    this.#time.textContent = time;
    setText(this.#unit, unit);
    this.#bar.style.strokeDashoffset = String(RING * (1 - Math.min(1, progress)));
    document.title = `(${position}) ${this.#time.textContent} s · omni`;
    if (position !== 1 || !times.isEstimated || !settings.value.chimes || performance.now() - this.#chimedMs < NEXT_EVERY_MS) return;
    this.#chimedMs = performance.now();
    playChime("next");
  }
}

/** What is left; where the server cannot tell, as while its only worker starts, what has passed. @param {{isEstimated: boolean, waitedS: number, overtimeS: number, remainingS: number}} times */
function timeOf({ isEstimated, waitedS, overtimeS, remainingS }) {
  if (!isEstimated) return [String(waitedS), "queue.waited"];
  return overtimeS > 0 ? [`+${overtimeS}`, "queue.overtime"] : [String(remainingS), "queue.seconds"];
}

function ring() {
  const SVG = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 120 120");
  svg.setAttribute("aria-hidden", "true");
  for (const name of ["queue-track", "queue-bar"]) {
    const circle = document.createElementNS(SVG, "circle");
    for (const [key, value] of Object.entries({ cx: 60, cy: 60, r: 52, class: name })) circle.setAttribute(key, String(value));
    svg.append(circle);
  }
  /** @type {SVGElement} */ (svg.lastElementChild).style.strokeDasharray = String(RING);
  return svg;
}
