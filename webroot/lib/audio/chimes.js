/** Short tones, made with oscillators: next in line, your turn, session begins. */

/** @type {Record<"next"|"turn"|"live", {hz: number[], stepS: number}>} */
const CHIMES = {
  next: { hz: [880, 659.3], stepS: 0.22 },
  turn: { hz: [523.3, 659.3, 784, 1046.5], stepS: 0.12 },
  live: { hz: [1046.5, 1318.5], stepS: 0.09 },
};
const PEAK = 0.12;

/** @param {"next"|"turn"|"live"} name */
export function playChime(name) {
  if (typeof AudioContext === "undefined") return;
  const context = new AudioContext();
  const { hz, stepS } = CHIMES[name];
  hz.forEach((frequency, index) => tone(context, frequency, context.currentTime + index * stepS));
  setTimeout(() => void context.close(), (hz.length * stepS + 0.6) * 1000);
}

/** @param {AudioContext} context @param {number} hz @param {number} at */
function tone(context, hz, at) {
  const oscillator = new OscillatorNode(context, { type: "sine", frequency: hz });
  const gain = new GainNode(context, { gain: 0 });
  gain.gain.setValueAtTime(0, at);
  gain.gain.linearRampToValueAtTime(PEAK, at + 0.01);
  gain.gain.exponentialRampToValueAtTime(0.0001, at + 0.45);
  oscillator.connect(gain).connect(context.destination);
  oscillator.start(at);
  oscillator.stop(at + 0.5);
}
