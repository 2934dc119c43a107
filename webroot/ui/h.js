/** h(tag, props, ...children): elements without HTML strings, with texts by key. */

import { icon } from "./icons.js";
import { setLabel, setText } from "./text.js";

/**
 * @typedef {object} Props
 * @property {string} [class]
 * @property {string} [id]
 * @property {string | [string, import("../lib/i18n.js").Params]} [t] text by key
 * @property {string} [label] aria-label and tooltip by key
 * @property {string} [icon] an icon as the first child
 * @property {Record<string, (event: any) => void>} [on]
 * @property {Record<string, string>} [data]
 * @property {Record<string, any>} [props] set as properties, not attributes
 * @property {Record<string, any>} [attrs] attributes; false and null are left out, true gives an empty one
 */

/**
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Props} [props]
 * @param {...(Node|string|null|undefined|false)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  if (props.class) element.className = props.class;
  if (props.id) element.id = props.id;
  if (tag === "button") element.setAttribute("type", "button");
  for (const [name, value] of Object.entries(props.attrs ?? {})) {
    if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value === true ? "" : String(value));
  }
  Object.assign(element.dataset, props.data ?? {});
  Object.assign(element, props.props ?? {});
  for (const [type, listener] of Object.entries(props.on ?? {})) element.addEventListener(type, listener);
  if (props.icon) element.append(icon(props.icon));
  if (props.label) setLabel(element, props.label);
  if (props.t) addText(element, props);
  element.append(...children.filter(isChild));
  return element;
}

/** Beside an icon the text needs an element of its own. @param {HTMLElement} element @param {Props} props */
function addText(element, props) {
  const [key, params] = Array.isArray(props.t) ? props.t : [/** @type {string} */ (props.t), undefined];
  const target = props.icon ? document.createElement("span") : element;
  setText(target, key, params);
  if (props.icon) element.append(target);
}

/** @param {Node|string|null|undefined|false} child @returns {child is Node|string} */
const isChild = (child) => child !== null && child !== undefined && child !== false;

/**
 * A round button with an icon and a name.
 * @param {string} iconName @param {string} label text key @param {(event: any) => void} onClick @param {string} [className]
 */
export function iconButton(iconName, label, onClick, className = "") {
  return h("button", { class: `icon-button ${className}`, icon: iconName, label, on: { click: onClick } });
}
