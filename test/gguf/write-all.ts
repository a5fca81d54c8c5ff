import type { ShardPlan } from '../../src/checkpoint/shard-plan.ts'
import { createShardWriter } from '../../src/checkpoint/write-safetensors.ts'
import { nodeFiles } from '../../src/io/files.ts'

/** Writes one planned file whole. */
export const writeAll = (folder: string, plan: ShardPlan, dataOf: (name: string) => Uint8Array): void => {
  const writer = createShardWriter(folder, [plan], nodeFiles)
  for (const { name } of plan.tensors) writer.write(name, dataOf(name))
  writer.finish()
  writer.close()
}
