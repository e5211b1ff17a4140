// The map, loaded when it is opened: records or files as points, which are near each other if their words are similar.

import { $, draw, element, errorIn, lastUpTo, NONE, number, visible, year } from "./draw.mjs";
import { Similar } from "./embedding.mjs";
import { Plot, WHOLE } from "./plot.mjs";

export { countWords } from "./embedding.mjs";

// Ten colours that are distinct with colour blindness too, on white and on black, and grey for all other values.
const COLOURS = ["#4477dd", "#dd6622", "#229988", "#bb3366", "#997700", "#8855cc", "#33aadd", "#cc4444", "#669922", "#aa6688"];
const OTHERS = "#8a929b";
const FILTERS = { language: "group", license: "license", year: "year" };
const NEAR = 10; // similar ones that are listed
const REST = 200; // ms after a movement until the address is updated
const GLANCE = 50; // ms on a point until it is looked up
const PLACED_BY = 5; // nearest points among which a text is placed

/** A colour as the value of a pixel, without opacity. */
const ink = (hex) => parseInt(hex.slice(5, 7) + hex.slice(3, 5) + hex.slice(1, 3), 16);

/** Colours of points by their values, and the legend: values with their numbers of points. */
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

/** A place in the address, as an argument of `Plot.look`. */
function placeIn(text) {
  const found = (text ?? "").split(",").map(Number);
  return found.length === 3 && found.every(Number.isFinite) ? found : WHOLE;
}

export class PointMap {
  /** `view()` is the address; `go(changes)` changes it, `choose(changes)` also changes filters, `note(changes)` draws nothing. */
  constructor(dataset, { view, choose, go, note }) {
    Object.assign(this, { dataset, view, choose, go, similar: new Similar(dataset), shown: {}, turn: 0, marked: [], own: null, line: null, cover: null });
    this.plot = new Plot($("points"), {
      hover: (index) => this.say(index),
      click: (index) => this.go({ near: this.nameOf(index), like: "" }),
      marks: (stroke, place) => this.mark(stroke, place),
      moved: ([x, y, k]) => {
        clearTimeout(this.resting);
        if (!this.shown.of) return; // the place in the address is not shown yet
        const place = [x.toFixed(6), y.toFixed(6), k.toPrecision(4)].map(Number).join(",");
        const at = place === WHOLE.join(",") ? "" : place;
        this.resting = setTimeout(() => {
          if (!$("map").open) return;
          this.shown.at = at;
          note({ at });
        }, REST);
      },
    });
    this.glance = element("canvas", { id: "glance", hidden: true });
    $("points").append(this.glance);
    $("lasso-start").addEventListener("click", () => this.startLasso());
    $("like").addEventListener("submit", (event) => {
      event.preventDefault();
      this.search($("like-text").value).catch(errorIn("place"));
    });
  }

  /**
   * Draw records or files, coloured by a column, as the address says: the place (`at`), the line around chosen points, and
   * what is searched for. `fitting()` tells which of them fit the filters.
   */
  async draw({ of, by, at = "", lasso, near, like, filters, fitting }) {
    const mine = ++this.turn;
    const before = this.shown;
    const isOther = of !== before.of;
    const points = await this.dataset.points(of);
    const values = isOther || by !== before.by ? await this.valuesOf(of, by) : this.values;
    if (mine !== this.turn) return;
    Object.assign(this, { points, values, line: lasso, shown: { ...before, of, by } });
    if (isOther || by !== before.by) this.colours = { ...colour(values, by), positions: points.positions, chosen: isOther ? null : this.colours.chosen };
    if (isOther || at !== before.at) this.plot.look(placeIn(at));
    this.paint();
    const sought = near ? `near ${near}` : like;
    Object.assign(this.shown, { at, sought, filters });
    await Promise.all([
      (isOther || sought !== before.sought) && this.seek(of, near, like),
      (isOther || filters !== before.filters) && this.mute(filters, fitting),
    ]);
  }

  /** Draw points faintly that do not fit the filters, if these are still the same. */
  async mute(filters, fitting) {
    const { points } = this;
    let fits = null;
    try {
      fits = await fitting();
    } finally {
      if (filters === this.shown.filters && points === this.points) {
        this.colours.chosen = fits && Uint8Array.from(points.rows, (row, i) => fits(points.records[i], row));
        this.paint();
      }
    }
  }

  async valuesOf(of, by) {
    const values = await this.dataset.pointValues(of, by);
    if (by !== "year") return values;
    const years = new Map(); // equal dates are one object
    return values.map((date) => years.get(date) ?? years.set(date, year(date)).get(date));
  }

  /** Draw the points, and the legend with the number of chosen points of each colour. */
  paint() {
    const { codes, chosen, legend } = this.colours;
    const { of, by } = this.shown;
    this.plot.show(this.colours);
    const counts = new Array(legend.length + 1).fill(0);
    for (let i = 0; i < codes.length; i++) if (!chosen || chosen[i]) counts[codes[i]] += 1;
    const filter = FILTERS[by];
    const focus = [...$("legend").children].indexOf(document.activeElement);
    $("legend").replaceChildren(...legend.map(({ value, colour: hex }, i) => {
      const dot = element("span", { className: "dot", "aria-hidden": "true" });
      dot.style.background = hex;
      const isOnly = this.view()[filter] === value;
      const button = element("button", { type: "button", "aria-pressed": String(isOnly) }, dot, element("bdi", {}, visible(value)), ` ${number.format(counts[i])}`);
      button.addEventListener("click", () => this.choose({ [filter]: isOnly ? "" : value }));
      return button;
    }));
    $("legend").children[focus]?.focus();
    const { rows, total, every } = this.points;
    const said = [];
    if (rows.length < total && every > 1) said.push(`${number.format(rows.length)} of ${number.format(total)} ${of} are drawn.`);
    if (chosen) said.push(`${number.format(counts.reduce((sum, each) => sum + each))} of ${number.format(rows.length)} points fit.`);
    $("sampled").textContent = said.join(" ");
  }

  /** Draw rings around the marked points, a cross at the place of a text, and the line drawn by hand. */
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

  /** The point of a row; -1 if none is drawn. */
  indexOf(row) {
    const { rows } = this.points;
    const found = lastUpTo(rows, row);
    return rows[found] === row ? found : -1;
  }

  /** The name of a row, and the address for a click on it. */
  async about(row) {
    const { of, by } = this.shown;
    const rest = { map: by, ...(of === "files" ? { of } : {}) };
    if (of === "files") {
      const { path, first_image: first, n_images: images, record_id: record } = await this.dataset.table("files").row(row, ["path", "first_image", "n_images", "record_id"]);
      const image = images ? first : null;
      return { text: `${path}, record ${record}`, to: { image, ...rest } };
    }
    const { title, record_id: record } = await this.dataset.table("records").row(row, ["title", "record_id"]);
    return { text: title ?? `Record ${record}`, to: { record, ...rest } };
  }

  /** Show the name of a point, and its first image. */
  async say(index) {
    if (this.hovered === index) return;
    this.hovered = index;
    this.glance.hidden = true;
    if (index < 0) return;
    await new Promise((done) => setTimeout(done, GLANCE));
    if (this.hovered !== index) return;
    const row = this.points.rows[index];
    const { text, to } = await this.about(row);
    if (this.hovered !== index) return;
    $("place").textContent = [text, this.values[index]].filter(Boolean).map(visible).join(", ");
    const { dataset } = this;
    const image = this.shown.of === "files" ? to.image : await this.firstImage(row);
    if (image == null) return;
    const pixels = await dataset.image(image);
    if (this.hovered !== index) return;
    draw(this.glance, pixels, dataset.height, dataset.width);
    this.glance.classList.toggle("left", this.plot.place(...this.placeOf(index))[0] > this.plot.width / 2); // off the point
    this.glance.hidden = false;
  }

  /** The first image of a record; null if it has none. */
  async firstImage(row) {
    const first = await this.dataset.firstImages();
    return first[row] === (first[row + 1] ?? this.dataset.info.counts.images) ? null : first[row];
  }

  /** The name of a point in the address: a record's number, a file's row. */
  nameOf(index) {
    return this.points[this.shown.of === "files" ? "rows" : "records"][index];
  }

  /** List and mark what is most similar to a point, or to a pasted text. */
  async seek(of, near, like) {
    this.marked = [];
    this.own = null;
    this.plot.redraw();
    $("near").replaceChildren();
    if (near) {
      const index = of === "files" ? this.indexOf(Number(near)) : this.points.records.indexOf(Number(near));
      if (index < 0) throw new Error(`${of === "files" ? "file" : "record"} ${near} has no point: it has no words, or is not drawn`);
      const row = this.points.rows[index];
      const found = of === "files" ? await this.nearFile(row, index) : await this.nearRecord(row);
      await this.list(`The ${of === "files" ? "file" : "record"}, and the most similar ones`, [{ row }, ...found], `near ${near}`);
    } else if (like) await this.find(of, like);
  }

  async nearRecord(row) {
    const { neighbours, similarity } = await this.dataset.table("derived/record_map").row(row, ["neighbours", "similarity"]);
    const { records, rows } = this.points;
    return (neighbours ?? []).flatMap((id, i) => {
      const at = records.indexOf(Number(id));
      return at < 0 ? [] : [{ row: rows[at], likeness: similarity?.[i] }];
    });
  }

  /** The most similar files of other records: by their vectors, or else the nearest on the map. */
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

  /** Mark rows on the map and list them, if the search is still the same. */
  async list(title, found, sought, own = null) {
    const items = await Promise.all(found.map(async ({ row, likeness }) => {
      const { text, to } = await this.about(row);
      const link = element("a", { href: `#${new URLSearchParams(to)}` }, visible(text));
      link.addEventListener("click", () => {
        const kept = Object.entries(this.view()).filter(([name]) => ["at", "near", "like"].includes(name));
        link.hash = new URLSearchParams([...Object.entries(to), ...kept]);
      });
      return element("li", {}, link, likeness === undefined ? "" : ` ${likeness.toFixed(2)}`);
    }));
    if (sought !== this.shown.sought) return;
    this.own = own;
    this.marked = found.map(({ row }) => this.indexOf(row)).filter((index) => index >= 0);
    this.plot.redraw();
    $("near").replaceChildren(element("h2", {}, title), element("ol", { start: found[0]?.likeness === undefined ? 0 : 1 }, ...items));
  }

  /** Search for a text: its vector is put into the address, and then `find` is called. */
  async search(text) {
    $("place").textContent = "comparing ...";
    const vector = await this.similar.embed(text);
    if (!vector) throw new Error("there is no word in it to compare: paste some code or text");
    const like = `${this.similar.version}.${base64(vector)}`;
    this.shown.sought = null; // the same text is sought again
    this.go({ like, near: "" });
  }

  async find(of, like) {
    const [version, vector] = like.split(".");
    if (version !== this.similar.version) throw new Error("the vectors were computed again after this link was made: paste the text again");
    $("place").textContent = "comparing ...";
    const found = await this.similar.find(of, bytes(vector), NEAR);
    const placed = found.map(({ row, likeness }) => [this.indexOf(row), 1 / Math.max(1 - likeness, 1e-4)]).filter(([index]) => index >= 0).slice(0, PLACED_BY);
    const whole = placed.reduce((sum, [, weight]) => sum + weight, 0);
    const own = placed.length ? [0, 1].map((axis) => placed.reduce((sum, [index, weight]) => sum + (weight / whole) * this.placeOf(index)[axis], 0)) : null;
    await this.list(`The ${of} most similar to the pasted text`, found, like, own);
    $("place").textContent = found.length ? "The cross marks the text, the rings mark what is most similar to it." : `No ${of} to compare with.`;
  }

  /** Let the next drag draw a line around points, to choose them; a second call cancels this. */
  startLasso() {
    const end = () => {
      this.cover?.remove();
      this.cover = null;
      $("lasso-start").setAttribute("aria-pressed", "false");
    };
    if (this.cover) return end();
    const cover = (this.cover = element("div", { className: "cover" }));
    $("lasso-start").setAttribute("aria-pressed", "true");
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
      end();
      // For a line drawn by hand, a hundred corners are enough.
      const every = Math.ceil(this.line.length / 100);
      const corners = this.line.filter((_, i) => i % every === 0);
      if (corners.length > 2) this.choose({ lasso: corners.flat().map((value) => value.toFixed(3)).join(",") });
    });
    $("points").append(cover);
  }
}
