// Prints decisions as lines of JSON: node decisions.mjs [--rig R] [--endpoint E] [--count N] [--keys F --server-key F]

import { parseArgs } from "node:util";
import { Client, loadKeys } from "./afterimage.mjs";

const text = { type: "string" };
const { values: given } = parseArgs({ options: { rig: text, endpoint: text, count: text, keys: text, "server-key": text } });
const client = new Client(given.rig ?? "commands-4", {
  endpoint: given.endpoint,
  keys: given.keys && loadKeys(given.keys, given["server-key"]),
});
let left = Number(given.count ?? Infinity);
for await (const d of client.decisions()) {
  const imputed = Object.keys(d.modalities).filter((m) => d.modalities[m].imputed);
  const states = Object.fromEntries(Object.entries(d.modalities).map(([m, report]) => [m, report.state]));
  console.log(JSON.stringify({ tick: d.tick, label: d.label, probability: d.probabilities[d.label], imputed, states }));
  if (--left <= 0) break;
}
client.close();
