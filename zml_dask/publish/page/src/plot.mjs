// Points on a canvas, set pixel by pixel: a million take a tenth of a second without a graphics card. For each pixel
// the point is stored, so that pointing at one needs no search.

import { select } from "d3-selection";
import { zoom, zoomIdentity } from "d3-zoom";

const EDGE = 24; // pixels beyond each side, so that points at the border need no check
const REACH = 4; // pixels around the pointer
const PATIENCE = 40; // ms: if drawing takes longer, fewer points are drawn during a movement
const REST = 150; // ms after a movement until all points are drawn
const STEP = 60; // pixels by which an arrow key moves
export const WHOLE = [0, 0, 1]; // the place in the middle, and the magnification
const SCALES = [0.5, 5_000];
const FAINT = 0x9a928a; // colour of points that are not chosen

/** Pixels of a disk, as offsets in an image of some width, and their opacity, 0 to 255. */
function disk(radius, width, ink) {
  const at = [];
  const alpha = [];
  const reach = Math.ceil(radius);
  for (let y = -reach; y <= reach; y++) {
    for (let x = -reach; x <= reach; x++) {
      const covered = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y)));
      if (covered < 0.1) continue;
      at.push(y * width + x);
      alpha.push(Math.round(ink * covered));
    }
  }
  return { at: Int32Array.from(at), alpha: Uint8Array.from(alpha) };
}

export class Plot {
  /**
   * `marks(stroke, place)` draws over the points: `stroke(path, width)` draws a path, and `place(x, y)` is a place on the
   * screen. `moved(view)` is called with the view, as for `look`.
   */
  constructor(box, { hover, click, marks, moved }) {
    Object.assign(this, { box, hover, marks, seen: WHOLE, transform: zoomIdentity, cost: 0, points: null });
    this.canvas = document.createElement("canvas");
    this.context = this.canvas.getContext("2d");
    box.prepend(this.canvas);
    this.zoom = zoom().scaleExtent(SCALES).clickDistance(4).on("zoom", ({ transform }) => {
      this.transform = transform;
      this.seen = [...this.unplace([this.width / 2, this.height / 2]), transform.k];
      this.redraw(true);
      moved(this.seen);
    });
    this.view = select(this.canvas).call(this.zoom).on("dblclick.zoom", null);
    this.canvas.addEventListener("pointermove", ({ offsetX: x, offsetY: y, buttons }) => {
      if (buttons) return;
      const found = this.find(x, y, REACH);
      this.canvas.style.cursor = found < 0 ? "" : "pointer";
      hover(found);
    });
    this.canvas.addEventListener("click", ({ offsetX: x, offsetY: y }) => {
      const found = this.find(x, y, REACH);
      if (found >= 0) click(found);
    });
    box.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const arrows = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      const factor = { "+": 1.5, "=": 1.5, "-": 1 / 1.5 }[event.key];
      if (arrows) this.zoom.translateBy(this.view, ...arrows.map((sign) => (sign * STEP) / this.transform.k));
      else if (factor) this.zoom.scaleBy(this.view, factor);
      else if (event.key === "0") this.look(WHOLE);
      else if (event.key === "Enter" && this.middle() >= 0) click(this.middle());
      else if (event.key !== "Enter") return;
      event.preventDefault();
      event.stopPropagation(); // elsewhere arrows turn pages
    });
    for (const name of ["focus", "blur"]) box.addEventListener(name, () => this.redraw());
    new ResizeObserver(() => this.resize()).observe(box);
    this.resize();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.box;
    if (!width || !height) return;
    this.ratio = Math.min(devicePixelRatio, 3);
    Object.assign(this, { width, height, unit: Math.min(width, height) / 2.2 });
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(height * this.ratio);
    this.image = this.context.createImageData(this.canvas.width + 2 * EDGE, this.canvas.height + 2 * EDGE);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.owners = new Int32Array(this.pixels.length);
    this.look(this.seen);
  }

  /**
   * Draw other points: `positions` is x, y, x, y, ..., from -1 to 1; `codes` are their colours in `palette`, and `chosen`
   * tells which are not drawn faintly; null: all.
   */
  show(points) {
    this.points = points;
    this.redraw();
  }

  /** Show a place with some magnification. */
  look([x, y, k]) {
    this.seen = [x, y, k];
    if (!this.width) return; // not visible yet: `resize` calls this again
    const [left, top] = [this.width / 2, this.height / 2];
    this.zoom.transform(this.view, zoomIdentity.translate(left, top).scale(Math.min(SCALES[1], Math.max(SCALES[0], k))).translate(-left - x * this.unit, y * this.unit - top));
  }

  /** The position of a place on the screen; `unplace` is the inverse. */
  place(x, y) {
    return this.transform.apply([this.width / 2 + x * this.unit, this.height / 2 - y * this.unit]);
  }

  unplace(at) {
    const [x, y] = this.transform.invert(at);
    return [(x - this.width / 2) / this.unit, (this.height / 2 - y) / this.unit];
  }

  /** The point nearest to a position on the screen; -1 if none is within reach. */
  find(x, y, reach) {
    const [column, row] = [x, y].map((value) => Math.round(value * this.ratio) + EDGE);
    const distance = Math.min(Math.round(reach * this.ratio), column, row, this.image.width - 1 - column, this.image.height - 1 - row);
    let found = -1;
    let least = Infinity;
    for (let dy = -distance; dy <= distance; dy++) {
      for (let dx = -distance; dx <= distance; dx++) {
        const owner = this.owners[(row + dy) * this.image.width + column + dx];
        if (owner && dx * dx + dy * dy < least) {
          least = dx * dx + dy * dy;
          found = owner - 1;
        }
      }
    }
    return found;
  }

  middle() {
    return this.find(this.width / 2, this.height / 2, EDGE);
  }

  redraw(moving = false) {
    this.moving = moving;
    this.box.dataset.state = "drawing";
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      if (this.points && this.image) this.draw();
    });
  }

  draw() {
    const every = this.moving ? Math.max(1, Math.ceil(this.cost / PATIENCE)) : 1;
    const start = performance.now();
    this.set(every);
    const { context, ratio } = this;
    context.putImageData(this.image, -EDGE, -EDGE);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    const { color, backgroundColor: around } = getComputedStyle(this.box);
    const stroke = (path, width) => {
      for (const [style, lineWidth] of [[around, width + 2], [color, width]]) {
        Object.assign(context, { strokeStyle: style, lineWidth });
        context.stroke(path);
      }
    };
    this.marks(stroke, (x, y) => this.place(x, y));
    if (this.box.matches(":focus-visible")) {
      const [x, y] = [this.width / 2, this.height / 2];
      stroke(new Path2D(`M${x - 12} ${y}h24M${x} ${y - 12}v24`), 1);
      this.hover(this.middle());
    }
    clearTimeout(this.later);
    if (every > 1) this.later = setTimeout(() => this.redraw(), REST);
    else {
      this.cost = performance.now() - start;
      this.box.dataset.state = "drawn";
    }
  }

  /** Set the pixels of every n-th point, those that are not chosen first. */
  set(every) {
    this.pixels.fill(0);
    this.owners.fill(0);
    const { codes, chosen } = this.points;
    const n = chosen ? chosen.reduce((sum, each) => sum + each, 0) : codes.length;
    if (n < codes.length) this.setThose(0, codes.length - n, every);
    if (n) this.setThose(1, n, Math.ceil((every * n) / codes.length));
  }

  setThose(which, n, every) {
    const { pixels, owners, ratio, unit, transform: { k, x, y } } = this;
    const { positions, codes, palette, chosen } = this.points;
    const { width, height } = this.image;
    // Points are as large as space permits, and fainter if there are many; where they overlap it is darker.
    const space = (0.8 * unit * k) / Math.sqrt(n);
    const radius = ratio * Math.min(5, Math.max(0.3, space));
    const { at, alpha } = disk(radius, width, which ? (space < 1 ? 130 : 220) : 60);
    const scale = k * unit * ratio;
    const left = (k * this.width / 2 + x) * ratio + EDGE + 0.5;
    const top = (k * this.height / 2 + y) * ratio + EDGE + 0.5;
    const edge = Math.ceil(radius) + 1;
    for (let i = 0; i < codes.length; i += every) {
      if (chosen && chosen[i] !== which) continue;
      const column = left + scale * positions[2 * i];
      const row = top - scale * positions[2 * i + 1];
      if (!(column >= edge && column < width - edge && row >= edge && row < height - edge)) continue;
      const centre = (row | 0) * width + (column | 0);
      const ink = which ? palette[codes[i]] : FAINT;
      for (let j = 0; j < at.length; j++) {
        const pixel = centre + at[j];
        const before = pixels[pixel] >>> 24;
        const after = which ? before + (((255 - before) * alpha[j]) >> 8) : Math.max(before, alpha[j]);
        pixels[pixel] = (after << 24) | ink;
        owners[pixel] = i + 1;
      }
    }
  }
}
