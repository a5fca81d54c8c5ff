import { type ErrorCode, exitCodes } from '../errors.ts'

/** Exit code of an error that nobody foresaw: a bug (EX_SOFTWARE of sysexits.h). */
export const bugExitCode = 70

/** 128 + the signal's number, as shells report it. */
export const signalExitCodes = { SIGINT: 130, SIGTERM: 143 } as const

export type SignalName = keyof typeof signalExitCodes

const failures: Readonly<Record<ErrorCode, string>> = {
  gate: 'a gate failed: the work is done and written, but a limit that was asked for (`--strict`, `--tolerance`) does not hold',
  'bad-option': 'usage: an unknown, contradictory or unused option, or a value out of range',
  'bad-input': 'a bad input file: missing, damaged, or too little calibration text',
  unsupported:
    'cannot do this: an unsupported model, a group that does not divide, or a shape that the format cannot hold',
  exhausted: 'out of memory or disk',
}

/** Every exit code with its name in the JSON error document and its meaning, in rising order. */
export const exitTable: readonly { readonly exitCode: number; readonly name: string; readonly when: string }[] = [
  { exitCode: 0, name: '', when: 'done' },
  ...Object.entries(failures).map(([name, when]) => ({ exitCode: exitCodes[name as ErrorCode], name, when })),
  { exitCode: bugExitCode, name: 'internal', when: 'a bug in quantize; the stack is printed' },
  { exitCode: signalExitCodes.SIGINT, name: 'interrupted', when: 'interrupted (SIGINT, Ctrl-C)' },
  { exitCode: signalExitCodes.SIGTERM, name: 'interrupted', when: 'terminated (SIGTERM)' },
]
