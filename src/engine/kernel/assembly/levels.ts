/**
 * Grids that are tables. The table: i32 `half`, 8 or 128; from byte 16 on f32 borders [2 · half], ascending, filled up with infinity; f32
 * values [2 · half]; u8 codes [2 · half].
 */

const BORDERS: usize = 16

/** How many borders lie below y: the place of its value. */
export function placeOf(y: f32, table: usize): usize {
  let place: usize = 0
  for (let step = <usize>load<i32>(table); step > 0; step >>= 1) {
    if (y > load<f32>(table + ((place + step) << 2), BORDERS - 4)) place += step
  }
  return place
}

function values(table: usize): usize {
  return table + BORDERS + ((<usize>load<i32>(table)) << 3)
}

function codes(table: usize): usize {
  return table + BORDERS + ((<usize>load<i32>(table)) << 4)
}

/** Places of four values, one a lane. */
export function placesOf(y: v128, table: usize): v128 {
  const places = i32x4.splat(<i32>placeOf(f32x4.extract_lane(y, 0), table))
  const one = i32x4.replace_lane(places, 1, <i32>placeOf(f32x4.extract_lane(y, 1), table))
  const two = i32x4.replace_lane(one, 2, <i32>placeOf(f32x4.extract_lane(y, 2), table))
  return i32x4.replace_lane(two, 3, <i32>placeOf(f32x4.extract_lane(y, 3), table))
}

/** The values at four places. */
export function valuesAt(places: v128, table: usize): v128 {
  const at = values(table)
  const first = v128.load32_splat(at + ((<usize>i32x4.extract_lane(places, 0)) << 2))
  const one = f32x4.replace_lane(first, 1, load<f32>(at + ((<usize>i32x4.extract_lane(places, 1)) << 2)))
  const two = f32x4.replace_lane(one, 2, load<f32>(at + ((<usize>i32x4.extract_lane(places, 2)) << 2)))
  return f32x4.replace_lane(two, 3, load<f32>(at + ((<usize>i32x4.extract_lane(places, 3)) << 2)))
}

/** The codes at four places, as integers of 32 bits. */
export function codesAt(places: v128, table: usize): v128 {
  const at = codes(table)
  const first = i32x4.splat(<i32>load<u8>(at + <usize>i32x4.extract_lane(places, 0)))
  const one = i32x4.replace_lane(first, 1, <i32>load<u8>(at + <usize>i32x4.extract_lane(places, 1)))
  const two = i32x4.replace_lane(one, 2, <i32>load<u8>(at + <usize>i32x4.extract_lane(places, 2)))
  return i32x4.replace_lane(two, 3, <i32>load<u8>(at + <usize>i32x4.extract_lane(places, 3)))
}
