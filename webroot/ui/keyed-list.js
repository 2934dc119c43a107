/** A list that is drawn again and again without flicker: rows stay the elements that they were. */

/**
 * Returns the function that shows *items* in *parent*: new rows are made, known ones updated in place, gone ones removed.
 * @template T
 * @param {HTMLElement} parent
 * @param {{key: (item: T) => string, make: (item: T) => {element: HTMLElement, update: (item: T) => void}, empty?: HTMLElement}} parts
 * @returns {(items: readonly T[]) => void}
 */
export function keyedList(parent, { key, make, empty }) {
  /** @type {Map<string, {element: HTMLElement, update: (item: T) => void}>} */
  const rows = new Map();
  return (items) => {
    const wanted = new Set(items.map(key));
    for (const [name, row] of rows) {
      if (wanted.has(name)) continue;
      row.element.remove();
      rows.delete(name);
    }
    items.forEach((item, index) => {
      const name = key(item);
      const row = rows.get(name) ?? make(item);
      rows.set(name, row);
      row.update(item);
      // moved only where it stands wrong: moving an element takes the focus from what is in it
      if (parent.children[index] !== row.element) parent.insertBefore(row.element, parent.children[index] ?? null);
    });
    if (empty) empty.hidden = items.length > 0;
  };
}

/** Show *text*, which no key stands for, and touch nothing where it is there already. @param {HTMLElement} element @param {string} text */
export function put(element, text) {
  delete element.dataset.i18n;
  if (element.textContent !== text) element.textContent = text;
}
