/** The one honest sentence about what answers here. */

import { hasText, setText } from "./text.js";

/**
 * In the page's language for engines that it knows; else as the server says it, in English.
 * @param {HTMLElement} element
 * @param {import("../lib/protocol.js").FrontendDefaults} defaults
 */
export function showNotice(element, { engine, model_name, notice }) {
  const key = `notice.${engine}`;
  if (!notice) return setText(element, "home.engine_notice");
  if (hasText(key)) return setText(element, key, { model: model_name ?? "" });
  element.lang = "en";
  element.textContent = notice;
}
