/** Audio thread of the player: pulls from the ring and reports what was really heard. */

import { PlayerRing } from "./ring.js";

/** Longest speech kept ahead of playback. */
const CAPACITY_S = 90;
/** Between two reports, s: fine enough for the waveform and for words that follow the voice. */
const REPORT_S = 0.03;

class PlayerProcessor extends AudioWorkletProcessor {
  /** @param {{processorOptions: {fadeMs: number}}} options */
  constructor(options) {
    super();
    const fade = Math.round((options.processorOptions.fadeMs / 1000) * sampleRate);
    this.ring = new PlayerRing(CAPACITY_S * sampleRate, fade);
    this.reportIn = 0;
    this.peak = 0;
    this.port.onmessage = ({ data }) => this.obey(data);
  }

  /** @param {any} order */
  obey(order) {
    if (order.type === "push") this.ring.push(order.samples);
    else if (order.type === "begin") this.ring.beginTurn(Math.round((order.delayMs / 1000) * sampleRate));
    else if (order.type === "end") this.ring.endTurn();
    else if (order.type === "cut") this.ring.cut();
    else if (order.type === "hold") this.ring.hold(order.isHeld);
    this.reportIn = 0;
  }

  /** @param {Float32Array[][]} _inputs @param {Float32Array[][]} outputs */
  process(_inputs, outputs) {
    const channels = outputs[0];
    this.ring.pull(channels[0]);
    for (let i = 1; i < channels.length; i += 1) channels[i].set(channels[0]);
    for (const sample of channels[0]) this.peak = Math.max(this.peak, Math.abs(sample));
    this.reportIn -= channels[0].length;
    if (this.reportIn <= 0) {
      this.reportIn = REPORT_S * sampleRate;
      this.port.postMessage({ ...this.ring.stats(), peak: this.peak });
      this.peak = 0;
    }
    return true;
  }
}

registerProcessor("omni-player", PlayerProcessor);
