// What the page uses of D3: `make page-library` makes famezd/page/d3.js of it.
export { format } from "d3-format";
export { interpolateRgbBasis } from "d3-interpolate";
export { scaleSequentialLog } from "d3-scale";
export { select } from "d3-selection";
export { area, curveMonotoneX, line } from "d3-shape";
