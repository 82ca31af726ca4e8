// Making elements: text goes in as text nodes only, so nothing that a model writes is ever read as markup.

/**
 * A new element.
 * @param {string} tag
 * @param {object} properties attributes (none for `false`, null and undefined), and listeners as `on...`
 * @param {...(Node|string)} children
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if ((value ?? false) !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

export const byId = (id) => document.getElementById(id);

/** Says something to screen readers, once. */
export function announce(text) {
  byId("announcements").textContent = text;
}

/** Copies text; also where the page may not use the clipboard (plain HTTP from another machine). */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return;
  } catch {
    // The old way then.
  }
  const area = element("textarea", { class: "visually-hidden", "aria-hidden": "true" });
  area.value = text;
  const focused = document.activeElement;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
  focused?.focus();
}
