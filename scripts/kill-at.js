/**
 * Preloaded into a process that is to die: at its n-th file operation that changes the disk it kills itself, before the operation or, where
 * something is written, after half of the bytes. KILL_AT: n, counted from 0; KILL_TORN: 1 for half a write.
 */
import fs from 'node:fs'

const at = Number(process.env.KILL_AT)
const torn = process.env.KILL_TORN === '1'
let calls = 0

for (const name of ['openSync', 'writeSync', 'fsyncSync', 'ftruncateSync', 'renameSync', 'mkdirSync', 'rmSync']) {
  const real = fs[name]
  fs[name] = (...args) => {
    if (calls++ !== at) return real(...args)
    if (torn && name === 'writeSync') real(args[0], args[1], args[2], Math.floor(args[3] / 2), args[4])
    process.kill(process.pid, 'SIGKILL')
    for (;;); // the signal comes at once, but not before the next instruction
  }
}
process.on('exit', () => {
  if (process.env.KILL_COUNT) fs.writeFileSync(process.env.KILL_COUNT, String(calls))
})
