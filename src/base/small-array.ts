/** An empty array that has room for its first element alone: what is pushed into `[]` makes room for 17. */
export function roomForOne<T>(): T[] {
  const array: (T | undefined)[] = [undefined]
  array.pop()
  return array as T[]
}
