// Runs before the first paint (a classic script in <head>), so that a chosen theme never flashes the other one.
(function () {
  try {
    const stored = JSON.parse(localStorage.getItem("omni.settings") || "null");
    const theme = stored && stored.values && stored.values.theme;
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // No storage: the system's scheme it is.
  }
})();
