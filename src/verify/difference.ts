/** How verification ends at the first difference. */
import type { Checkpoint, TensorSource } from '../contracts.ts'
import { QuantizeError } from '../errors.ts'
import { printable } from '../io/printable.ts'

/** @throws QuantizeError bad-input */
export const refuse = (where: string, problem: string): never => {
  throw new QuantizeError('bad-input', `${printable(where)}: ${problem}`)
}

/** @throws QuantizeError bad-input where there is none */
export const tensorOf = ({ tensors, path }: Checkpoint, name: string): TensorSource =>
  tensors.get(name) ?? refuse(path, `holds no tensor ${printable(name)}; the report lists it`)
