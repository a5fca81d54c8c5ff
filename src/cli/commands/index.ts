import type { Commands } from '../commands.ts'
import { calibrate } from './calibrate.ts'
import { compare } from './compare.ts'
import { convert } from './convert.ts'
import { evalModel } from './eval.ts'
import { listFormats } from './formats.ts'
import { inspect } from './inspect.ts'
import { listMethods } from './methods.ts'
import { quantize } from './quantize.ts'
import { verifyOutput } from './verify.ts'

export const commands: Commands = {
  quantize,
  convert,
  calibrate,
  inspect,
  eval: evalModel,
  verify: verifyOutput,
  compare,
  methods: listMethods,
  formats: listFormats,
}
