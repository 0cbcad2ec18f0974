// A place for a photograph: dropped, pasted or chosen.

import { element, paint, Tile } from "./tile.js";

export class Photograph extends Tile {
  // more: called with the files that are too many for one place.
  constructor(label, changed, say, more) {
    super(label, changed, say);
    this.content = null;
    this.picture = element("canvas", { className: "photograph", hidden: true });
    this.picture.setAttribute("aria-hidden", "true");
    this.input = element("input", { type: "file", accept: "image/*", multiple: true, className: "unseen" });
    this.area = element("label", { className: "pad" }, this.input, this.picture, element("span", { textContent: "Drop an image, or choose one" }));
    this.preview.hidden = true; // the picture is what the network sees
    this.undoButton.hidden = true;
    this.element.prepend(this.area);
    this.element.classList.add("empty");
    this.rename(label);
    const take = ([first, ...others]) => {
      if (first) this.send(first);
      if (others.length) more(others);
    };
    this.input.addEventListener("change", () => {
      take(this.input.files);
      this.input.value = "";
    });
    for (const name of ["dragover", "dragleave", "drop"]) {
      this.area.addEventListener(name, (event) => {
        event.preventDefault();
        this.area.classList.toggle("over", name === "dragover");
        if (name === "drop") take([...event.dataTransfer.files]);
      });
    }
    this.area.addEventListener("paste", (event) => take([...event.clipboardData.files]));
  }

  get empty() {
    return !this.pixels && !this.waiting;
  }

  rename(label) {
    super.rename(label);
    this.input?.setAttribute("aria-label", label);
  }

  clear() {
    this.settle(null);
  }

  settle(pixels) {
    if (pixels) paint(this.picture, pixels);
    this.picture.hidden = !pixels;
    super.settle(pixels);
  }
}
