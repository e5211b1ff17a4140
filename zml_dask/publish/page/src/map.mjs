// The map, loaded when it is opened: records as points, near one another where their words are alike.

import { Deck, OrthographicView } from "@deck.gl/core";
import { PathLayer, ScatterplotLayer } from "@deck.gl/layers";

import { element, NONE, visible, year } from "./draw.mjs";

const $ = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
// Ten that people who see colours differently tell apart on white and on black, then grey for all others.
const COLOURS = ["#4477dd", "#dd6622", "#229988", "#bb3366", "#997700", "#8855cc", "#33aadd", "#cc4444", "#669922", "#aa6688"];
const OTHERS = "#8a929b";
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

/** Points of the map with what colours them; those without a place, or withdrawn, are left out. */
async function readPoints(dataset) {
  const [map, records] = await Promise.all([
    dataset.mapColumns(["record_id", "x", "y", "language"]),
    dataset.recordColumns(["license", "publication_date"]),
  ]);
  const rows = [];
  for (let i = 0; i < map.x.length; i++) if (map.x[i] !== null && map.x[i] !== undefined && !dataset.withdrawn.has(map.record_id[i])) rows.push(i);
  const positions = new Float32Array(2 * rows.length);
  rows.forEach((row, i) => {
    positions[2 * i] = map.x[row];
    positions[2 * i + 1] = map.y[row];
  });
  const of = { language: (row) => map.language[row], license: (row) => records.license[row], year: (row) => year(records.publication_date[row]) };
  return { rows, positions, ids: map.record_id, of };
}

/** Colours of the points by a column, and the values of the legend with how many points each has. */
function colour(points, by) {
  const values = points.rows.map((row) => points.of[by](row) ?? NONE);
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const most = [...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1)).slice(0, COLOURS.length);
  if (by === "year") most.sort((a, b) => (a[0] < b[0] ? -1 : 1));
  const legend = most.map(([value, count], i) => ({ value, count, colour: value === NONE ? OTHERS : COLOURS[i] }));
  const colours = new Map(legend.map((each) => [each.value, rgb(each.colour)]));
  const found = new Uint8Array(4 * values.length);
  values.forEach((value, i) => found.set([...(colours.get(value) ?? rgb(OTHERS)), 200], 4 * i));
  return { found, legend };
}

export class RecordMap {
  /** `choose(changes)` changes what the address chooses. */
  constructor(dataset, choose) {
    Object.assign(this, { dataset, choose, by: null, lasso: null, chosen: null });
  }

  async open() {
    this.points = await readPoints(this.dataset);
    const canvas = element("canvas", {});
    if (!canvas.getContext("webgl2")) throw new Error("the map needs WebGL 2, which this browser does not offer");
    this.deck = new Deck({
      parent: $("points"),
      views: new OrthographicView({ flipY: false }),
      initialViewState: { target: [0, 0], zoom: Math.log2(Math.min($("points").clientWidth, $("points").clientHeight) / 2.2), minZoom: 4, maxZoom: 20 },
      controller: true,
      layers: [],
      pickingRadius: 4,
      getCursor: ({ isHovering }) => (this.lasso ? "crosshair" : isHovering ? "pointer" : "grab"),
      onHover: ({ index }) => this.say(index),
      onClick: ({ index }) => index >= 0 && this.pick(index).catch((error) => { $("place").textContent = error.message; }),
      onAfterRender: () => { $("points").dataset.state = "drawn"; },
    });
    $("lasso-start").addEventListener("click", () => this.startLasso());
  }

  /** Colour by a column, and mark what is chosen: the address's lasso, and a record's neighbours. */
  draw(by, lasso) {
    if (by !== this.by) {
      this.by = by;
      const { found, legend } = colour(this.points, by);
      this.colours = found;
      const filter = { language: "group", license: "license", year: "year" }[by];
      $("legend").replaceChildren(...legend.map(({ value, count, colour: ink }) => {
        const dot = element("span", { className: "dot", "aria-hidden": "true" });
        dot.style.background = ink;
        const button = element("button", { type: "button" }, dot, element("bdi", {}, visible(value)), ` ${number.format(count)}`);
        button.addEventListener("click", () => this.choose({ [filter]: value }));
        return button;
      }));
    }
    const { positions, rows } = this.points;
    const ring = this.chosen ?? [];
    this.deck.setProps({
      layers: [
        new ScatterplotLayer({
          id: "points", pickable: true, radiusUnits: "pixels", getRadius: rows.length > 100_000 ? 1.5 : rows.length > 5_000 ? 2.5 : 5,
          data: { length: rows.length, attributes: { getPosition: { value: positions, size: 2 }, getFillColor: { value: this.colours, size: 4 } } },
        }),
        new ScatterplotLayer({
          id: "chosen", data: ring, stroked: true, filled: false, radiusUnits: "pixels", lineWidthUnits: "pixels", getLineWidth: (_, { index }) => (index ? 2 : 4),
          getRadius: 8, getLineColor: [200, 30, 30], getPosition: (i) => [positions[2 * i], positions[2 * i + 1]],
        }),
        new PathLayer({
          id: "lasso", data: lasso?.length ? [[...lasso, lasso[0]]] : [], widthUnits: "pixels", getWidth: 2, getColor: [200, 30, 30], getPath: (path) => path,
        }),
      ],
    });
    this.drawn = lasso;
  }

  async about(row) {
    const { title } = await this.dataset.table("records").row(row, ["title"]);
    const values = ["language", "license", "year"].map((name) => this.points.of[name](row)).filter(Boolean);
    return [title ?? `Record ${this.points.ids[row]}`, ...values].map(visible).join(", ");
  }

  async say(index) {
    this.hovered = index;
    if (index < 0) return;
    const text = await this.about(this.points.rows[index]);
    if (this.hovered === index) $("place").textContent = text;
  }

  /** Show a record and its neighbours, the most similar first. */
  async pick(index) {
    if (this.lasso) return;
    const row = this.points.rows[index];
    const { neighbours, similarity } = await this.dataset.neighbours(row);
    const rowOf = new Map(this.points.rows.map((each, i) => [this.points.ids[each], i]));
    const near = (neighbours ?? []).map((id, i) => ({ id: Number(id), at: rowOf.get(Number(id)), likeness: similarity?.[i] })).filter(({ at }) => at !== undefined);
    this.chosen = [index, ...near.map(({ at }) => at)];
    this.draw(this.by, this.drawn);
    const link = async (at, likeness) => {
      const id = this.points.ids[this.points.rows[at]];
      const a = element("a", { href: `#${new URLSearchParams({ record: String(id), map: this.by })}` }, await this.about(this.points.rows[at]));
      return element("li", {}, a, likeness === undefined ? "" : ` ${likeness.toFixed(2)}`);
    };
    const items = await Promise.all([link(index), ...near.map(({ at, likeness }) => link(at, likeness))]);
    $("near").replaceChildren(element("h3", {}, "The record, and the most similar ones"), element("ol", { start: 0 }, ...items));
  }

  /** Let the next drag draw a line around records, which are then chosen. */
  startLasso() {
    this.lasso = [];
    const cover = element("div", { className: "cover" });
    const at = (event) => {
      const box = cover.getBoundingClientRect();
      return this.deck.getViewports()[0].unproject([event.clientX - box.left, event.clientY - box.top]).slice(0, 2);
    };
    cover.addEventListener("pointerdown", (event) => {
      cover.setPointerCapture(event.pointerId);
      this.lasso = [at(event)];
    });
    cover.addEventListener("pointermove", (event) => {
      if (!this.lasso.length) return;
      this.lasso.push(at(event));
      this.draw(this.by, this.lasso);
    });
    cover.addEventListener("pointerup", () => {
      const path = this.lasso;
      this.lasso = null;
      cover.remove();
      // A hundred corners in the address are enough for a line drawn by hand.
      const every = Math.ceil(path.length / 100);
      const corners = path.filter((_, i) => i % every === 0);
      if (corners.length > 2) this.choose({ lasso: corners.flat().map((value) => value.toFixed(3)).join(",") });
    });
    $("points").append(cover);
  }
}
