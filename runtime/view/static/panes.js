// Panes: pictures, maps of values and lines, drawn on a canvas from the bytes that came.

const DEPTH = [[48, 18, 59], [65, 98, 214], [38, 188, 225], [93, 244, 134], [212, 231, 53], [252, 137, 36], [186, 34, 8]];
const LEVEL = [[0, 0, 8], [50, 17, 94], [120, 28, 109], [186, 55, 85], [237, 105, 37], [251, 180, 26], [252, 255, 164]];

function palette(stops) {
  const colours = new Uint8ClampedArray(256 * 4);
  for (let i = 1; i < 256; i++) {
    const place = ((i - 1) / 254) * (stops.length - 1);
    const low = Math.min(Math.floor(place), stops.length - 2);
    for (let c = 0; c < 3; c++) colours[4 * i + c] = stops[low][c] + (place - low) * (stops[low + 1][c] - stops[low][c]);
    colours[4 * i + 3] = 255;
  }
  return colours; // 0 stays transparent: no value
}
const PALETTES = { mm: palette(DEPTH), other: palette(LEVEL) };
const scratch = document.createElement("canvas");

// One message: [length of the JSON][JSON][bytes of each pane].
export function readMessage(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const body = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  for (const pane of body.panes) {
    pane.data = buffer.slice(at, at + pane.bytes);
    at += pane.bytes;
  }
  return body;
}

// Makes the canvas as sharp as the screen; gives its context, measured in CSS pixels.
export function prepare(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "11px system-ui, 'DejaVu Sans', sans-serif";
  return { context, width, height };
}

export function drawPane(canvas, pane, sensor, theme) {
  const surface = prepare(canvas);
  if (pane.form === "lines") return drawLines(surface, pane, sensor, theme);
  const [height, width] = pane.shape;
  const cells = new Uint8ClampedArray(pane.data);
  const image = new ImageData(width, height);
  if (pane.form === "picture") {
    for (let i = 0, j = 0; i < cells.length; i += 3, j += 4) {
      image.data[j] = cells[i]; image.data[j + 1] = cells[i + 1]; image.data[j + 2] = cells[i + 2]; image.data[j + 3] = 255;
    }
  } else {
    const colours = PALETTES[pane.unit] || PALETTES.other;
    for (let i = 0; i < cells.length; i++) image.data.set(colours.subarray(4 * cells[i], 4 * cells[i] + 4), 4 * i);
  }
  scratch.width = width; scratch.height = height;
  scratch.getContext("2d").putImageData(image, 0, 0);
  const { context } = surface;
  const bar = pane.form === "map" ? 46 : 0;
  const room = { x: 4, y: 4, width: surface.width - 8 - bar, height: surface.height - 8 };
  const stretched = sensor.kind === "audio";
  const factor = Math.min(room.width / width, room.height / height);
  const w = stretched ? room.width : width * factor, h = stretched ? room.height : height * factor;
  context.imageSmoothingEnabled = stretched;
  const left = room.x + (room.width - w) / 2, top = room.y + (room.height - h) / 2;
  context.drawImage(scratch, left, top, w, h);
  if (bar) drawScale(context, pane, left + w + 6, top, h, theme);
  if (stretched) {
    context.fillStyle = "#ffffffd0";
    context.textAlign = "left"; context.textBaseline = "top";
    context.fillText(w > 130 ? "frequency ↑  time →" : "f ↑ t →", left + 4, top + 3);
  }
}

function drawScale(context, pane, x, top, height, theme) {
  const stops = pane.unit === "mm" ? DEPTH : LEVEL;
  const ramp = context.createLinearGradient(0, top + height, 0, top);
  stops.forEach((s, i) => ramp.addColorStop(i / (stops.length - 1), `rgb(${s.join(" ")})`));
  context.fillStyle = ramp;
  context.fillRect(x, top, 6, height);
  context.fillStyle = theme.quiet;
  context.textAlign = "left";
  context.textBaseline = "top"; context.fillText(`${pane.high}`, x + 10, top);
  context.textBaseline = "middle"; context.fillText(pane.unit, x + 10, top + height / 2);
  context.textBaseline = "bottom"; context.fillText(`${pane.low}`, x + 10, top + height);
}

function drawLines({ context, width, height }, pane, sensor, theme) {
  const [channels, points] = pane.shape;
  const counts = new Int16Array(pane.data);
  const foot = 15, left = channels > 1 ? 34 : 6, band = (height - foot) / channels, reach = pane.high / pane.step;
  context.textAlign = "right"; context.textBaseline = "middle";
  for (let c = 0; c < channels; c++) {
    const middle = band * (c + 0.5);
    if (channels > 1) {
      context.fillStyle = theme.quiet;
      context.fillText(sensor.channels[c] || `${c + 1}`, left - 5, middle);
    }
    context.beginPath();
    for (let i = 0; i < points; i++) {
      const x = left + ((width - left - 4) * i) / (points - 1 || 1);
      // The scale's end is one row away from a line's middle: loud neighbours overlap, as is usual for EEG.
      context.lineTo(x, middle - (counts[c * points + i] / reach) * band);
    }
    context.strokeStyle = theme.ink; context.lineWidth = 1;
    context.stroke();
  }
  context.fillStyle = theme.quiet; context.textBaseline = "bottom"; context.textAlign = "right";
  const unit = pane.unit === "uV" ? "µV" : pane.unit;
  context.fillText(`row height ${pane.high} ${unit}`, width - 4, height - 1);
}

// Describes what a pane shows, for screen readers.
export function describePane(pane, modality) {
  const [a, b] = pane.shape;
  const range = pane.form === "picture" ? "" : `, ${pane.low} to ${pane.high} ${pane.unit}`;
  const what = pane.form === "lines" ? `${a} channels` : `${b} by ${a}`;
  return `${modality}, ${pane.imputed ? "imputed" : "measured"}: ${what}${range}`;
}
