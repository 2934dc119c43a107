/** Two lanes on one clock, newest at the right: what you said above, what the model said below. */

const BIN_MS = 80;
/** 60 s are kept; how much of it shows depends on the width. */
const NUM_BINS = 60000 / BIN_MS;
const BAR_PX = 3;
const STEP_PX = 5;
const FRAME_MS = 1000 / 30;
/** Bins between two ticks of the time line. */
const TICK_BINS = 5000 / BIN_MS;

export class Waveform {
  #canvas; #context; #isStill; #lastMs = 0; #count = 0; #sinceMs = 0;
  #you = new Float32Array(NUM_BINS);
  #ai = new Float32Array(NUM_BINS);
  #peaks = { you: 0, ai: 0 };
  /** @type {{bin: number, kind: string}[]} */ #markers = [];
  isRunning = false;

  constructor() {
    this.#canvas = document.createElement("canvas");
    this.#canvas.className = "waveform";
    this.#canvas.setAttribute("aria-hidden", "true");
    this.#context = /** @type {CanvasRenderingContext2D} */ (this.#canvas.getContext("2d"));
    this.#isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
    document.addEventListener("themechange", () => this.#draw());
    new ResizeObserver(() => this.#draw()).observe(this.#canvas);
    requestAnimationFrame((now) => this.#loop(now));
  }

  get element() {
    return this.#canvas;
  }

  clear() {
    this.#you.fill(0);
    this.#ai.fill(0);
    this.#markers = [];
    this.#count = 0;
    this.#draw();
  }

  /** @param {"you"|"ai"} lane @param {number} peak 0..1 */
  add(lane, peak) {
    this.#peaks[lane] = Math.max(this.#peaks[lane], peak);
  }

  /** @param {string} kind interrupt, barge_in, pause */
  mark(kind) {
    this.#markers.push({ bin: this.#count, kind });
    if (this.#markers.length > 100) this.#markers.shift();
  }

  /** @param {number} now */
  #loop(now) {
    requestAnimationFrame((next) => this.#loop(next));
    if (!this.#canvas.isConnected || !this.isRunning) {
      this.#sinceMs = now;
      return;
    }
    for (; now - this.#sinceMs >= BIN_MS; this.#sinceMs += BIN_MS) this.#close();
    if (document.hidden || now - this.#lastMs < (this.#isStill ? 1000 : FRAME_MS)) return;
    this.#lastMs = now;
    this.#draw((now - this.#sinceMs) / BIN_MS);
  }

  #close() {
    const at = this.#count % NUM_BINS;
    this.#you[at] = this.#peaks.you;
    this.#ai[at] = this.#peaks.ai;
    this.#peaks = { you: 0, ai: 0 };
    this.#count += 1;
  }

  /** @param {number} [fraction] of the open bin, for smooth scrolling */
  #draw(fraction = 0) {
    const ratio = devicePixelRatio;
    const width = this.#canvas.clientWidth, height = this.#canvas.clientHeight;
    if (!width || !height) return;
    if (this.#canvas.width !== Math.round(width * ratio) || this.#canvas.height !== Math.round(height * ratio)) {
      Object.assign(this.#canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    }
    const context = this.#context;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(document.documentElement);
    const shift = this.#isStill ? 0 : fraction * STEP_PX;
    this.#ticks(width, height, shift, style.getPropertyValue("--line"));
    this.#lane(this.#you, style.getPropertyValue("--you-bright"), width, height * 0.25, height * 0.22, shift);
    this.#lane(this.#ai, style.getPropertyValue("--ai-bright"), width, height * 0.75, height * 0.22, shift);
    this.#marks(width, height, shift, style.getPropertyValue("--ink-3"));
  }

  /** @param {Float32Array} bins @param {string} color @param {number} width @param {number} middle @param {number} reach @param {number} shift */
  #lane(bins, color, width, middle, reach, shift) {
    const context = this.#context;
    context.fillStyle = color;
    const visible = Math.min(NUM_BINS - 1, Math.ceil(width / STEP_PX) + 1);
    for (let ago = 0; ago < visible; ago += 1) {
      const bin = this.#count - 1 - ago;
      const peak = bin >= 0 ? bins[bin % NUM_BINS] : 0;
      const half = Math.max(1, Math.min(1, peak ** 0.6 * 1.15) * reach);
      const x = width - (ago + 1) * STEP_PX - shift + 1;
      context.globalAlpha = (peak > 0.01 ? 0.95 : 0.28) * Math.min(1, x / 60 + 0.15);
      context.beginPath();
      context.roundRect(x, middle - half, BAR_PX, 2 * half, BAR_PX / 2);
      context.fill();
    }
    context.globalAlpha = 1;
  }

  /** @param {number} width @param {number} height @param {number} shift @param {string} color */
  #ticks(width, height, shift, color) {
    this.#context.fillStyle = color;
    this.#context.fillRect(0, height / 2 - 0.5, width, 1);
    const newest = this.#count - (this.#count % TICK_BINS);
    for (let bin = newest; bin > 0 && this.#x(bin, width, shift) > 0; bin -= TICK_BINS) {
      this.#context.fillRect(this.#x(bin, width, shift), height / 2 - 4, 1, 8);
    }
  }

  /** @param {number} width @param {number} height @param {number} shift @param {string} color */
  #marks(width, height, shift, color) {
    const context = this.#context;
    context.strokeStyle = color;
    context.setLineDash([3, 4]);
    for (const { bin } of this.#markers) {
      const x = this.#x(bin, width, shift);
      if (x < 0) continue;
      context.beginPath();
      context.moveTo(x, 4);
      context.lineTo(x, height - 4);
      context.stroke();
    }
    context.setLineDash([]);
  }

  /** @param {number} bin @param {number} width @param {number} shift */
  #x(bin, width, shift) {
    return width - (this.#count - bin) * STEP_PX - shift;
  }
}
