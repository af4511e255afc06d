// Publishes a depth image of noise, 30 times a second: node sensor.mjs [--rig R] [--endpoint E] [--seconds S]
//   [--keys F --server-key F]. Put your camera's frames in its place.

import { parseArgs } from "node:util";
import { setTimeout as sleep } from "node:timers/promises";
import { Sensor, loadKeys } from "./afterimage.mjs";

const text = { type: "string" };
const { values: given } = parseArgs({ options: { rig: text, endpoint: text, seconds: text, keys: text, "server-key": text } });
const spec = { modality: "depth", sampleShape: [64, 64], dtype: "uint16", unit: "mm" };
const sensor = new Sensor(given.rig ?? "commands-4", spec, {
  endpoint: given.endpoint,
  keys: given.keys && loadKeys(given.keys, given["server-key"]),
});
const began = performance.now();
const end = began + 1000 * Number(given.seconds ?? Infinity);
for (let n = 1; performance.now() < end; n++) {
  await sensor.publish(Uint16Array.from({ length: 64 * 64 }, () => 500 + Math.random() * 1000));
  await sleep(Math.max(0, began + (n * 1000) / 30 - performance.now()));
}
sensor.close();
