// A pad to draw on, by mouse, pen, finger or keyboard.

import { colour, element, paint, Tile } from "./tile.js";

const PEN = 0.055; // width, as a share of the pad
const FILE = 280; // pixels, height and width of the picture that is sent
const STEP = { large: 0.05, small: 0.01 }; // of an arrow key
const MOVES = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

export class Pad extends Tile {
  constructor(label, changed, say) {
    super(label, changed, say);
    this.strokes = []; // of points [x, y], shares of the pad
    this.content = null; // loaded pixels beneath them
    this.at = [0.5, 0.5]; // the keyboard's pen
    this.down = false;
    this.canvas = element("canvas", { tabIndex: 0, className: "pad" });
    this.canvas.setAttribute("role", "application");
    this.canvas.setAttribute("aria-roledescription", "drawing pad");
    this.element.prepend(this.canvas);
    this.element.classList.add("empty");
    this.rename(label);
    this.listen();
    new ResizeObserver(() => this.show()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.show());
  }

  get empty() {
    return !this.content && !this.strokes.length;
  }

  rename(label) {
    super.rename(label);
    this.canvas?.setAttribute("aria-label", label);
  }

  listen() {
    const canvas = this.canvas;
    canvas.addEventListener("pointerdown", (event) => {
      if (this.pointer !== undefined || event.button) return;
      event.preventDefault(); // no selection, no dragging
      canvas.focus({ focusVisible: false });
      canvas.setPointerCapture(event.pointerId);
      this.pointer = event.pointerId;
      this.down = false;
      this.begin(this.place(event));
      this.show();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (event.pointerId !== this.pointer) return;
      const all = event.getCoalescedEvents?.() ?? [];
      for (const part of all.length ? all : [event]) this.stroke.push(this.place(part));
      this.show();
    });
    for (const name of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(name, (event) => {
        if (event.pointerId !== this.pointer) return;
        this.pointer = undefined;
        this.drawn();
      });
    }
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.show());
    canvas.addEventListener("blur", () => {
      if (this.down) this.lift();
      this.show();
    });
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  begin(point) {
    this.stroke = [point];
    this.strokes.push(this.stroke);
    this.element.classList.remove("empty");
  }

  key(event) {
    if (this.pointer !== undefined) return; // a pointer is drawing
    if (event.key in MOVES) {
      const step = event.shiftKey ? STEP.small : STEP.large;
      this.at = this.at.map((x, i) => Math.min(1, Math.max(0, x + step * MOVES[event.key][i])));
      if (this.down) this.stroke.push(this.at);
    } else if (event.key === " ") {
      if (this.down) this.lift();
      else {
        this.down = true;
        this.begin(this.at);
        this.say("Pen down");
      }
    } else if (event.key === "Backspace" || (event.key === "z" && (event.ctrlKey || event.metaKey))) this.undo();
    else if (event.key === "Delete") this.clear();
    else return;
    event.preventDefault();
    this.show();
  }

  lift() {
    this.down = false;
    this.say("Pen up");
    this.drawn();
  }

  undo() {
    this.down = false;
    if (this.strokes.length) this.strokes.pop();
    else this.content = null;
    this.drawn();
  }

  clear() {
    this.down = false;
    this.strokes = [];
    this.content = null;
    this.drawn();
  }

  load(pixels) {
    this.strokes = [];
    super.load(pixels);
    this.show();
  }

  // What is on the pad has changed.
  drawn() {
    this.show();
    this.element.classList.toggle("empty", this.empty);
    if (!this.strokes.length) this.settle(this.content);
    else this.send(this.file());
  }

  file() {
    const canvas = element("canvas", { width: FILE, height: FILE });
    const context = canvas.getContext("2d");
    context.fillStyle = "#fff";
    context.fillRect(0, 0, FILE, FILE);
    this.render(context, FILE, "#000000", false);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }

  show() {
    const size = Math.round(this.canvas.clientWidth * devicePixelRatio);
    if (!size) return;
    this.canvas.width = this.canvas.height = size; // clears it
    this.render(this.canvas.getContext("2d"), size, colour("--ink"), this.canvas.matches(":focus-visible"));
    if (this.pixels) paint(this.preview, this.pixels);
  }

  render(context, size, ink, cursor) {
    if (this.content) {
      const below = element("canvas");
      paint(below, this.content, ink);
      context.imageSmoothingEnabled = false;
      context.drawImage(below, 0, 0, size, size);
    }
    Object.assign(context, { strokeStyle: ink, fillStyle: ink, lineWidth: PEN * size, lineCap: "round", lineJoin: "round" });
    for (const points of this.strokes) {
      context.beginPath();
      context.moveTo(points[0][0] * size, points[0][1] * size);
      for (const [x, y] of points) context.lineTo(x * size, y * size);
      context.stroke();
      context.beginPath(); // a dot, because a line without length leaves no ink
      context.arc(points[0][0] * size, points[0][1] * size, (PEN * size) / 2, 0, 2 * Math.PI);
      context.fill();
    }
    if (cursor) {
      context.beginPath();
      context.lineWidth = Math.max(1, size / 80);
      context.strokeStyle = colour("--accent");
      context.arc(this.at[0] * size, this.at[1] * size, (PEN + 0.02) * size, 0, 2 * Math.PI);
      context.stroke();
    }
  }
}
