// Applies the theme chosen earlier before anything is painted; no module, because modules run after that.
{
  let theme = null;
  try {
    theme = localStorage.getItem("gpt2fast.theme");
  } catch {
    // Storage may be switched off: the system's theme then.
  }
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
}
