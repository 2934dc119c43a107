/** One of a few choices, side by side: radio buttons that look like a switch. */

import { h } from "./h.js";

/**
 * @param {string} name of the group @param {string} label text key
 * @param {[string, string][]} choices value and text key
 * @param {(value: string) => void} onChange
 */
export function segmented(name, label, choices, onChange) {
  const inputs = choices.map(([value]) =>
    h("input", { id: `${name}-${value}`, attrs: { type: "radio", name }, props: { value }, on: { change: () => onChange(value) } }));
  inputs[0].checked = true;
  const element = h("fieldset", { class: "segmented" },
    h("legend", { t: label }),
    ...choices.flatMap(([, text], index) => [inputs[index], h("label", { t: text, attrs: { for: inputs[index].id } })]));
  return {
    element,
    get value() {
      return inputs.find(({ checked }) => checked)?.value ?? choices[0][0];
    },
    /** @param {boolean} isDisabled */
    set disabled(isDisabled) {
      element.disabled = isDisabled;
    },
  };
}
