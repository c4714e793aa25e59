/** An empty array with room for one element. A push into `[]` reserves room for 17. */
export function roomForOne<T>(): T[] {
  const array: (T | undefined)[] = [undefined]
  array.pop()
  return array as T[]
}
