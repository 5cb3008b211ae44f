// The one way by which anything comes onto the page: elements and text, never markup.

/**
 * An element with properties and children. A property that begins with "on" is a listener, one with a dash an
 * attribute; a child is an element, text, or nothing (null, undefined and false are left out).
 */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role" || name === "for" || name === "list") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A button. */
export function button(label, onclick, className = "") {
  return make("button", { type: "button", className, onclick }, label);
}

/** A part that is folded away until it is asked for. */
export function folded(title, ...children) {
  return make("details", {}, make("summary", {}, title), ...children);
}

/** A dialog that shows itself, and is gone when it is closed. */
export function dialog(title, ...children) {
  const close = button("✕", () => element.close(), "quiet");
  close.setAttribute("aria-label", "Close");
  const heading = make("h2", { id: "dialog-title" }, title);
  const element = make("dialog", { "aria-labelledby": "dialog-title" }, make("header", {}, heading, close), ...children);
  element.addEventListener("close", () => element.remove());
  document.body.append(element);
  element.showModal();
  return element;
}

/** Whether the reader means it. */
export function sure(question, word) {
  return new Promise((resolve) => {
    let meant = false;
    const yes = button(word, () => { meant = true; element.close(); }, "danger");
    const no = button("Cancel", () => element.close());
    const element = dialog(word, make("p", {}, question), make("footer", {}, no, yes));
    element.addEventListener("close", () => resolve(meant));
    no.focus();
  });
}
