// The button that switches between light and dark; what the system wants holds until it is pressed.

const KEY = "gpt2fast.theme";

/** @param {HTMLButtonElement} button */
export function setUpTheme(button) {
  const systemIsDark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  button.addEventListener("click", () => {
    const system = systemIsDark.matches ? "dark" : "light";
    const theme = (root.dataset.theme ?? system) === "dark" ? "light" : "dark";
    if (theme === system) delete root.dataset.theme;
    else root.dataset.theme = theme;
    try {
      if (theme === system) localStorage.removeItem(KEY);
      else localStorage.setItem(KEY, theme);
    } catch {
      // Storage may be switched off: the choice holds for this visit.
    }
  });
}
