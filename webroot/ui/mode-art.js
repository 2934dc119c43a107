/** A small drawing of each way to talk: who speaks when, and what is shown. Decoration: the card says it in words. */

const SVG = "http://www.w3.org/2000/svg";

/** Half heights of a stretch of speech, from its start to its end. */
const SPEECH = [3, 8, 14, 9, 17, 11, 19, 8, 13, 5];

/** Vertical strokes round *y*, one for each half height. @param {number} x @param {number} y @param {number[]} halves */
const bars = (x, y, halves) => halves.map((half, at) => `M${x + at * 7} ${y - half}v${2 * half}`).join("");

/** Class of the stroke, and its path. @type {Record<string, [string, string][]>} */
const ART = {
  audio_duplex: [
    ["you", bars(22, 32, [...SPEECH, 2, 2, 2, 2, ...SPEECH.slice(2, 8)])],
    ["ai", bars(85, 70, [2, 2, ...SPEECH, 6, 10, 15, 7, 3])],
    ["soft", "M22 51h196"],
  ],
  omni: [
    ["line", "M40 30V20a8 8 0 0 1 8-8h10M122 12h10a8 8 0 0 1 8 8v10M140 70v10a8 8 0 0 1-8 8h-10M58 88H48a8 8 0 0 1-8-8V70"],
    ["you", "M72 38h34v24a10 10 0 0 1-10 10H82a10 10 0 0 1-10-10V38ZM106 44h5a8 8 0 0 1 0 16h-5"],
    ["soft", "M82 30q-3-4 0-8M92 30q-3-4 0-8"],
    ["ai", bars(160, 50, [4, 9, 15, 10, 18, 8, 12, 5])],
  ],
  half_duplex_audio: [
    ["you", bars(18, 51, SPEECH)],
    ["soft", "M95 51h18M108 46l5 5-5 5"],
    ["ai", bars(126, 51, [...SPEECH, 9, 14, 7, 3])],
  ],
  turnbased: [
    ["you", "M96 14h112a10 10 0 0 1 10 10v14a10 10 0 0 1-10 10H96a10 10 0 0 1-10-10V24a10 10 0 0 1 10-10ZM102 31h74"],
    ["ai", "M32 58h132a10 10 0 0 1 10 10v14a10 10 0 0 1-10 10H32a10 10 0 0 1-10-10V68a10 10 0 0 1 10-10ZM38 70h100M38 80h62"],
  ],
};

/** @param {string} appId */
export function modeArt(appId) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 240 100");
  svg.setAttribute("class", "mode-art");
  svg.setAttribute("aria-hidden", "true");
  for (const [name, data] of ART[appId] ?? []) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", `art-${name}`);
    path.setAttribute("d", data);
    svg.append(path);
  }
  return svg;
}
