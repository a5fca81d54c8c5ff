/** Property tests try the same cases in each run, so that a failing run fails again: `TEST_SEED=7 npm test` tries others; `npm run fuzz` always does. */
import fc from 'fast-check'

fc.configureGlobal({ seed: Number(process.env.TEST_SEED ?? 0) })
