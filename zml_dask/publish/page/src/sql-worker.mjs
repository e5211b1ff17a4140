// DuckDB in a worker, which runs one SELECT after another and keeps the rows of the last as `result`.
//
// The page starts this from a blob, so that the page's policy applies here too, independently of the host: no statement,
// even in a link by somebody else, can reach another host.

import { BROWSER_RUNTIME, createDuckDB, DuckDBDataProtocol, VoidLogger } from "@duckdb/duckdb-wasm/blocking";
import { decompress } from "fzstd";

let connection;
let database;

/** Start the engine with views of the tables. */
async function open({ engine, views }) {
  const answer = await fetch(engine);
  if (!answer.ok) throw new Error(`${engine}: the server answers ${answer.status}`);
  const code = decompress(new Uint8Array(await answer.arrayBuffer()));
  const bundle = { mainModule: "" };
  database = await createDuckDB({ mvp: bundle, eh: bundle }, new VoidLogger(), BROWSER_RUNTIME);
  database.instantiateWasm = (imports, success) => {
    globalThis.DUCKDB_RUNTIME = BROWSER_RUNTIME; // whose functions the engine's imports call
    WebAssembly.instantiate(code, imports).then(({ instance, module }) => success(instance, module));
    return [];
  };
  await database.instantiate();
  database.open({ path: ":memory:", filesystem: { allowFullHTTPReads: true } });
  connection = database.connect();
  for (const { parts, statement } of views) {
    for (const { name, url } of parts) database.registerFileURL(name, url, DuckDBDataProtocol.HTTP, false);
    connection.query(statement);
  }
  return views.map(({ name }) => ({ name, columns: rows(`DESCRIBE ${quoted(name)}`).map((row) => row.column_name) }));
}

const quoted = (name) => `"${name.replaceAll('"', '""')}"`;

/** Rows of a statement as objects of plain values. */
function rows(statement) {
  return connection.query(statement).toArray().map((row) => row.toJSON());
}

/** Run a query; returns the columns of the result, and its number of rows. */
function ask({ question, most }) {
  // In parentheses it can only be a SELECT, and prepared it can only be one statement.
  const prepared = connection.prepare(`CREATE OR REPLACE TABLE result AS SELECT * FROM (\n${question}\n) LIMIT ${most}`);
  prepared.query();
  prepared.close();
  const columns = rows("DESCRIBE result").map((row) => ({ name: row.column_name, type: row.column_type }));
  return { columns, rows: Number(rows("SELECT count(*) AS n FROM result")[0].n) };
}

/** Columns of the result under unique names. */
const cast = (columns, type) => columns.map((name, i) => `try_cast(${quoted(name)} AS ${type}) AS c${i}`).join(", ");

/** Rows of the result as lists of texts. */
function texts({ columns, start, stop }) {
  const found = rows(`SELECT ${cast(columns, "VARCHAR")} FROM result LIMIT ${stop - start} OFFSET ${start}`);
  return found.map((row) => columns.map((_, i) => row[`c${i}`]));
}

/** Columns of the result as numbers, NaN for other values. */
function numbers({ columns }) {
  const table = connection.query(`SELECT ${cast(columns, "DOUBLE")} FROM result`);
  return columns.map((_, i) => Float64Array.from(table.getChild(`c${i}`), (value) => value ?? NaN));
}

/** A column for JSON: dates as text, wide numbers as doubles. */
function plain({ column_name: name, column_type: type }) {
  const as = /^(DATE|TIME|BLOB|INTERVAL|UUID)/.test(type) ? "VARCHAR" : /^(HUGEINT|DECIMAL)/.test(type) ? "DOUBLE" : type;
  return `${quoted(name)}::${as} AS ${quoted(name)}`;
}

const number = (_, value) => (typeof value === "bigint" ? Number(value) : value);

/** The result as a file. */
function file({ format }) {
  if (format === "json") {
    const found = rows(`SELECT ${rows("DESCRIBE result").map(plain).join(", ")} FROM result`);
    return `[${found.map((row) => JSON.stringify(row, number)).join(",\n")}]\n`;
  }
  connection.query(`COPY result TO 'result' (${{ csv: "FORMAT csv, HEADER", parquet: "FORMAT parquet, CODEC zstd" }[format]})`);
  const found = database.copyFileToBuffer("result");
  database.dropFile("result");
  return found;
}

const ACTIONS = { open, ask, texts, numbers, file };

onmessage = async ({ data: { number, action, ...given } }) => {
  try {
    postMessage({ number, answer: await ACTIONS[action](given) });
  } catch (error) {
    postMessage({ number, error: String(error?.message ?? error) });
  }
};
