// The dataset, read lazily by HTTP range requests: tables with hyparquet, images with zarrita.

import * as zarr from "zarrita";

import { Blosc } from "./blosc.mjs";
import { mayHold, Table } from "./parquet.mjs";

zarr.registry.set("blosc", async () => Blosc);

const SCHEMA = 2;
const MAPS = { records: "derived/record_map", files: "derived/file_map" };
const MOST_POINTS = 2_000_000; // of a map
const CHUNKS_KEPT = 16; // 1.6 MB each at 80 by 80
const ABSENT = 0x110000; // not a code point: the fill value of missing chunks

/** An array over HTTP in which missing chunks differ from blank ones: every committed chunk exists. */
class Store extends zarr.FetchStore {
  constructor(url) {
    super(url, { useSuffixRequest: true });
  }
  async get(key, options) {
    const data = await super.get(key, options);
    if (!key.endsWith("zarr.json") || !data) return data;
    const metadata = { ...JSON.parse(new TextDecoder().decode(data)), fill_value: ABSENT };
    return new TextEncoder().encode(JSON.stringify(metadata));
  }
}

const openArray = (base, name) => zarr.open.v3(new Store(new URL(`images.zarr/${name}`, base)), { kind: "array" });

const COUNTS = ["records", "files", "images", "bytes"];

/** Counts by dimension and value, as sums over all parts of the summary. */
class Summary {
  constructor(columns) {
    this.dimensions = new Map();
    columns.dimension.forEach((dimension, i) => {
      if (!this.dimensions.has(dimension)) this.dimensions.set(dimension, new Map());
      const counts = this.dimensions.get(dimension);
      const value = columns.value[i] ?? null;
      if (!counts.has(value)) counts.set(value, { value, records: 0, files: 0, images: 0, bytes: 0 });
      for (const name of COUNTS) counts.get(value)[name] += columns[name][i];
    });
  }

  /** Values of a dimension, those with the most images first. */
  ranked(dimension) {
    const shown = [...(this.dimensions.get(dimension)?.values() ?? [])].filter(({ records, files }) => records || files);
    return shown.sort((a, b) => b.images - a.images || b.files - a.files);
  }

  /** Number of images of a value; null if it is not in the summary. */
  images(dimension, value) {
    return this.dimensions.get(dimension)?.get(value)?.images ?? null;
  }
}

export class Dataset {
  static async open(base) {
    const answer = await fetch(new URL("dataset.json", base));
    if (!answer.ok) throw new Error(`${base}dataset.json: the server answers ${answer.status}`);
    const info = await answer.json();
    if (info.format !== "zml-dask" || info.schema_version !== SCHEMA) {
      throw new Error(`this is not a dataset of schema ${SCHEMA}, which this viewer reads`);
    }
    const dataset = new Dataset();
    Object.assign(dataset, { base, info, tables: new Map(), chunks: new Map(), columns: new Map() });
    const [summary, withdrawn] = await Promise.all([
      dataset.table("summary").read(["dimension", "value", ...COUNTS]),
      dataset.table("withdrawn").read(["record_id"]),
      dataset.openImages(),
    ]);
    dataset.summary = new Summary(summary);
    dataset.withdrawn = new Set(withdrawn.record_id);
    return dataset;
  }

  async openImages() {
    if (!this.info.counts.images) return;
    this.images = await openArray(this.base, "images");
    [this.chunk, this.height, this.width] = this.images.chunks;
  }

  table(name) {
    if (!this.tables.has(name)) this.tables.set(name, new Table(this.base, this.info.tables[name] ?? []));
    return this.tables.get(name);
  }

  /** Columns of all records; each is read once. */
  async recordColumns(names) {
    const missing = names.filter((name) => !this.columns.has(name));
    if (missing.length) {
      const found = this.table("records").read(missing);
      for (const name of missing) this.columns.set(name, found.then((columns) => columns[name]));
    }
    const columns = await Promise.all(names.map((name) => this.columns.get(name)));
    return Object.fromEntries(names.map((name, i) => [name, columns[i]]));
  }

  /** The first image of each record. */
  firstImages() {
    return this.once("first images", async () => {
      const { n_images: counts } = await this.recordColumns(["n_images"]);
      let images = 0;
      return counts.map((count) => (images += count) - count);
    });
  }

  /** Which maps exist: records, files. */
  get maps() {
    return Object.keys(MAPS).filter((of) => this.info.tables[MAPS[of]]?.length);
  }

  /** The result of `read`, which is called once for each key. */
  once(key, read) {
    if (!this.columns.has(key)) this.columns.set(key, read());
    return this.columns.get(key);
  }

  /**
   * The points of a map: ascending row numbers, records, and positions as x, y, x, y, ... If there are more than two million,
   * only those of every n-th row group. Points without a place, or withdrawn, are left out.
   */
  points(of) {
    return this.once(`points ${of}`, async () => {
      const table = this.table(MAPS[of]);
      const every = Math.ceil(table.rows / MOST_POINTS);
      const groups = (await table.groupsWhere(() => true)).filter((_, i) => i % every === 0);
      const spans = groups.map(({ first, rows }) => [first, first + rows]);
      const { record_id: ids, x, y } = await table.readSpans(["record_id", "x", "y"], spans);
      const places = new Int32Array(ids.length); // in what was read
      let n = 0;
      for (let i = 0; i < ids.length; i++) if (x[i] != null && !this.withdrawn.has(ids[i])) places[n++] = i;
      const kept = places.subarray(0, n);
      const positions = new Float32Array(2 * n);
      const records = new Float64Array(n);
      for (let k = 0; k < n; k++) {
        positions[2 * k] = x[kept[k]];
        positions[2 * k + 1] = y[kept[k]];
        records[k] = ids[kept[k]];
      }
      const first = new Int32Array(ids.length);
      let at = 0;
      for (const [start, stop] of spans) for (let row = start; row < stop; row++) first[at++] = row;
      return { spans, places: kept, rows: kept.map((i) => first[i]), records, positions, total: table.rows, every };
    });
  }

  /** Values of the points for their colours: language, license or the date of publication (year). */
  async pointValues(of, by) {
    const { spans, places, records } = await this.points(of);
    const name = by === "year" ? "publication_date" : by;
    const found = new Array(places.length);
    if (by === "language" || of === "records") {
      const [table, column] = by !== "language" ? ["records", name] : of === "files" ? ["files", "language_group"] : [MAPS.records, "language"];
      const { [column]: values } = await this.once(`${table} ${column} of points`, () => this.table(table).readSpans([column], spans));
      for (let i = 0; i < found.length; i++) found[i] = values[places[i]];
    } else {
      const { record_id: ids, [name]: values } = await this.recordColumns(["record_id", name]);
      const known = new Map(ids.map((id, i) => [id, values[i]]));
      for (let i = 0; i < found.length; i++) found[i] = known.get(records[i]);
    }
    return found;
  }

  /** A record by its number; null if it is not visible. */
  async record(id, columns) {
    if (this.withdrawn.has(id)) return null;
    const table = this.table("records");
    const groups = await table.groupsWhere((bounds) => mayHold(bounds.record_id, id));
    for (const { first, rows } of groups) {
      const { record_id: ids } = await table.read(["record_id"], first, first + rows);
      const at = ids.indexOf(id);
      if (at >= 0) return table.row(first + at, columns);
    }
    return null;
  }

  /** The file of an image; its number is its row in the files table. */
  async fileOf(image, columns) {
    this.fileIds ??= openArray(this.base, "file_id");
    const ids = await this.fileIds;
    const [size] = ids.chunks;
    const { data } = await ids.getChunk([Math.floor(image / size)]);
    const number = Number(data[image % size]);
    return { number, ...(await this.table("files").row(number, columns)) };
  }

  /** Ranges of rows of the files of a record. */
  async spansOf(id) {
    const table = this.table("files");
    const groups = await table.groupsWhere((bounds) => mayHold(bounds.record_id, id));
    const found = groups.map(async ({ first, rows }) => {
      const { record_id: ids } = await table.read(["record_id"], first, first + rows);
      const start = ids.indexOf(id);
      return start < 0 ? [] : [[first + start, first + ids.lastIndexOf(id) + 1]];
    });
    return (await Promise.all(found)).flat();
  }

  /** The files of a record, in the order of their paths. */
  async filesOf(id, columns) {
    const found = [];
    for (const [start, stop] of await this.spansOf(id)) {
      const read = await this.table("files").read(columns, start, stop);
      for (let i = 0; i < stop - start; i++) {
        found.push({ number: start + i, ...Object.fromEntries(columns.map((name) => [name, read[name][i]])) });
      }
    }
    return found;
  }

  /** Pixels of an image, a Uint32Array of height x width. Its chunk is kept for its neighbours. */
  async image(row) {
    const number = Math.floor(row / this.chunk);
    let chunk = this.chunks.get(number);
    this.chunks.delete(number); // and set again, so that the map is in the order of use
    chunk ??= this.images.getChunk([number, 0, 0]);
    this.chunks.set(number, chunk);
    chunk.catch(() => this.chunks.delete(number));
    if (this.chunks.size > CHUNKS_KEPT) this.chunks.delete(this.chunks.keys().next().value);
    const { data } = await chunk;
    const size = this.height * this.width;
    const start = (row - number * this.chunk) * size;
    if (data[start] === ABSENT) throw new Error(`the dataset is damaged: chunk ${number} of the images is missing`);
    return data.subarray(start, start + size);
  }
}
