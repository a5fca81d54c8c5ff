/** Biases that the run corrects for the error of the weights beside them (--bias-correction). */
import type { Model, TensorInfo } from '../contracts.ts'
import { isWeightDtype } from '../dtype/convert.ts'
import { QuantizeError } from '../errors.ts'
import type { PlannedLinear } from './linears.ts'

/** Names of the biases of linears, by those of the linears. @throws QuantizeError bad-option when there are none */
export const biasesOf = (linears: readonly PlannedLinear[], { blocks }: Model): ReadonlyMap<string, string> => {
  const planned = new Set(linears.map(({ name }) => name))
  const inBlocks = blocks.flatMap(({ stages }) => stages).flatMap(stage => stage.linears)
  const biases = new Map(
    inBlocks.flatMap(({ name, bias }) => (bias && planned.has(name) ? [[name, bias.tensor] as const] : [])),
  )
  if (biases.size > 0) return biases
  throw new QuantizeError('bad-option', '--bias-correction: no linear that is quantized has a bias; leave it out')
}

/** @param bias as the output stores it @throws QuantizeError unsupported for a dtype to which none is rounded */
const withBias = (linear: PlannedLinear, bias: TensorInfo): PlannedLinear => {
  const { name, dtype } = bias
  if (isWeightDtype(dtype)) return { ...linear, bias }
  throw new QuantizeError(
    'unsupported',
    `${name} would be stored as ${dtype}; --bias-correction stores F32, F16 or BF16: give --dtype`,
  )
}

/** @param biases as biasesOf @param stored tensors that pass along, by name @throws QuantizeError as withBias */
export const withBiases = (
  linears: readonly PlannedLinear[],
  biases: ReadonlyMap<string, string>,
  stored: ReadonlyMap<string, TensorInfo>,
): readonly PlannedLinear[] =>
  linears.map(linear => {
    const bias = biases.get(linear.name)
    return bias === undefined ? linear : withBias(linear, stored.get(bias)!)
  })
