// Afterimage's wire protocol (docs/protocol.md) for Node.js: Client reads decisions, Sensor publishes samples.

import { readFileSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { decode, encode } from "@msgpack/msgpack";
import { Publisher, Subscriber } from "zeromq";

const VERSION = 1;
const HIGH_WATER_MARK = 256;
const MAX_MESSAGE_BYTES = 64 * 1024 * 1024;
const DTYPES = { uint8: Uint8Array, uint16: Uint16Array, int16: Int16Array, float32: Float32Array };

/** Where the nodes, sensors and clients of a rig meet unless told otherwise; channel is "frames" or "decisions". */
export function defaultEndpoint(rig, channel) {
  let base = process.env.XDG_RUNTIME_DIR;
  try {
    if (!base || !statSync(base).isDirectory()) base = tmpdir();
  } catch {
    base = tmpdir();
  }
  return `ipc://${join(base, `afterimage-${process.getuid()}`, rig, channel)}`;
}

/** Keys for a node on another machine: own NAME.key_secret, and the node's public NAME.key. */
export function loadKeys(secretFile, serverFile) {
  const read = (file, key) => {
    const found = readFileSync(file, "ascii").match(new RegExp(`^\\s*${key}\\s*=\\s*["']?([^"'\\s]{40})["']?\\s*$`, "m"));
    if (!found) throw new Error(`${file}: holds no ${key}`);
    return found[1];
  };
  return {
    curvePublicKey: read(secretFile, "public-key"),
    curveSecretKey: read(secretFile, "secret-key"),
    curveServerKey: read(serverFile, "public-key"),
    heartbeatInterval: 1000,
    heartbeatTimeout: 5000,
  };
}

function options(endpoint, keys) {
  // As in Python: keys apply to TCP; ipc is guarded by its directory.
  const curve = keys && endpoint.startsWith("tcp://") ? keys : {};
  return { linger: 0, reconnectInterval: 50, reconnectMaxInterval: 1000, maxMessageSize: MAX_MESSAGE_BYTES, ...curve };
}

/** Reads what a node publishes; the node need not be there yet. */
export class Client {
  /** @param {{topics?: string[], endpoint?: string, keys?: object}} settings */
  constructor(rig, { topics = ["fused", "health"], endpoint = defaultEndpoint(rig, "decisions"), keys } = {}) {
    this.topics = topics;
    this.refused = 0; // messages that do not follow the protocol
    this.socket = new Subscriber({ ...options(endpoint, keys), receiveHighWaterMark: HIGH_WATER_MARK });
    this.socket.connect(endpoint);
    this.socket.subscribe(...topics);
  }

  /** Messages as they come: {topic, header, values}; values is a Float32Array for observations, else null. */
  async *messages() {
    for await (const parts of this.socket) {
      const message = this.#read(parts);
      if (message) yield message;
    }
  }

  /** Decisions alone. Times in their headers are bigints: nanoseconds outgrow a double in 104 days. */
  async *decisions() {
    for await (const { topic, header } of this.messages()) if (topic === "fused") yield header;
  }

  close() {
    this.socket.close();
  }

  #read(parts) {
    try {
      if (parts.length !== 3) throw new Error("expected three parts");
      const topic = parts[0].toString("ascii");
      // ZeroMQ matches prefixes: imputed/rgb also brings imputed/rgb2.
      if (!this.topics.some((t) => t === topic || (t.endsWith("/") && topic.startsWith(t)) || t === "")) return null;
      const header = decode(parts[1], { useBigInt64: true });
      if (header?.version !== VERSION) throw new Error(`expected version ${VERSION}`);
      for (const key of Object.keys(header)) if (key.endsWith("_ns") && header[key] !== null) header[key] = BigInt(header[key]);
      const payload = parts[2];
      const values = payload.length ? new Float32Array(Uint8Array.from(payload).buffer) : null;
      return { topic, header, values };
    } catch {
      this.refused += 1;
      return null;
    }
  }
}

/** One sensor of a rig; what it publishes must be as the rig file says. */
export class Sensor {
  /** @param {{modality: string, sampleShape: number[], dtype: string, unit: string}} spec as in the rig */
  constructor(rig, spec, { endpoint = defaultEndpoint(rig, "frames"), keys } = {}) {
    if (!DTYPES[spec.dtype]) throw new Error(`dtype ${spec.dtype}: expected one of ${Object.keys(DTYPES)}`);
    this.rig = rig;
    this.spec = spec;
    this.sequence = 0;
    this.topic = `frame/${rig}/${spec.modality}`;
    this.socket = new Publisher({ ...options(endpoint, keys), sendHighWaterMark: HIGH_WATER_MARK });
    this.socket.connect(endpoint);
  }

  /**
   * Publish one message: samples in a typed array, time first, n * sampleShape long.
   * captureNs: when the newest sample was captured, on this machine's monotonic clock; now if not given.
   */
  async publish(samples, captureNs = process.hrtime.bigint()) {
    const { modality, sampleShape, dtype, unit } = this.spec;
    const size = sampleShape.reduce((a, b) => a * b, 1);
    if (!(samples instanceof DTYPES[dtype]) || samples.length === 0 || samples.length % size) {
      throw new Error(`${modality}: expected a ${DTYPES[dtype].name} of n x ${size}, got ${samples?.constructor?.name} of ${samples?.length}`);
    }
    const header = {
      version: VERSION,
      rig: this.rig,
      modality,
      sequence: this.sequence++,
      capture_ns: captureNs,
      clock: { id: "monotonic", offset_ns: 0, uncertainty_ns: 0 }, // hrtime is CLOCK_MONOTONIC on Linux
      dtype,
      shape: [samples.length / size, ...sampleShape],
      unit,
      encoding: "raw",
    };
    const payload = Buffer.from(samples.buffer, samples.byteOffset, samples.byteLength);
    await this.socket.send([this.topic, encode(header, { useBigInt64: true }), payload]);
  }

  close() {
    this.socket.close();
  }
}
