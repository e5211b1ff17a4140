// Keeps duckdb.bin, DuckDB's WebAssembly compressed with zstd, in step with the package in node_modules.
//
// It is only compressed anew where it holds something else, so that the same source gives the same
// file whatever version of zstd is there. No ".zst" in its name: some web hosts would call that an encoding.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";

import { decompress } from "fzstd";

const ENGINE = "node_modules/@duckdb/duckdb-wasm/dist/duckdb-eh.wasm";
const PACKED = "duckdb.bin";

const isSame = existsSync(PACKED) && readFileSync(ENGINE).equals(decompress(readFileSync(PACKED)));
if (!isSame) execFileSync("zstd", ["--ultra", "-22", "-q", "-f", ENGINE, "-o", PACKED]);
