/** The report of a run that has finished everything else. */
import { join } from 'node:path'
import { filesIn, hashFile } from '../io/whole-file.ts'
import { buildReport } from '../report/build.ts'
import type { Report } from '../report/schema.ts'
import { toolName, version } from '../version.ts'
import type { Known } from './calibrated.ts'
import type { Inputs } from './inputs.ts'
import type { Run } from './linear.ts'

export const reportOf = (
  { plan, source: checkpoint, context, output, weightings, transforms, facts }: Run,
  inputs: Inputs,
  { sample, stats }: Known,
  seconds: number,
): Report => {
  const { files, clock } = context
  const { folder, left } = output
  const { bytesBefore, bytesAfter, weights } = plan.totals
  return buildReport({
    tool: { name: toolName, version },
    recipe: JSON.parse(JSON.stringify(plan.recipe)),
    source: {
      path: checkpoint.path,
      files: [...checkpoint.files],
      tensors: checkpoint.tensors.size,
      bytes: bytesBefore,
      sha256: Object.fromEntries(Object.entries(inputs.model).map(([name, { sha256 }]) => [name, sha256])),
    },
    calibration: sample?.report ?? null,
    statistics:
      sample || stats
        ? {
            of: stats || plan.recipe.rounding === 'nearest' ? 'unquantized model' : 'quantized prefix',
            file: stats?.path ?? null,
            sha256: inputs.stats,
            texts: stats?.facts.texts ?? [],
          }
        : null,
    transforms,
    linears: plan.linears.map(({ name, weight, scheme, tensors }) => ({
      scheme,
      tensor: weight.tensor,
      tensors,
      ...facts.get(name)!,
    })),
    kept: plan.passed
      .filter(({ correctedWith }) => correctedWith === undefined)
      .map(({ name, reason }) => ({ name, reason })),
    corrected: plan.linears.flatMap(({ name: linear, bias }) =>
      bias ? [{ name: bias.name, linear, shift: facts.get(linear)!.correction!.shift }] : [],
    ),
    dropped: [...plan.dropped],
    warnings: [
      ...plan.warnings,
      ...output.notes,
      ...(weightings?.notes ?? []),
      ...(left.length > 0 ? [`not copied into the output: ${left.join(', ')}`] : []),
    ],
    run: { weights, bytesBefore, bytesAfter, seconds, peakMemoryBytes: clock.peakMemoryBytes() },
    outputs: Object.fromEntries(filesIn(folder, files).map(name => [name, hashFile(join(folder, name), files)])),
  })
}
