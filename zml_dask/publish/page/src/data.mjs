// The dataset, read lazily over HTTP ranges: Parquet tables by hyparquet, images by zarrita.

import { decompress } from "fzstd";
import { parquetMetadataAsync, parquetRead } from "hyparquet";
import * as zarr from "zarrita";

import { Blosc } from "./blosc.mjs";

zarr.registry.set("blosc", async () => Blosc);

// All our tables are zstd.
const compressors = { ZSTD: (data, size) => decompress(data, new Uint8Array(size)) };
const CHUNKS_KEPT = 48; // 1.6 MB each at 80 by 80

/** Fetch a range of a file, or fail with a message that names it. */
async function range(url, start, stop) {
  const answer = await fetch(url, { headers: { Range: `bytes=${start}-${stop - 1}` } });
  if (answer.status !== 206) {
    throw new Error(`${url}: the server answers ${answer.status} to a range; it must support them`);
  }
  return answer.arrayBuffer();
}

class Table {
  constructor(base, parts) {
    let first = 0;
    this.parts = parts.map(({ path, rows, size }) => {
      const url = new URL(path, base);
      const file = { byteLength: size, slice: (a, b = size) => range(url, a, b) };
      const part = { first, rows, file, metadata: null };
      first += rows;
      return part;
    });
    this.rows = first;
  }

  /** Call `each(column, values, firstRow)` for every piece of the columns, in any order. */
  async scan(columns, each) {
    for (const part of this.parts) {
      part.metadata ??= parquetMetadataAsync(part.file);
      const metadata = await part.metadata;
      await parquetRead({
        file: part.file, metadata, columns, compressors,
        onChunk: ({ columnName, columnData, rowStart }) =>
          each(columnName, columnData, part.first + rowStart),
      });
    }
  }

  /** Read one row, all or some columns of it. */
  async row(number, columns) {
    const part = this.parts.find(({ first, rows }) => number < first + rows);
    part.metadata ??= parquetMetadataAsync(part.file);
    const metadata = await part.metadata;
    const rowStart = number - part.first;
    let found;
    await parquetRead({
      file: part.file, metadata, columns, compressors, rowFormat: "object",
      rowStart, rowEnd: rowStart + 1, onComplete: (rows) => { [found] = rows; },
    });
    return found;
  }
}

/** What the wall needs of every file, in typed arrays: a million files take 30 MB. */
async function readFiles(table, rowOfRecord) {
  const files = {
    count: table.rows,
    record: new Float64Array(table.rows),
    first: new Float64Array(table.rows),
    images: new Int32Array(table.rows),
    lines: new Int32Array(table.rows),
    language: new Uint16Array(table.rows),
  };
  const languages = [];
  const codes = new Map();
  const code = (name) => {
    const shown = name ?? "(not named)";
    if (!codes.has(shown)) {
      codes.set(shown, languages.length);
      languages.push({ name: shown, images: 0 });
    }
    return codes.get(shown);
  };
  const numbers = { record_id: files.record, first_image: files.first, n_images: files.images, n_lines: files.lines };
  await table.scan([...Object.keys(numbers), "language"], (column, values, start) => {
    if (column === "language") {
      for (let i = 0; i < values.length; i++) files.language[start + i] = code(values[i]);
    } else {
      const target = numbers[column];
      for (let i = 0; i < values.length; i++) target[start + i] = Number(values[i]);
    }
  });
  for (let i = 0; i < files.count; i++) {
    // A withdrawn record has no row in our table of records: its files are not shown.
    if (rowOfRecord.has(files.record[i])) languages[files.language[i]].images += files.images[i];
    else files.images[i] = 0;
  }
  return { files, languages };
}

async function readRecords(table, withdrawn) {
  const records = new Array(table.rows);
  for (let i = 0; i < table.rows; i++) records[i] = {};
  await table.scan(["record_id", "title", "doi", "license"], (column, values, start) => {
    for (let i = 0; i < values.length; i++) {
      records[start + i][column] = column === "record_id" ? Number(values[i]) : values[i];
    }
  });
  return new Map(
    records.filter(({ record_id: id }) => !withdrawn.has(id)).map((row) => [row.record_id, row]),
  );
}

export class Dataset {
  static async open(base) {
    const answer = await fetch(new URL("dataset.json", base));
    if (!answer.ok) throw new Error(`${base}dataset.json: the server answers ${answer.status}`);
    const info = await answer.json();
    if (info.format !== "zml-dask" || info.schema_version !== 1) {
      throw new Error("this is not a dataset that this viewer can read");
    }
    const dataset = new Dataset();
    dataset.info = info;
    const tables = (name) => new Table(base, info.tables[name] ?? []);
    const withdrawn = new Set();
    await tables("withdrawn").scan(["record_id"], (_, values) => {
      for (const id of values) withdrawn.add(Number(id));
    });
    dataset.records = await readRecords(tables("records"), withdrawn);
    dataset.table = tables("files");
    const { files, languages } = await readFiles(dataset.table, dataset.records);
    Object.assign(dataset, { files, languages, chunks: new Map() });
    if (info.counts.images > 0) {
      const url = new URL("images.zarr/images", base);
      dataset.images = await zarr.open.v3(new zarr.FetchStore(url), { kind: "array" });
      [dataset.chunk, dataset.height, dataset.width] = dataset.images.chunks;
    }
    return dataset;
  }

  /** Pixels of one image, Uint32Array of height x width. Its chunk is kept for its neighbours. */
  async image(row) {
    const number = Math.floor(row / this.chunk);
    let chunk = this.chunks.get(number);
    this.chunks.delete(number); // and set again: the map's order is by last use
    chunk ??= this.images.getChunk([number, 0, 0]);
    this.chunks.set(number, chunk);
    chunk.catch(() => this.chunks.delete(number));
    if (this.chunks.size > CHUNKS_KEPT) this.chunks.delete(this.chunks.keys().next().value);
    const { data } = await chunk;
    const size = this.height * this.width;
    const start = (row - number * this.chunk) * size;
    return data.subarray(start, start + size);
  }
}
