// Prints the shape, the sum and the first pixels of an array: node read.js STORE ARRAY FIRST STOP
import { FileSystemStore } from "@zarrita/storage";
import * as zarr from "zarrita";

const [store, name, first, stop] = process.argv.slice(2);
const root = zarr.root(new FileSystemStore(store));
const array = await zarr.open.v3(root.resolve(name), { kind: "array" });
const rest = array.shape.slice(1).map(() => null);
const { data } = await zarr.get(array, [zarr.slice(Number(first), Number(stop)), ...rest]);
const values = Array.from(data, Number);
console.log(JSON.stringify({ shape: array.shape, values }));
