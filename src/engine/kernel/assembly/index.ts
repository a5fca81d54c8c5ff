/**
 * The kernels' exports. Addresses (`usize`) are byte addresses in the shared memory; all numbers are float32 unless said.
 *
 * A panel is 48 rows (output channels) of a linear, stored transposed: `[column][48]`, so that one vector holds four rows of a column and
 * no sum ever crosses lanes: every row sees the operations of the scalar loop in the scalar order, which makes the results equal, bit for bit, to
 * the TypeScript reference in src/quantize and independent of how the panels are spread over threads.
 */
export { cutGroups, panelToRows, scaleColumns } from './change'
export { codesToRows } from './codes'
export { fitGroups, panelErrors, panelRange } from './fit'
export { expandCodes } from './ggml/expand'
export { roundRows } from './ggml/index'
export { measureRows } from './measure'
export { panelFromBf16, panelFromF16, panelFromF32 } from './panel'
export { nearestErrors, roundNearest, rowLoss, sweep } from './sweep'
