// Queries in SQL, loaded when first used: the engine in its worker, and the result as a table.

import { $, element, errorIn, number, save, visible } from "./draw.mjs";

const MOST = 100_000; // rows that are kept of a result
const ROWS = 100; // rows that are added to the table at a time
const quoted = (text) => `'${text.replaceAll("'", "''")}'`;

const NO_FAILURES = "record_id BIGINT, stage VARCHAR, kind VARCHAR, message VARCHAR, attempts INTEGER, permanent BOOLEAN";

/** Tables for queries, as in `zml-dask sql`: without withdrawn records. */
function views({ base, info, withdrawn }) {
  const own = ["files", "records", "failures"].map((name) => [name, info.tables[name] ?? []]);
  // A derived table "of nothing" holds what others are computed with, and has no record_id.
  const isShown = (name) => name.startsWith("derived/") && info.derived?.[name.slice("derived/".length)]?.of !== "nothing";
  const derived = Object.entries(info.tables).filter(([name]) => isShown(name));
  const hidden = withdrawn.size ? `WHERE record_id NOT IN (${[...withdrawn].join(", ")})` : "";
  return [...own, ...derived].map(([table, parts]) => {
    const name = table.replace("derived/", "");
    const paths = parts.map(({ path }) => quoted(path)).join(", ");
    return {
      name,
      parts: parts.map(({ path }) => ({ name: path, url: new URL(path, base).href })),
      statement: parts.length
        ? `CREATE VIEW "${name}" AS SELECT * FROM read_parquet([${paths}]) ${hidden}`
        : `CREATE TABLE "${name}" (${NO_FAILURES})`,
    };
  });
}

/** DuckDB in a worker; after a stop, the next query starts a new one. */
export class Engine {
  constructor(dataset) {
    Object.assign(this, { dataset, worker: null, waiting: new Map(), calls: 0 });
  }

  async start() {
    // From a blob, so that this page's policy also applies to the worker: see sql-worker.mjs.
    const answer = await fetch(new URL("./sql-worker.js", import.meta.url));
    if (!answer.ok) throw new Error(`sql-worker.js: the server answers ${answer.status}`);
    const url = URL.createObjectURL(new Blob([await answer.text()], { type: "text/javascript" }));
    this.worker = new Worker(url);
    URL.revokeObjectURL(url);
    this.worker.onmessage = ({ data: { number: call, answer: found, error } }) => {
      const { resolve, reject } = this.waiting.get(call);
      this.waiting.delete(call);
      if (error === undefined) resolve(found);
      else reject(new Error(error));
    };
    const engine = new URL("./duckdb.bin", import.meta.url).href;
    return this.call("open", { engine, views: views(this.dataset) });
  }

  call(action, given) {
    const call = ++this.calls;
    return new Promise((resolve, reject) => {
      this.waiting.set(call, { resolve, reject });
      this.worker.postMessage({ number: call, action, ...given });
    });
  }

  /** Run a query; returns the tables, and the columns and number of rows of the result. */
  async ask(question) {
    if (this.waiting.size) this.stop();
    this.started ??= this.start();
    const tables = await this.started;
    return { tables, ...(await this.call("ask", { question: question.trim().replace(/;+$/, ""), most: MOST })) };
  }

  stop() {
    this.worker?.terminate();
    this.worker = this.started = null;
    for (const { reject } of this.waiting.values()) reject(new Error("stopped"));
    this.waiting.clear();
  }
}

/** Show the result as a table, initially a hundred rows. */
export async function showTable(engine, { columns, rows }) {
  const names = columns.map(({ name }) => name);
  const isNumber = columns.map(({ type }) => /INT|DOUBLE|FLOAT|DECIMAL/.test(type) && !type.endsWith("[]"));
  const head = names.map((name, i) => element("th", { scope: "col", className: isNumber[i] ? "n" : "", title: columns[i].type }, visible(name)));
  const body = element("tbody", {});
  const more = element("button", { type: "button" }, "More rows");
  const add = async () => {
    const start = body.rows.length;
    const found = await engine.call("texts", { columns: names, start, stop: start + ROWS });
    body.append(...found.map((row) => element("tr", {}, ...row.map((text, i) => cell(names[i], text, isNumber[i])))));
    more.hidden = body.rows.length >= rows;
  };
  more.addEventListener("click", () => add().catch(errorIn("answer")));
  await add();
  $("result").replaceChildren(element("table", {}, element("thead", {}, element("tr", {}, ...head)), body), more);
  const kept = rows === MOST ? " (further rows are not kept; use LIMIT, or zml-dask sql)" : "";
  $("answer").textContent = `${number.format(rows)} row${rows === 1 ? "" : "s"}${kept}`;
}

function cell(name, text, isNumber) {
  const className = isNumber ? "n" : "";
  if (text === null) return element("td", { className: `${className} null` }, "null");
  const shown = visible(text.length > 300 ? `${text.slice(0, 300)}…` : text);
  const address = { record_id: "record", image: "image", first_image: "image" }[name];
  const inside = address ? element("a", { href: `#${address}=${encodeURIComponent(text)}` }, shown) : element("bdi", {}, shown);
  return element("td", { className }, inside);
}

/** List the tables and their columns. */
export function showTables(tables) {
  const rows = tables.map(({ name, columns }) => [element("dt", {}, name), element("dd", {}, columns.join(", "))]);
  $("tables").replaceChildren(...rows.flat());
}

/** Save the result as a file. */
export async function download(engine, format) {
  save(await engine.call("file", { format }), `result.${format}`);
}
