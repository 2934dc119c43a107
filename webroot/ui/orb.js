/** The shape in the middle of the stage: a ring that hears, a body that speaks. Colours come from the tokens. */

const FRAME_MS = 1000 / 30;
const POINTS = 72;
/** How far the outline swings, how full the body is, and which colour leads, by mood. */
const MOODS = {
  idle: { swing: 0.04, fill: 0.1, speed: 0.35, color: "--you-bright" },
  waiting: { swing: 0.05, fill: 0.12, speed: 0.9, color: "--ai-bright" },
  listening: { swing: 0.045, fill: 0.14, speed: 0.6, color: "--you-bright" },
  speaking: { swing: 0.075, fill: 0.55, speed: 1.2, color: "--ai-bright" },
  paused: { swing: 0.01, fill: 0.06, speed: 0.15, color: "--line-strong" },
  failed: { swing: 0.01, fill: 0.08, speed: 0.1, color: "--bad-fill" },
};

/** @typedef {keyof typeof MOODS} Mood */

export class Orb {
  #canvas; #context; #isStill; #time = 0; #lastMs = 0; #level = 0; #target = 0;
  /** @type {Mood} */ #mood = "idle";
  #look = { swing: 0.035, fill: 0.1, speed: 0.35, rgb: [128, 128, 128] };
  /** @type {Map<string, number[]>} */ #colors = new Map();

  /** @param {string} [className] */
  constructor(className = "orb") {
    this.#canvas = document.createElement("canvas");
    this.#canvas.className = className;
    this.#canvas.setAttribute("aria-hidden", "true");
    this.#context = /** @type {CanvasRenderingContext2D} */ (this.#canvas.getContext("2d"));
    this.#isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const forget = () => this.#colors.clear();
    document.addEventListener("themechange", forget);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", forget);
    requestAnimationFrame((now) => this.#loop(now));
  }

  get element() {
    return this.#canvas;
  }

  /** @param {Mood} mood */
  setMood(mood) {
    this.#mood = mood;
    if (mood !== "listening" && mood !== "speaking") this.#target = 0;
  }

  /** @param {number} level 0..1 of what sounds now */
  setLevel(level) {
    this.#target = Math.min(1, Math.sqrt(Math.max(0, level)));
  }

  /** @param {number} now */
  #loop(now) {
    requestAnimationFrame((next) => this.#loop(next));
    if (!this.#canvas.isConnected || document.hidden || now - this.#lastMs < FRAME_MS) return;
    this.#step(Math.min(0.1, (now - this.#lastMs) / 1000));
    this.#lastMs = now;
    this.#draw();
  }

  /** @param {number} seconds */
  #step(seconds) {
    const mood = MOODS[this.#mood];
    const ease = (/** @type {number} */ from, /** @type {number} */ to, rate = 6) => from + (to - from) * (1 - Math.exp(-rate * seconds));
    this.#level = ease(this.#level, this.#target, this.#target > this.#level ? 18 : 7);
    this.#look.swing = ease(this.#look.swing, mood.swing);
    this.#look.fill = ease(this.#look.fill, mood.fill);
    this.#look.speed = ease(this.#look.speed, mood.speed);
    this.#look.rgb = this.#color(mood.color).map((to, i) => ease(this.#look.rgb[i], to, 5));
    if (!this.#isStill) this.#time += seconds * (this.#look.speed + this.#level);
  }

  #draw() {
    const { width, height } = this.#fit();
    const context = this.#context;
    context.clearRect(0, 0, width, height);
    // Of the half width: halo, layers, swing and level together stay inside the canvas.
    const radius = Math.min(width, height) * 0.29 * (1 + 0.14 * this.#level);
    this.#halo(width / 2, height / 2, radius, Math.min(width, height) / 2);
    for (let layer = 2; layer >= 0; layer -= 1) this.#layer(width / 2, height / 2, radius, layer);
  }

  /** @param {number} x @param {number} y @param {number} radius @param {number} reach */
  #halo(x, y, radius, reach) {
    const glow = this.#context.createRadialGradient(x, y, radius * 0.5, x, y, reach);
    glow.addColorStop(0, this.#rgba(0.1 + 0.22 * this.#level));
    glow.addColorStop(1, this.#rgba(0));
    this.#context.fillStyle = glow;
    this.#context.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
  }

  /** @param {number} x @param {number} y @param {number} radius @param {number} layer */
  #layer(x, y, radius, layer) {
    const context = this.#context;
    const size = radius * (1 + layer * (0.06 + 0.05 * this.#level));
    this.#outline(x, y, size, layer);
    const body = context.createRadialGradient(x - size * 0.3, y - size * 0.4, size * 0.1, x, y, size * 1.1);
    body.addColorStop(0, this.#rgba(this.#look.fill * (layer ? 0.35 : 0.55)));
    body.addColorStop(1, this.#rgba(this.#look.fill * (layer ? 0.3 : 1.25)));
    context.fillStyle = body;
    context.fill();
    context.lineWidth = (layer ? 1 : 2.5) * devicePixelRatio;
    context.strokeStyle = this.#rgba(layer ? 0.22 - 0.06 * layer : 0.9);
    context.stroke();
  }

  /** A closed smooth curve through swinging points. @param {number} x @param {number} y @param {number} size @param {number} layer */
  #outline(x, y, size, layer) {
    const context = this.#context;
    const swing = this.#isStill ? 0 : this.#look.swing * (0.6 + this.#level) * (1 + 0.3 * layer);
    context.beginPath();
    for (let i = 0; i <= POINTS; i += 1) {
      const angle = (i / POINTS) * 2 * Math.PI;
      const time = this.#time + layer * 1.7;
      const wave = Math.sin(2 * angle + time) + 0.6 * Math.sin(3 * angle - 1.3 * time + 1) + 0.4 * Math.sin(5 * angle + 1.9 * time + 2);
      const reach = size * (1 + (swing * wave) / 2);
      const [px, py] = [x + reach * Math.cos(angle), y + reach * Math.sin(angle)];
      if (i) context.lineTo(px, py);
      else context.moveTo(px, py);
    }
    context.closePath();
  }

  #fit() {
    const canvas = this.#canvas;
    const width = Math.round(canvas.clientWidth * devicePixelRatio);
    const height = Math.round(canvas.clientHeight * devicePixelRatio);
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    return { width, height };
  }

  /** @param {number} alpha */
  #rgba(alpha) {
    const [r, g, b] = this.#look.rgb.map(Math.round);
    return `rgb(${r} ${g} ${b} / ${Math.max(0, Math.min(1, alpha))})`;
  }

  /** @param {string} token */
  #color(token) {
    let rgb = this.#colors.get(token);
    if (!rgb) {
      const hex = getComputedStyle(document.documentElement).getPropertyValue(token).trim().slice(1);
      rgb = [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16) || 0);
      this.#colors.set(token, rgb);
    }
    return rgb;
  }
}
