// The theme that was chosen, before anything is painted. A script of its own: no page has inline ones.
try {
  const chosen = localStorage.getItem("theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage may be forbidden: then the page follows the system.
}
