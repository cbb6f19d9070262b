// Who rings whom: a heat map of the doorbells a second, on a logarithmic scale.

import { interpolateRgbBasis, scaleSequentialLog } from "./d3.js";
import { peer, rate } from "./words.js";

const MOST = 64; // rows and columns: of more peers those that are busiest
const MARGIN = 120;
const SMALL_MARGIN = 64;

export class Matrix {
  #canvas;
  #store;
  #said;
  #legend;
  #ids = [];
  #values = [];
  #cell = null; // row and column that are looked at
  #side = 10;
  #margin = MARGIN;

  constructor(canvas, said, legend, store) {
    this.#canvas = canvas;
    this.#said = said;
    this.#legend = legend;
    this.#store = store;
    canvas.addEventListener("pointermove", (event) => this.#point(event));
    canvas.addEventListener("pointerleave", () => this.#look(null));
    canvas.addEventListener("blur", () => this.#look(null));
    canvas.addEventListener("keydown", (event) => this.#key(event));
  }

  draw() {
    const now = performance.now() / 1000;
    this.#choose(now);
    const { rates } = this.#store;
    this.#values = this.#ids.map((src) => this.#ids.map((dst) => rates.of(`${src} ${dst}`, now)));
    const most = Math.max(10, ...this.#values.flat());
    const colours = getComputedStyle(this.#canvas);
    const ramp = interpolateRgbBasis([1, 2, 3, 4, 5].map((i) => colours.getPropertyValue(`--heat-${i}`).trim()));
    this.#paint(scaleSequentialLog([0.5, most], ramp), colours);
    this.#legend.textContent = rate(most);
    this.#describe();
    this.#tell();
  }

  #choose(now) {
    const { peers, rings, rung } = this.#store;
    let ids = [...peers.keys()];
    if (ids.length > MOST) {
      const busy = new Map(ids.map((id) => [id, rings.of(id, now) + rung.of(id, now)]));
      ids = ids.sort((a, b) => busy.get(b) - busy.get(a) || a - b).slice(0, MOST);
    }
    this.#ids = ids.sort((a, b) => a - b);
  }

  #paint(scale, colours) {
    const n = Math.max(this.#ids.length, 1);
    const width = this.#canvas.parentElement.clientWidth;
    this.#margin = this.#room(width < 480 ? SMALL_MARGIN : MARGIN, colours);
    this.#side = Math.max(3, Math.min(34, Math.floor((width - this.#margin) / n)));
    const extent = this.#margin + this.#side * n + 1;
    const dots = window.devicePixelRatio || 1;
    if (this.#canvas.width !== Math.round(extent * dots)) {
      this.#canvas.width = this.#canvas.height = Math.round(extent * dots);
      this.#canvas.style.width = this.#canvas.style.height = `${extent}px`;
    }
    const context = this.#canvas.getContext("2d");
    context.setTransform(dots, 0, 0, dots, 0, 0);
    context.clearRect(0, 0, extent, extent);
    this.#paintCells(context, scale, colours);
    if (this.#side >= 8) this.#paintNames(context, colours);
  }

  // What the longest name takes, but not too much.
  #room(most, colours) {
    const context = this.#canvas.getContext("2d");
    context.font = `13px ${colours.fontFamily}`;
    const widths = this.#ids.map((id) => context.measureText(peer(id, this.#store.name(id))).width);
    return Math.min(most, Math.ceil(Math.max(12, ...widths)) + 14);
  }

  #paintCells(context, scale, colours) {
    const [none, self] = [colours.getPropertyValue("--heat-1"), colours.getPropertyValue("--line")];
    const gap = this.#side > 6 ? 1 : 0;
    this.#values.forEach((row, r) =>
      row.forEach((value, c) => {
        context.fillStyle = value > 0 ? scale(Math.max(value, 0.5)) : r === c ? self : none;
        const [x, y] = [this.#margin + c * this.#side, this.#margin + r * this.#side];
        context.fillRect(x, y, this.#side - gap, this.#side - gap);
      }),
    );
    if (this.#cell) {
      const [r, c] = this.#cell;
      context.strokeStyle = colours.getPropertyValue("--ink");
      context.lineWidth = 2;
      context.strokeRect(this.#margin + c * this.#side, this.#margin + r * this.#side, this.#side - gap, this.#side - gap);
    }
  }

  #paintNames(context, colours) {
    context.fillStyle = colours.getPropertyValue("--soft");
    context.font = `${Math.min(13, this.#side)}px ${colours.fontFamily}`;
    context.textBaseline = "middle";
    this.#ids.forEach((id, i) => {
      const text = peer(id, this.#store.name(id));
      const at = this.#margin + (i + 0.5) * this.#side;
      context.textAlign = "right";
      context.fillText(this.#fitting(context, text), this.#margin - 8, at);
      context.save();
      context.translate(at, this.#margin - 8);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(this.#fitting(context, text), 0, 0);
      context.restore();
    });
  }

  #fitting(context, text) {
    const letters = [...text];
    const room = this.#margin - 12;
    if (context.measureText(text).width <= room) return text;
    while (letters.length > 1 && context.measureText(`${letters.join("")}…`).width > room) letters.pop();
    return `${letters.join("")}…`;
  }

  #describe() {
    const pairs = this.#values.flatMap((row, r) => row.map((value, c) => [value, r, c])).filter(([value]) => value > 0);
    const [most] = pairs.sort((a, b) => b[0] - a[0]);
    const first = most ? `; most: ${this.#words(most[1], most[2])}` : "";
    const what = `Doorbells a second from row to column, ${this.#ids.length} peers, ${pairs.length} pairs ring${first}`;
    this.#canvas.setAttribute("aria-label", what);
  }

  #words(r, c) {
    const [src, dst] = [this.#ids[r], this.#ids[c]];
    const names = `${peer(src, this.#store.name(src))} → ${peer(dst, this.#store.name(dst))}`;
    return `${names}: ${rate(this.#values[r][c])}/s`;
  }

  #tell() {
    const [r, c] = this.#cell ?? [0, 0];
    const text = this.#cell && r < this.#ids.length && c < this.#ids.length ? this.#words(r, c) : "";
    if (this.#said.textContent !== text) this.#said.textContent = text;
  }

  #look(cell) {
    this.#cell = cell;
    this.draw();
  }

  #point(event) {
    const box = this.#canvas.getBoundingClientRect();
    const c = Math.floor((event.clientX - box.left - this.#margin) / this.#side);
    const r = Math.floor((event.clientY - box.top - this.#margin) / this.#side);
    const last = this.#ids.length - 1;
    this.#look(r < 0 || c < 0 || r > last || c > last ? null : [r, c]);
  }

  #key(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const last = this.#ids.length - 1;
    if (event.key === "Escape") return this.#look(null);
    if (!(event.key in steps) || last < 0) return undefined;
    event.preventDefault();
    const [r, c] = this.#cell ?? [0, -1];
    const within = (at) => Math.min(last, Math.max(0, at));
    return this.#look([within(r + steps[event.key][0]), within(c + steps[event.key][1])]);
  }
}
