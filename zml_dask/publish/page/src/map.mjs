// The map, loaded when it is opened: records or files as points, near one another where their words are alike.

import { element, NONE, visible, year } from "./draw.mjs";
import { Similar } from "./embedding.mjs";
import { Plot } from "./plot.mjs";

export { countWords } from "./embedding.mjs";

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
// Ten that people who see colours differently tell apart on white and on black, then grey for all others.
const COLOURS = ["#4477dd", "#dd6622", "#229988", "#bb3366", "#997700", "#8855cc", "#33aadd", "#cc4444", "#669922", "#aa6688"];
const OTHERS = "#8a929b";
const FILTERS = { language: "group", license: "license", year: "year" };
const NEAR = 10; // of a point
const PLACED_BY = 5; // a text lies among so many, as the points do that the map was not drawn of

/** A colour as a pixel has it, without its opacity. */
const ink = (hex) => parseInt(hex.slice(5, 7) + hex.slice(3, 5) + hex.slice(1, 3), 16);

/** Colours of points by their values, and the legend: values with how many points each has. */
function colour(values, by) {
  const numbers = new Map();
  const counts = [];
  const all = new Uint32Array(values.length);
  for (let i = 0; i < all.length; i++) {
    let known = numbers.get(values[i]);
    if (known === undefined) numbers.set(values[i], (known = counts.push(0) - 1));
    counts[known] += 1;
    all[i] = known;
  }
  const named = [...numbers].map(([value, i]) => ({ value: value ?? NONE, i, count: counts[i] }));
  const legend = named.sort((a, b) => b.count - a.count || (a.value < b.value ? -1 : 1)).slice(0, COLOURS.length);
  if (by === "year") legend.sort((a, b) => (a.value < b.value ? -1 : 1));
  legend.forEach((each, i) => { each.colour = each.value === NONE ? OTHERS : COLOURS[i]; });
  const place = new Uint8Array(counts.length).fill(legend.length);
  legend.forEach(({ i }, at) => { place[i] = at; });
  return { legend, codes: new Uint8Array(all.length).map((_, i) => place[all[i]]), palette: Uint32Array.from([...legend.map((each) => each.colour), OTHERS], ink) };
}

const base64 = (bytes) => btoa(String.fromCharCode(...new Uint8Array(bytes.buffer))).replaceAll("+", "-").replaceAll("/", "_");
const bytes = (text) => Int8Array.from(atob(text.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));

export class PointMap {
  /** `choose(changes)` changes what the address chooses, `go(changes)` the address alone. */
  constructor(dataset, choose, go) {
    Object.assign(this, { dataset, choose, go, similar: new Similar(dataset), shown: {}, marked: [], own: null, line: null });
    this.plot = new Plot($("points"), {
      hover: (index) => this.say(index),
      click: (index) => this.tell(() => this.pick(index)),
      marks: (stroke, place) => this.mark(stroke, place),
    });
    $("lasso-start").addEventListener("click", () => this.startLasso());
    $("like").addEventListener("submit", (event) => {
      event.preventDefault();
      this.tell(() => this.search($("like-text").value));
    });
  }

  /** Do something, and say beside the map what is wrong with it. */
  tell(act) {
    return act().catch((error) => { $("place").textContent = visible(error.message); });
  }

  /** Draw records or files, coloured by a column, with the address's lasso and what it searches for. */
  async draw({ of, by, lasso, like }) {
    if (of !== this.shown.of) {
      this.points = await this.dataset.points(of);
      this.marked = [];
      this.own = null;
      this.plot.reset();
      $("near").replaceChildren();
    }
    if (of !== this.shown.of || by !== this.shown.by) {
      const values = await this.dataset.pointValues(of, by);
      const years = new Map(); // equal dates are one object
      const yearOf = (date) => years.get(date) ?? years.set(date, year(date)).get(date);
      this.values = by === "year" ? values.map(yearOf) : values;
      const { legend, ...colours } = colour(this.values, by);
      this.plot.show({ positions: this.points.positions, ...colours });
      $("legend").replaceChildren(...legend.map(({ value, count, colour: hex }) => {
        const dot = element("span", { className: "dot", "aria-hidden": "true" });
        dot.style.background = hex;
        const button = element("button", { type: "button" }, dot, element("bdi", {}, visible(value)), ` ${number.format(count)}`);
        button.addEventListener("click", () => this.choose({ [FILTERS[by]]: value }));
        return button;
      }));
    }
    const { shown } = this;
    this.shown = { of, by, like };
    this.line = lasso;
    this.plot.redraw();
    const { rows, total } = this.points;
    $("sampled").textContent = rows.length < total && this.points.every > 1 ? `${number.format(rows.length)} of ${number.format(total)} ${of} are drawn.` : "";
    if (like && (like !== shown.like || of !== shown.of)) await this.find(like);
  }

  /** Rings around what is chosen, a cross where a text lies, and the line drawn by hand. */
  mark(stroke, place) {
    this.marked.forEach((index, i) => {
      const ring = new Path2D();
      ring.arc(...place(...this.placeOf(index)), 8, 0, 2 * Math.PI);
      stroke(ring, i || this.own ? 2 : 4);
    });
    if (this.own) {
      const [x, y] = place(...this.own);
      stroke(new Path2D(`M${x - 9} ${y - 9}l18 18m0 -18l-18 18`), 4);
    }
    if (this.line?.length) {
      const path = new Path2D();
      for (const corner of this.line) path.lineTo(...place(...corner));
      path.closePath();
      stroke(path, 2);
    }
  }

  placeOf(index) {
    return this.points.positions.subarray(2 * index, 2 * index + 2);
  }

  /** The point of a row; -1 where none is drawn. Rows ascend. */
  indexOf(row) {
    const { rows } = this.points;
    let low = 0;
    let high = rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (rows[middle] < row) low = middle + 1;
      else high = middle;
    }
    return rows[low] === row ? low : -1;
  }

  /** What a row is called, and where a click on it leads. */
  async about(row) {
    const { of, by } = this.shown;
    const rest = { map: by, ...(of === "files" ? { of } : {}) };
    if (of === "files") {
      const { path, first_image: image, record_id: record } = await this.dataset.table("files").row(row, ["path", "first_image", "record_id"]);
      return { text: `${path}, record ${record}`, to: { image, ...rest } };
    }
    const { title, record_id: record } = await this.dataset.table("records").row(row, ["title", "record_id"]);
    return { text: title ?? `Record ${record}`, to: { record, ...rest } };
  }

  async say(index) {
    if (this.hovered === index) return;
    this.hovered = index;
    if (index < 0) return;
    const { text } = await this.about(this.points.rows[index]);
    if (this.hovered === index) $("place").textContent = [text, this.values[index]].filter(Boolean).map(visible).join(", ");
  }

  /** Show a point and its neighbours, the most similar first. */
  async pick(index) {
    if (this.lassoing) return;
    const { of } = this.shown;
    const row = this.points.rows[index];
    const near = of === "files" ? await this.nearFile(row, index) : await this.nearRecord(row);
    this.own = null;
    await this.list(of === "files" ? "The file, and the most similar ones" : "The record, and the most similar ones", [{ row }, ...near]);
  }

  async nearRecord(row) {
    const { neighbours, similarity } = await this.dataset.table("derived/record_map").row(row, ["neighbours", "similarity"]);
    const { records, rows } = this.points;
    return (neighbours ?? []).flatMap((id, i) => {
      const at = records.indexOf(Number(id));
      return at < 0 ? [] : [{ row: rows[at], likeness: similarity?.[i] }];
    });
  }

  /** Files most like one, of other records: by their vectors, or else those that lie nearest. */
  async nearFile(row, index) {
    const record = this.points.records[index];
    if (this.similar.has("files")) {
      const { vector } = await this.similar.table("files").row(row, ["vector"]);
      if (vector) return this.similar.find("files", new Int8Array(vector), NEAR, record);
    }
    const [x, y] = this.placeOf(index);
    const { positions, records, rows } = this.points;
    const near = [];
    for (let i = 0; i < rows.length; i++) {
      const far = (positions[2 * i] - x) ** 2 + (positions[2 * i + 1] - y) ** 2;
      if (records[i] === record || (near.length === NEAR && far >= near[NEAR - 1].far)) continue;
      near.push({ row: rows[i], far });
      near.sort((a, b) => a.far - b.far);
      near.length = Math.min(near.length, NEAR);
    }
    return near;
  }

  /** Mark rows on the map and list them. */
  async list(title, found) {
    this.marked = found.map(({ row }) => this.indexOf(row)).filter((index) => index >= 0);
    this.plot.redraw();
    const items = await Promise.all(found.map(async ({ row, likeness }) => {
      const { text, to } = await this.about(row);
      return element("li", {}, element("a", { href: `#${new URLSearchParams(to)}` }, visible(text)), likeness === undefined ? "" : ` ${likeness.toFixed(2)}`);
    }));
    $("near").replaceChildren(element("h2", {}, title), element("ol", { start: found[0]?.likeness === undefined ? 0 : 1 }, ...items));
  }

  /** Find what is most like a text: its vector goes into the address, which leads to `find`. */
  async search(text) {
    $("place").textContent = "comparing ...";
    const vector = await this.similar.embed(text);
    if (!vector) throw new Error("there is no word in it to compare by: paste some code or text");
    const like = `${this.similar.version}.${base64(vector)}`;
    if (like === this.shown.like) await this.find(like);
    else this.go({ like });
  }

  async find(like) {
    const { of } = this.shown;
    const [version, vector] = like.split(".");
    if (version !== this.similar.version) throw new Error("the vectors were computed anew since this link was made: paste the text again");
    $("place").textContent = "comparing ...";
    const found = await this.similar.find(of, bytes(vector), NEAR);
    const placed = found.map(({ row, likeness }) => [this.indexOf(row), 1 / Math.max(1 - likeness, 1e-4)]).filter(([index]) => index >= 0).slice(0, PLACED_BY);
    const whole = placed.reduce((sum, [, weight]) => sum + weight, 0);
    this.own = placed.length ? [0, 1].map((axis) => placed.reduce((sum, [index, weight]) => sum + (weight / whole) * this.placeOf(index)[axis], 0)) : null;
    await this.list(`The ${of} most like what was pasted`, found);
    $("place").textContent = found.length ? "The cross is where the text lies, the rings are what is most like it." : `No ${of} to compare with.`;
  }

  /** Let the next drag draw a line around points, which are then chosen. */
  startLasso() {
    this.lassoing = true;
    const cover = element("div", { className: "cover" });
    const at = ({ offsetX, offsetY }) => this.plot.unplace([offsetX, offsetY]);
    cover.addEventListener("pointerdown", (event) => {
      cover.setPointerCapture(event.pointerId);
      this.line = [at(event)];
    });
    cover.addEventListener("pointermove", (event) => {
      if (!cover.hasPointerCapture(event.pointerId)) return;
      this.line.push(at(event));
      this.plot.redraw(true);
    });
    cover.addEventListener("pointerup", () => {
      this.lassoing = false;
      cover.remove();
      // A hundred corners in the address are enough for a line drawn by hand.
      const every = Math.ceil(this.line.length / 100);
      const corners = this.line.filter((_, i) => i % every === 0);
      if (corners.length > 2) this.choose({ lasso: corners.flat().map((value) => value.toFixed(3)).join(",") });
    });
    $("points").append(cover);
  }
}
