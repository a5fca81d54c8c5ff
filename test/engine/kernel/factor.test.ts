import { afterAll, describe, expect, it } from 'vitest'
import { packFactor } from '../../../src/engine/kernel/factor.ts'
import { createKernels } from '../../../src/engine/kernel/pool.ts'
import { factorize } from '../../../src/engine/ort/cholesky.ts'
import { createEngine } from '../../../src/engine/ort/session.ts'
import { inverseOf, permuted, randomFactor, randomGram, reversedPanels, shuffled } from '../../helpers/linears.ts'

const kernels = await createKernels(1)
const engine = await createEngine(2)
afterAll(async () => {
  await kernels.close()
  await engine.release()
})

/** Strips of columns (2s, 2s + 1) hold rows 0 … 2s + 1 as pairs: where element (row, column) lies, in values. */
const placeOf = (row: number, column: number): number => {
  const strip = column >> 1
  return 2 * strip * (strip + 1) + 2 * row + (column & 1)
}

/** U as the sweep finds it. */
const unpacked = (address: number, n: number): Float32Array => {
  // any region shows the buffer that all share
  const probe = kernels.allocate(64)
  const values = new Float32Array(probe.u8().buffer)
  probe.free()
  return Float32Array.from({ length: n * n }, (_, at) => {
    const [row, column] = [Math.floor(at / n), at % n]
    return row > column ? 0 : values[address / 4 + placeOf(row, column)]
  })
}

const sizes = [1, 2, 7, 64, 65, 200]

describe('the packed factor', () => {
  it.each(sizes)('holds the upper triangle of U, n = %i', n => {
    const U = randomFactor(n, n)
    const factor = packFactor(kernels, reversedPanels(U, n))
    expect(factor.size).toBe(n)
    expect(unpacked(factor.address, n)).toEqual(U)
    factor.release()
  })

  it('takes half the bytes of U, and gives them back', () => {
    const held = kernels.held()
    const factor = packFactor(kernels, reversedPanels(randomFactor(200, 1), 200))
    expect(kernels.held() - held).toBeLessThanOrEqual(4 * 200 * 202 * 0.5 + 64)
    factor.release()
    expect(kernels.held()).toBe(held)
  })

  it.each(sizes)('of the engine is the inverse of H in the order of the sweep: UᵀU = H⁻¹, n = %i', async n => {
    const gram = randomGram(n, n + 8, n)
    const order = shuffled(n, 3)
    const damp = 0.01
    const mean = gram.reduce((sum, value, at) => (at % (n + 1) === 0 ? sum + value / n : sum), 0)
    const H = gram.map((value, at) => value + (at % (n + 1) === 0 ? damp * mean : 0))
    const result = await factorize(engine, Float32Array.from(gram), { damp, order })
    const factor = packFactor(kernels, result!.reversedU)
    const U = unpacked(factor.address, n)
    factor.release()
    const exact = inverseOf(permuted(H, n, order), n)
    const largest = exact.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++) {
        let product = 0
        for (let k = 0; k <= Math.min(i, j); k++) product += U[k * n + i] * U[k * n + j]
        if (!(Math.abs(product - exact[i * n + j]) < 1e-4 * largest)) expect(product).toBe(exact[i * n + j])
      }
  })
})
