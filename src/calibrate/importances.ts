/** How strongly a model uses the inputs of its linears, without quantizing anything: what llama.cpp calls an importance matrix. */
import type { Model } from '../contracts.ts'
import type { ReadWeight } from '../engine/ort/activations.ts'
import { diagonalOf } from '../engine/ort/gram.ts'
import type { Engine } from '../engine/ort/session.ts'
import type { Importances } from '../gguf/imatrix.ts'
import { calibratedPass, type PassOptions } from './pass.ts'

/**
 * One pass over the unquantized model.
 * @returns by the names of linears of blocks, in the order in which they compute
 * @throws QuantizeError as calibratedPass
 */
export const collectImportances = async (
  engine: Engine,
  model: Model,
  windows: readonly Int32Array[],
  read: ReadWeight,
  options: PassOptions,
): Promise<ReadonlyMap<string, Importances>> => {
  const found = new Map<string, Importances>()
  await calibratedPass(
    engine,
    model,
    windows,
    read,
    {
      known: () => undefined,
      visit: async ({ stage, statistics: { gram, count } }) => {
        const values = diagonalOf(gram, stage.width)
        for (const { name } of stage.linears) found.set(name, { values, count })
        return new Map()
      },
    },
    options,
  )
  return found
}
