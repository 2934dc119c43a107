/** Icons as inline SVG: 24 x 24, drawn with lines in the text's colour. */

const SVG = "http://www.w3.org/2000/svg";

/** Path data; a leading "=" fills the shape instead of drawing its line. @type {Record<string, string[]>} */
const PATHS = {
  mic: ["M12 3a3 3 0 0 0-3 3v5a3 3 0 0 0 6 0V6a3 3 0 0 0-3-3Z", "M5.5 11a6.5 6.5 0 0 0 13 0", "M12 17.5V21"],
  mic_off: ["M9 9v2a3 3 0 0 0 4.6 2.5", "M15 10.5V6a3 3 0 0 0-5.8-1", "M5.5 11a6.5 6.5 0 0 0 10 5.4", "M18.5 11a6.5 6.5 0 0 1-.8 3.2", "M12 17.5V21", "M4 4l16 16"],
  pause: ["M8.5 6v12", "M15.5 6v12"],
  play: ["=M8 5.6v12.8a.6.6 0 0 0 .9.5l10.3-6.4a.6.6 0 0 0 0-1L8.9 5.1a.6.6 0 0 0-.9.5Z"],
  hand: ["M7.5 12V6.8a1.5 1.5 0 0 1 3 0V11", "M10.5 10.5V5a1.5 1.5 0 0 1 3 0v5.5", "M13.5 10.5V6.2a1.5 1.5 0 0 1 3 0V12", "M16.5 11.5V9a1.5 1.5 0 0 1 3 0v5.5a6.5 6.5 0 0 1-6.5 6.5c-3 0-4.6-1.3-6-3.6L4.3 13a1.5 1.5 0 0 1 2.5-1.6l.7 1"],
  stop: ["=M7 6.5h10a.5.5 0 0 1 .5.5v10a.5.5 0 0 1-.5.5H7a.5.5 0 0 1-.5-.5V7a.5.5 0 0 1 .5-.5Z"],
  end: ["M6 6l12 12", "M18 6 6 18"],
  sliders: ["M4 7h9", "M17 7h3", "M4 17h3", "M11 17h9", "M15 4.8v4.4", "M9 14.8v4.4"],
  copy: ["M9 9h10v11H9z", "M5 15V4h10"],
  download: ["M12 4v11", "M7.5 11 12 15.5 16.5 11", "M5 20h14"],
  edit: ["M4 20h4L19 9l-4-4L4 16v4Z", "M13 7l4 4"],
  refresh: ["M20 11a8 8 0 1 0-2.3 6.3", "M20 5v6h-6"],
  send: ["M12 19V5", "M6 11l6-6 6 6"],
  plus: ["M12 5v14", "M5 12h14"],
  close: ["M6 6l12 12", "M18 6 6 18"],
  alert: ["M12 4 2.8 20h18.4L12 4Z", "M12 10v4.5", "M12 17.3v.2"],
  info: ["M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17Z", "M12 11v5", "M12 8v.2"],
  speaker: ["M4 9.5v5h3.5L12 18.5v-13L7.5 9.5H4Z", "M15.5 9a4 4 0 0 1 0 6", "M18 6.5a7.5 7.5 0 0 1 0 11"],
  speaker_off: ["M4 9.5v5h3.5L12 18.5v-13L7.5 9.5H4Z", "M16 9.5l5 5", "M21 9.5l-5 5"],
  sun: ["M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8Z", "M12 2.5v2", "M12 19.5v2", "M2.5 12h2", "M19.5 12h2", "M5.3 5.3l1.4 1.4", "M17.3 17.3l1.4 1.4", "M18.7 5.3l-1.4 1.4", "M6.7 17.3l-1.4 1.4"],
  moon: ["M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5Z"],
  auto: ["M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17Z", "=M12 3.5a8.5 8.5 0 0 1 0 17v-17Z"],
  video: ["M3.5 6.5h11a1 1 0 0 1 1 1v9a1 1 0 0 1-1 1h-11a1 1 0 0 1-1-1v-9a1 1 0 0 1 1-1Z", "M15.5 10.5 21.5 7v10l-6-3.5"],
  video_off: ["M10 6.5h4.5a1 1 0 0 1 1 1v4l6-4.5v10", "M15.5 15.5v1a1 1 0 0 1-1 1h-11a1 1 0 0 1-1-1v-9a1 1 0 0 1 1-1H6", "M3 3l18 18"],
  flip: ["M4 11a8 8 0 0 1 13.7-4.7L20 8.5", "M20 4v4.5h-4.5", "M20 13a8 8 0 0 1-13.7 4.7L4 15.5", "M4 20v-4.5h4.5"],
  hd: ["M4.5 7.5v9", "M10 7.5v9", "M4.5 12H10", "M14 7.5v9h1.8a4.5 4.5 0 0 0 0-9H14Z"],
  captions: ["M3 6h18v12H3V6Z", "M10.6 10.6a2.1 2.1 0 1 0 0 2.8", "M17.1 10.6a2.1 2.1 0 1 0 0 2.8"],
  expand: ["M4 9V4h5", "M15 4h5v5", "M20 15v5h-5", "M9 20H4v-5"],
  shrink: ["M9 4v5H4", "M20 9h-5V4", "M15 20v-5h5", "M4 15h5v5"],
  ear: ["M6.5 9.5a5.5 5.5 0 0 1 11 0c0 3.8-4 4.4-4 7.5a3.3 3.3 0 0 1-6.3 1.4", "M9.5 9.8a2.5 2.5 0 0 1 5 0c0 1.7-2 2.2-2 4"],
  wave: ["M4 10v4", "M8 6.5v11", "M12 9v6", "M16 4v16", "M20 10v4"],
  turns: ["M4 5.5h11v7.5H8.5L5.5 16v-3H4V5.5Z", "M9 16.5h7.5l3 3v-3H20V9h-2"],
  chat: ["M4 5h16v11H11l-4.5 4v-4H4V5Z", "M8 9.3h8", "M8 12.3h5"],
  arrow: ["M5 12h14", "M13 6l6 6-6 6"],
  code: ["M8.5 7.5 4 12l4.5 4.5", "M15.5 7.5 20 12l-4.5 4.5"],
  gauge: ["M4.2 17.5a8.5 8.5 0 1 1 15.6 0", "M12 14.5l4-5.5", "=M12 13a1.5 1.5 0 1 0 0 3 1.5 1.5 0 0 0 0-3Z"],
  trash: ["M5 7h14", "M9.5 7V4.5h5V7", "M6.8 7l.9 13h8.6l.9-13", "M10.5 11v5.5", "M13.5 11v5.5"],
  upload: ["M12 15.5V4.5", "M7.5 9 12 4.5 16.5 9", "M5 20h14"],
  chip: ["M7 7h10v10H7z", "M10 3.5V7", "M14 3.5V7", "M10 17v3.5", "M14 17v3.5", "M3.5 10H7", "M3.5 14H7", "M17 10h3.5", "M17 14h3.5"],
};

/**
 * The icon's element; hidden from assistive technology, as the button beside it has a name.
 * @param {string} name
 */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  for (const data of PATHS[name]) svg.append(shape(data));
  return svg;
}

/** @param {string} data */
function shape(data) {
  const path = document.createElementNS(SVG, "path");
  if (data.startsWith("=")) path.setAttribute("class", "icon-fill");
  path.setAttribute("d", data.replace(/^=/, ""));
  return path;
}

/** The product's mark: two open rings in one another, one for each speaker. */
export function brandMark() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 32 32");
  svg.setAttribute("class", "brand-mark");
  svg.setAttribute("aria-hidden", "true");
  const arcs = [["brand-you", "M25.5 8.5A12 12 0 1 0 28 16"], ["brand-ai", "M16 9.5A6.5 6.5 0 1 1 9.5 16"]];
  for (const [name, data] of arcs) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("class", name);
    path.setAttribute("d", data);
    svg.append(path);
  }
  return svg;
}
