/**
 * Markdown to a tree, never to HTML: `ui/markdown-view.js` makes elements of it.
 * Headings, paragraphs, lists, quotes, fenced code, rules; strong, emphasis, code, http(s) links.
 */

/**
 * @typedef {{type: "text", text: string} | {type: "code", text: string} | {type: "strong"|"em", children: Inline[]}
 *   | {type: "link", href: string, children: Inline[]}} Inline
 * @typedef {{type: "heading", level: number, children: Inline[]} | {type: "paragraph", children: Inline[]}
 *   | {type: "pre", text: string, lang: string} | {type: "list", ordered: boolean, start: number, items: Inline[][]}
 *   | {type: "quote", children: Block[]} | {type: "rule"}} Block
 */

const FENCE = /^```\s*([\w+-]*)\s*$/;
const HEADING = /^(#{1,6})\s+(.*)$/;
const RULE = /^\s*([-*_])(\s*\1){2,}\s*$/;
const ITEM = /^\s*(?:([-*+])|(\d{1,9})[.)])\s+(.*)$/;
const QUOTE = /^\s*>\s?(.*)$/;
/** Quotes may nest, but not without end. */
const MAX_DEPTH = 4;

/** @param {string} source @param {number} [depth] @returns {Block[]} */
export function parseMarkdown(source, depth = 0) {
  const lines = source.replace(/\r\n?/g, "\n").split("\n");
  /** @type {Block[]} */ const blocks = [];
  for (let at = 0; at < lines.length; ) {
    const [block, next] = takeBlock(lines, at, depth);
    if (block) blocks.push(block);
    at = next;
  }
  return blocks;
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {[Block|null, number]} */
function takeBlock(lines, at, depth) {
  const line = lines[at];
  if (!line.trim()) return [null, at + 1];
  const fence = line.match(FENCE);
  if (fence) return takeFence(lines, at, fence[1]);
  const heading = line.match(HEADING);
  if (heading) return [{ type: "heading", level: heading[1].length, children: parseInline(heading[2]) }, at + 1];
  if (RULE.test(line)) return [{ type: "rule" }, at + 1];
  if (QUOTE.test(line) && depth < MAX_DEPTH) return takeQuote(lines, at, depth);
  if (ITEM.test(line)) return takeList(lines, at);
  return takeParagraph(lines, at);
}

/** An open fence runs to the end: the answer may still be streaming. @param {string[]} lines @param {number} at @param {string} lang @returns {[Block, number]} */
function takeFence(lines, at, lang) {
  let end = at + 1;
  while (end < lines.length && !/^```\s*$/.test(lines[end])) end += 1;
  return [{ type: "pre", lang, text: lines.slice(at + 1, end).join("\n") }, end + 1];
}

/** @param {string[]} lines @param {number} at @param {number} depth @returns {[Block, number]} */
function takeQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inner = lines.slice(at, end).map((line) => /** @type {any} */ (line.match(QUOTE))[1]).join("\n");
  return [{ type: "quote", children: parseMarkdown(inner, depth + 1) }, end];
}

/** @param {string[]} lines @param {number} at @returns {[Block, number]} */
function takeList(lines, at) {
  const [, , number] = /** @type {any} */ (lines[at].match(ITEM));
  const ordered = number !== undefined;
  /** @type {string[]} */ const items = [];
  let end = at;
  for (; end < lines.length; end += 1) {
    const item = lines[end].match(ITEM);
    if (item && (item[2] !== undefined) === ordered) items.push(item[3]);
    else if (items.length && /^\s{2,}\S/.test(lines[end])) items[items.length - 1] += ` ${lines[end].trim()}`;
    else break;
  }
  return [{ type: "list", ordered, start: ordered ? Number(number) : 1, items: items.map((item) => parseInline(item)) }, end];
}

/** @param {string[]} lines @param {number} at @returns {[Block, number]} */
function takeParagraph(lines, at) {
  let end = at + 1;
  const ends = (/** @type {string} */ line) =>
    !line.trim() || FENCE.test(line) || HEADING.test(line) || RULE.test(line) || ITEM.test(line) || QUOTE.test(line);
  while (end < lines.length && !ends(lines[end])) end += 1;
  return [{ type: "paragraph", children: parseInline(lines.slice(at, end).join("\n")) }, end];
}

const INLINE = /`([^`]+)`|\*\*(\S(?:[^*]*\S)?)\*\*|(?<![\w*])\*(\S(?:[^*]*\S)?)\*(?!\*)|\[([^\]]+)\]\((https?:\/\/[^\s)]+)\)/;

/** @param {string} text @returns {Inline[]} */
export function parseInline(text) {
  /** @type {Inline[]} */ const parts = [];
  for (let rest = text; rest; ) {
    const match = rest.match(INLINE);
    if (!match || match.index === undefined) {
      parts.push({ type: "text", text: rest });
      break;
    }
    if (match.index) parts.push({ type: "text", text: rest.slice(0, match.index) });
    parts.push(inlineOf(match));
    rest = rest.slice(match.index + match[0].length);
  }
  return parts;
}

/** @param {RegExpMatchArray} match @returns {Inline} */
function inlineOf([, code, strong, em, label, href]) {
  if (code !== undefined) return { type: "code", text: code };
  if (strong !== undefined) return { type: "strong", children: parseInline(strong) };
  if (em !== undefined) return { type: "em", children: parseInline(em) };
  return { type: "link", href, children: [{ type: "text", text: label }] };
}
