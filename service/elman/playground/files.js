// Files that are chosen or dropped: text as it is, and NumPy's arrays and tables of Parquet as text.

import { Problem } from "./api.js";
import { parquetRows } from "./parquet.js";

/** Bytes of a file that a box for text can still show. */
const MOST_BYTES = 2_000_000;
const READ = "CSV, JSON, NPY and Parquet are.";
const ELSEWHERE = "The command line reads more: elman predict MODEL";
const READERS = {
  "<f4": [4, "getFloat32"],
  "<f8": [8, "getFloat64"],
  "|i1": [1, "getInt8"],
  "|u1": [1, "getUint8"],
  "<i2": [2, "getInt16"],
  "<u2": [2, "getUint16"],
  "<i4": [4, "getInt32"],
  "<u4": [4, "getUint32"],
  "<i8": [8, "getBigInt64"],
};

const bad = (file, detail) =>
  new Problem({ code: "bad_file", title: "Not a file of a sequence", detail: `${file.name}: ${detail}` }, 0);

/** The text of a file, a line a step where it is an array. Raises Problem. */
export async function textOf(file) {
  const start = String.fromCharCode(...new Uint8Array(await file.slice(0, 6).arrayBuffer()));
  if (file.size > MOST_BYTES) throw bad(file, `${file.size} bytes are more than the ${MOST_BYTES} that are read here`);
  const bytes = new Uint8Array(await file.arrayBuffer());
  if (bytes[0] === 0x93 && start.endsWith("NUMPY")) return ofArray(file, bytes);
  if (start.startsWith("PAR1")) return ofTable(file, bytes);
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes).replace(/\r?\n$/, "");
  } catch {
    throw bad(file, `neither text in UTF-8 nor a .npy file. ${READ}`);
  }
}

/** A line a row, as CSV has it; what is missing as `null`. */
function ofTable(file, bytes) {
  try {
    return parquetRows(bytes)
      .map((row) => row.map(String).join(", "))
      .join("\n");
  } catch (error) {
    throw bad(file, `${error.message}. What is read: columns of numbers, packed with snappy or not at all. ${ELSEWHERE} ${file.name}`);
  }
}

/** The format is described at numpy.lib.format: a magic word, the length of a head, the head, the numbers. */
function ofArray(file, bytes) {
  const view = new DataView(bytes.buffer);
  const [at, length] = bytes[6] === 1 ? [10, view.getUint16(8, true)] : [12, view.getUint32(8, true)];
  const head = new TextDecoder().decode(bytes.subarray(at, at + length));
  const dtype = head.match(/'descr': '([^']+)'/)?.[1];
  const shape = head.match(/'shape': \(([^)]*)\)/)?.[1].split(",").filter((axis) => axis.trim()).map(Number);
  if (!READERS[dtype]) throw bad(file, `numbers of dtype ${dtype ?? "?"} are not read here; float32 and int64 are`);
  if (!shape || shape.length < 1 || shape.length > 2)
    throw bad(file, `its shape is (${shape ?? "?"}), and a sequence has steps, or steps and features`);
  if (shape.length === 2 && head.includes("'fortran_order': True"))
    throw bad(file, "its columns are stored one after the other; save numpy.ascontiguousarray of it");
  const [steps, width = 1] = shape;
  const [size, read] = READERS[dtype];
  if (at + length + steps * width * size > bytes.length) throw bad(file, "it ends before its numbers do");
  const number = (i) => String(view[read](at + length + i * size, true));
  const row = (t) => Array.from({ length: width }, (_, i) => number(t * width + i)).join(", ");
  return Array.from({ length: steps }, (_, t) => row(t)).join("\n");
}
