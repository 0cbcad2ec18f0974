// One image: what is common to the pad for drawings and the place for photographs.

import { GoneError, prepare } from "./api.js";

let about;
export const setAbout = (found) => (about = found);

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

// Paints prepared pixels, base64 of [size, size, channels], on a canvas; for drawings only the ink, in a colour #rrggbb.
export function paint(canvas, pixels, ink = colour("--ink")) {
  const { size, channels, drawings } = about;
  const values = Uint8Array.from(atob(pixels), (x) => x.charCodeAt(0));
  canvas.width = canvas.height = size;
  const context = canvas.getContext("2d");
  const image = context.createImageData(size, size);
  const line = parseInt(ink.slice(1), 16);
  for (let i = 0; i < size * size; i++) {
    const photograph = [0, 1, 2].map((c) => values[i * channels + (channels === 3 ? c : 0)]);
    const seen = drawings ? [line >> 16, (line >> 8) & 255, line & 255] : photograph;
    image.data.set([...seen, drawings && values[i] ? 0 : 255], 4 * i);
  }
  context.putImageData(image, 0, 0);
}

export function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export class Tile {
  // label: what a screen reader calls it; changed: called with the tile when its pixels change; say: announces.
  constructor(label, changed, say) {
    Object.assign(this, { label, changed, say, pixels: null, round: 0 });
    this.preview = element("canvas", { className: "preview", title: "What the network sees" });
    this.preview.setAttribute("aria-hidden", "true");
    this.problem = element("p", { className: "problem" });
    this.undoButton = element("button", { type: "button", textContent: "↶", title: "Undo", onclick: () => this.undo() });
    this.clearButton = element("button", { type: "button", textContent: "×", title: "Clear", onclick: () => this.clear() });
    this.caption = element("span", { className: "caption" });
    const foot = element("div", { className: "foot" }, this.preview, this.caption, this.undoButton, this.clearButton);
    this.element = element("div", { className: "tile" }, foot, this.problem);
    this.rename(label);
  }

  rename(label) {
    this.label = label;
    this.undoButton.setAttribute("aria-label", `Undo in ${label}`);
    this.clearButton.setAttribute("aria-label", `Clear ${label}`);
  }

  // Shows prepared pixels as they are.
  load(pixels) {
    this.content = pixels;
    this.settle(pixels);
  }

  // Has the server prepare a file; the newest one counts. It is kept until a server that is gone is back.
  async send(file) {
    const round = ++this.round;
    this.waiting = file;
    this.element.setAttribute("aria-busy", "true");
    try {
      const pixels = await prepare(await file);
      if (round === this.round) this.settle(pixels);
    } catch (error) {
      if (round !== this.round) return;
      if (error instanceof GoneError) return this.changed(this, error);
      this.settle(null);
      this.problem.textContent = error.message;
      this.say(error.message);
    }
  }

  // Goes on where the server was gone.
  retry() {
    if (this.waiting) this.send(this.waiting);
  }

  settle(pixels) {
    this.round++;
    this.waiting = null;
    this.element.removeAttribute("aria-busy");
    this.pixels = pixels;
    this.problem.textContent = "";
    this.element.classList.toggle("empty", this.empty);
    if (pixels) paint(this.preview, pixels);
    this.changed(this);
  }
}
