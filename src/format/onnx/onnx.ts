/**
 * ONNX: a decoder graph with MatMulNBits weights in external data, which ONNX Runtime, transformers.js and onnxruntime-genai run.
 * W[n, k] = (q − z) · s for groups of neighbouring inputs.
 */
import type { Format } from '../../contracts.ts'
import { assembleOnnx } from './configs.ts'
import { onnxLayout, onnxRefusal, onnxWarnings, scaleDtype, supportedBits, supportedGroups } from './layout.ts'
import { detectOnnx, packOnnx, unpackOnnx } from './pack.ts'

export const onnx: Format = {
  name: 'onnx',
  facts: {
    summary: 'ONNX decoder graph with MatMulNBits weights',
    grids: ['int'],
    bits: supportedBits,
    groups: supportedGroups.join(', '),
    loaders: 'ONNX Runtime 1.20, transformers.js 3, onnxruntime-genai; 8 bits from ONNX Runtime 1.23, 2 bits from 1.24',
    defaults: { group: 32 },
    head: true,
    embedding: true,
    container: 'onnx',
    restDtypes: ['F32', 'F16'],
  },
  storage: scheme => ({ decode: 'affine', scaleDtype: scaleDtype(scheme), zeroRange: [0, 2 ** scheme.bits - 1] }),
  refuses: onnxRefusal,
  warnings: onnxWarnings,
  layout: onnxLayout,
  pack: packOnnx,
  unpack: unpackOnnx,
  detect: detectOnnx,
  assemble: assembleOnnx,
}
