/** Elements for a markdown tree: every text goes in as text, so an answer can bring no markup of its own. */

import { parseMarkdown } from "../lib/markdown.js";
import { h, iconButton } from "./h.js";
import { copyText } from "./stage-cards.js";

/** @typedef {import("../lib/markdown.js").Inline} Inline */
/** @typedef {import("../lib/markdown.js").Block} Block */

/** @param {string} source @returns {HTMLElement[]} */
export function renderMarkdown(source) {
  return parseMarkdown(source).map(blockElement);
}

/** @param {Block} block @returns {HTMLElement} */
function blockElement(block) {
  switch (block.type) {
    case "heading":
      return h(/** @type {"h3"} */ (`h${Math.min(6, block.level + 2)}`), {}, ...block.children.map(inlineElement));
    case "pre":
      return h("div", { class: "code" },
        h("div", { class: "code-head" }, h("span", {}, block.lang || "text"), iconButton("copy", "action.copy", () => void copyText(block.text), "small")),
        h("pre", {}, h("code", {}, block.text)));
    case "list": {
      const items = block.items.map((item) => h("li", {}, ...item.map(inlineElement)));
      return block.ordered ? h("ol", { attrs: { start: block.start } }, ...items) : h("ul", {}, ...items);
    }
    case "quote":
      return h("blockquote", {}, ...block.children.map(blockElement));
    case "rule":
      return h("hr");
    case "paragraph":
      return h("p", {}, ...block.children.map(inlineElement));
  }
}

/** @param {Inline} inline @returns {Node|string} */
function inlineElement(inline) {
  switch (inline.type) {
    case "text":
      return inline.text;
    case "code":
      return h("code", {}, inline.text);
    case "link":
      return h("a", { attrs: { href: inline.href, rel: "noopener noreferrer nofollow", target: "_blank" } }, ...inline.children.map(inlineElement));
    default:
      return h(inline.type, {}, ...inline.children.map(inlineElement));
  }
}
