/** The keyboard of a live page. Single letters can be switched off; nothing fires while one types. */

import { settings } from "../ui/shell.js";

/** Two presses of Escape within this time end the session, ms. */
const TWICE_MS = 800;
const FIELDS = "input, textarea, select, [contenteditable]";
/** Space belongs to whatever it would activate. */
const ACTIVATED = `${FIELDS}, button, a, summary, [role=tab]`;

/**
 * @param {{session: any, start(): Promise<void>, mute(): void, togglePause(): void, showKeys(): void, escape(): boolean, isForced: boolean, keys: Record<string, () => void>}} page
 */
export function listenToKeys(page) {
  let escapedMs = -Infinity;
  let isHolding = false;

  const hold = (/** @type {boolean} */ isOn) => {
    isHolding = isOn;
    if (page.session?.forceListen) page.session.forceListen(isOn || page.isForced);
    else if (isOn) page.session?.interrupt();
  };

  document.addEventListener("keydown", (event) => {
    const target = /** @type {Element} */ (event.target);
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) void page.start();
    if (event.key === "Escape" && !document.querySelector("dialog:modal")) {
      if (page.escape()) return;
      if (event.timeStamp - escapedMs < TWICE_MS) page.session?.stop();
      escapedMs = event.timeStamp;
    }
    if (event.key === " " && !target.closest(ACTIVATED) && page.session?.isLive) {
      event.preventDefault();
      if (!event.repeat) hold(true);
    }
    if (target.closest(FIELDS) || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "?") page.showKeys();
    if (!settings.value.singleKeys) return;
    if (event.key.toLowerCase() === "m") page.mute();
    if (event.key.toLowerCase() === "p") page.togglePause();
    page.keys[event.key.toLowerCase()]?.();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " " && isHolding) hold(false);
  });
  addEventListener("blur", () => isHolding && hold(false));
}
