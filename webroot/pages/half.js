/** Half duplex, hands-free: speak, pause, listen to the answer. */

import { slider, textArea, toggle } from "../ui/controls.js";
import { settings } from "../ui/shell.js";
import { startLivePage } from "./live.js";

void startLivePage({
  name: "half",
  loadSession: async () => (await import("../lib/halfduplex.js")).HalfDuplexSession,
  canPause: false,
  options: () => {
    const { systemPrompt, vadThreshold, vadSilenceMs, chatMaxTokens } = settings.value;
    return { systemPrompt, vadThreshold, vadSilenceMs, maxTokens: chatMaxTokens };
  },
  controls: () => [
    slider("volume", { step: 0.05, show: (value) => ["settings.percent", { value: Math.round(value * 100) }] }),
    textArea("systemPrompt"),
    slider("vadThreshold", { step: 0.05 }),
    slider("vadSilenceMs", { step: 50, show: (value) => ["settings.ms", { value }] }),
    slider("chatMaxTokens", { step: 16 }),
    toggle("echoCancellation"),
    toggle("chimes"),
    toggle("singleKeys"),
  ],
  keys: [
    ["Ctrl Enter", "keys.start"], ["Space", "keys.interrupt"], ["M", "keys.mute"], ["Esc Esc", "keys.end"], ["?", "keys.help"],
  ],
});
