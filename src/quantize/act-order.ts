/**
 * Columns in the order of an error-feedback sweep with act-order: the most active first (GPTQ's act-order, arXiv 2210.17323 and its
 * README), because the error of early columns can still be spread over many later ones. Equal activity keeps the natural order.
 * @param diagonal [in]: mean x² of each channel, the Gram matrix's diagonal
 * @returns [in]: sweep position → column
 */
export const actOrder = (diagonal: ArrayLike<number>): Int32Array =>
  Int32Array.from(diagonal, (_, column) => column).sort((a, b) => diagonal[b] - diagonal[a] || a - b)
