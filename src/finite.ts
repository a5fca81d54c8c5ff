/** Whether no value is NaN or infinite. (`every` takes five times as long.) */
export const allFinite = (values: Float32Array | Float64Array): boolean => {
  for (let i = 0; i < values.length; i++) if (!Number.isFinite(values[i])) return false
  return true
}
