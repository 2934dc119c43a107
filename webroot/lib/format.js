/** Numbers with units, as the reader's language writes them. */

const BYTE_UNITS = ["B", "kB", "MB", "GB", "TB"];

/** @param {number} bytes @param {string} lang */
export function formatBytes(bytes, lang) {
  const step = Math.min(BYTE_UNITS.length - 1, bytes < 1000 ? 0 : Math.floor(Math.log10(bytes) / 3));
  const value = bytes / 1000 ** step;
  const digits = value < 10 && step > 0 ? 1 : 0;
  return `${new Intl.NumberFormat(lang, { maximumFractionDigits: digits }).format(value)} ${BYTE_UNITS[step]}`;
}

/** @param {number} value @param {string} name @param {string} lang */
function unit(value, name, lang) {
  return new Intl.NumberFormat(lang, { style: "unit", unit: name, unitDisplay: "narrow", maximumFractionDigits: 0 }).format(value);
}

/** A length of time by its two largest units: `2h 5m`. @param {number} seconds @param {string} lang */
export function formatSpan(seconds, lang) {
  const s = Math.max(0, Math.round(seconds));
  /** @type {[number, string][]} */
  const parts = [[Math.floor(s / 86400), "day"], [Math.floor(s / 3600) % 24, "hour"], [Math.floor(s / 60) % 60, "minute"], [s % 60, "second"]];
  const first = parts.findIndex(([count]) => count > 0);
  if (first < 0) return unit(0, "second", lang);
  return parts.slice(first, first + 2).filter(([count]) => count > 0).map(([count, name]) => unit(count, name, lang)).join(" ");
}

/** @param {number} value @param {string} lang */
export function formatCount(value, lang) {
  return new Intl.NumberFormat(lang).format(value);
}
