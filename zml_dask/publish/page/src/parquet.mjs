// Parquet tables by HTTP range requests: footers once, then only the pages with the requested rows.

import { decompress } from "fzstd";
import { parquetMetadataAsync, parquetRead } from "hyparquet";

// All our tables are zstd.
const compressors = { ZSTD: (data, size) => decompress(data, new Uint8Array(size)) };
const NEAR = 5_000; // rows, a page or less
const AT_ONCE = 8; // row groups
const FOOTER = 1 << 16; // bytes; a longer footer takes one more request

/** Fetch a range of a file. */
async function range(url, start, stop) {
  const answer = await fetch(url, { headers: { Range: `bytes=${start}-${stop - 1}` } });
  if (answer.status !== 206) {
    throw new Error(`${url}: the server answers ${answer.status}${answer.ok ? " to a range; it must support them" : ""}`);
  }
  return answer.arrayBuffer();
}

/** Integers as JavaScript numbers: those of a dataset are below 2^53. */
const plain = (value) => (typeof value === "bigint" ? Number(value) : value);

/** Call a function for each item, a few at once, with pauses in which the page responds. */
export async function inTurn(items, act) {
  const found = [];
  const waiting = [...items.entries()];
  const work = async () => {
    while (waiting.length) {
      const [i, item] = waiting.shift();
      found[i] = await act(item);
      if (waiting.length) await new Promise((done) => setTimeout(done));
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  return found;
}

export class Table {
  constructor(base, parts) {
    let first = 0;
    this.parts = parts.map(({ path, rows, size }) => {
      const url = new URL(path, base);
      const file = { byteLength: size, slice: (a, b = size) => range(url, a, b) };
      const part = { first, rows, file, footer: null };
      first += rows;
      return part;
    });
    this.rows = first;
  }

  /** Row groups of a part: their first rows in the table, and the bounds of their values. */
  groups(part) {
    part.footer ??= parquetMetadataAsync(part.file, { initialFetchSize: FOOTER, geoparquet: false });
    part.groups ??= part.footer.then(({ row_groups: groups }) => {
      let first = part.first;
      return groups.map((group) => {
        const found = { first, rows: Number(group.num_rows), bounds: {} };
        for (const { meta_data: column } of group.columns) {
          const { min_value: least, max_value: greatest, null_count: nulls } = column.statistics ?? {};
          found.bounds[column.path_in_schema[0]] = {
            least: plain(least), greatest: plain(greatest), nulls: Number(nulls ?? 0),
          };
        }
        first += found.rows;
        return found;
      });
    });
    return part.groups;
  }

  /** Row groups of the table for which `fits(bounds, start, stop)` is true, in order. */
  async groupsWhere(fits) {
    const all = await Promise.all(this.parts.map((part) => this.groups(part)));
    return all.flat().filter(({ bounds, first, rows }) => fits(bounds, first, first + rows));
  }

  /** Columns of the rows from `start` to `stop`, one array each. */
  read(columns, start = 0, stop = this.rows) {
    return this.readSpans(columns, [[start, stop]]);
  }

  /** Columns of several ranges of rows, one after the other. */
  async readSpans(columns, spans) {
    const total = spans.reduce((sum, [start, stop]) => sum + stop - start, 0);
    const found = Object.fromEntries(columns.map((name) => [name, new Array(total)]));
    const pieces = []; // each of one row group
    let before = 0;
    for (const [start, stop] of spans) {
      for (const part of this.parts.filter(({ first, rows }) => first < stop && first + rows > start)) {
        for (const { first, rows } of await this.groups(part)) {
          if (first < stop && first + rows > start) pieces.push({ part, from: Math.max(first, start), to: Math.min(first + rows, stop), shift: before - start });
        }
      }
      before += stop - start;
    }
    await inTurn(pieces, async ({ part, from, to, shift }) => {
      await parquetRead({
        file: part.file, metadata: await part.footer, columns, compressors, useOffsetIndex: true, utf8: false,
        rowStart: from - part.first,
        rowEnd: to - part.first,
        onChunk: ({ columnName, columnData, rowStart }) => {
          const target = found[columnName];
          const first = part.first + rowStart;
          const last = Math.min(columnData.length, to - first);
          for (let i = Math.max(0, from - first); i < last; i++) target[first + shift + i] = plain(columnData[i]);
        },
      });
    });
    return found;
  }

  /** Rows as objects, in the order of the given numbers; rows near each other are read together. */
  async rowsAt(numbers, columns) {
    const sorted = [...numbers].sort((a, b) => a - b);
    const spans = [];
    for (const n of sorted) {
      if (spans.length && n < spans.at(-1).stop + NEAR) spans.at(-1).stop = n + 1;
      else spans.push({ start: n, stop: n + 1 });
    }
    const found = new Map();
    await Promise.all(
      spans.map(async ({ start, stop }) => {
        const read = await this.read(columns, start, stop);
        for (const n of sorted) {
          if (n >= start && n < stop) found.set(n, Object.fromEntries(columns.map((name) => [name, read[name][n - start]])));
        }
      }),
    );
    return [...numbers].map((n) => found.get(n));
  }

  /** One row as an object. */
  async row(number, columns) {
    const found = await this.read(columns, number, number + 1);
    return Object.fromEntries(columns.map((name) => [name, found[name][0]]));
  }
}

/** Whether a row group may contain a value in a column, which may be null. */
export function mayHold({ least, greatest, nulls } = {}, value) {
  if (value === null) return nulls !== 0;
  return least === undefined || (least <= value && value <= greatest);
}
