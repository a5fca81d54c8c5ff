/** A plan as people and scripts read it (`--dry-run`). */

import { printable } from '../io/printable.ts'
import { gigabytes, type MemoryPlan } from '../memory.ts'
import type { PlannedLinear } from '../plan/linears.ts'
import type { Plan } from '../plan.ts'

const bytesOf = ({ tensors }: PlannedLinear): number => tensors.reduce((sum, { bytes }) => sum + bytes, 0)

const bitsPerWeight = (linear: PlannedLinear): number => (8 * bytesOf(linear)) / (linear.scheme.out * linear.scheme.in)

/** Plain data of what a run would do. */
export const planDocument = (plan: Plan, memory: MemoryPlan, output: string) => ({
  output,
  recipe: plan.recipe,
  architecture: plan.model?.arch ?? null,
  linears: plan.linears.map(linear => {
    const { name, out, in: inputs, bits, symmetric, group, actOrder } = linear.scheme
    return {
      name,
      shape: [out, inputs],
      bits,
      symmetric,
      group,
      actOrder,
      bitsPerWeight: bitsPerWeight(linear),
      bytes: bytesOf(linear),
    }
  }),
  kept: plan.passed,
  warnings: plan.warnings,
  totals: plan.totals,
  memory,
})

export const planTable = (plan: Plan, memory: MemoryPlan, output: string): string => {
  const { linears, passed, warnings, totals, recipe } = plan
  const corrected = linears.filter(({ bias }) => bias).length
  const widest = linears.reduce((width, { name }) => Math.max(width, printable(name).length), 0)
  const rows = linears.map(linear => {
    const { name, out, in: inputs, bits, group } = linear.scheme
    return `${printable(name).padEnd(widest)}  ${`${out} x ${inputs}`.padStart(13)}  ${bits} bits  group ${String(group).padStart(7)}  ${bitsPerWeight(linear).toFixed(3)} bits a weight`
  })
  return [
    ...rows,
    '',
    `${linears.length} linears of ${totals.quantizedWeights} weights at ${totals.bitsPerWeight.toFixed(3)} bits a weight; the whole file ${totals.bitsPerWeightOverall.toFixed(3)}`,
    `${passed.length - corrected} tensors stay as they are${corrected > 0 ? `, ${corrected} biases are corrected` : ''}`,
    `tensor data ${totals.bytesBefore} -> ${totals.bytesAfter} bytes`,
    `memory: about ${gigabytes(memory.peak)} of the ${gigabytes(memory.budget)} that may be used, ${gigabytes(memory.least)} at least`,
    `disk: ${gigabytes(totals.bytesAfter)} for tensors${memory.spillBytes > 0 ? `, ${gigabytes(memory.spillBytes)} of activations in a temporary file meanwhile` : ''}`,
    `method ${recipe.method}, format ${recipe.format}, into ${output}; nothing was written`,
    ...warnings.map(text => `warning: ${printable(text)}`),
  ].join('\n')
}
